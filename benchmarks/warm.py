"""Warm figures: CPU of this process per request, through the real handlers, with AWS's answers canned inside botocore.

Nothing is patched in our code: the answers are recorded from the engine at the first call and given back by the HTTP
session of the very clients that the functions use.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from pydantic import TypeAdapter

from benchmarks.events import SAMPLES, ingest_event, webhook_event
from benchmarks.meter import Meter, item_size
from benchmarks.report import Row
from benchmarks.world import Context, World, http_event
from karma.core import aws
from karma.core.ratelimit import Limit

_READS = frozenset({"GetItem", "Query", "BatchGetItem", "GetSecretValue"})


class _Raw:
    """A body that has arrived completely."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        """Yield the body."""
        yield self._content


class CannedSession:
    """A replacement of botocore's HTTP session that asks the engine once for each kind of request."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._known: dict[tuple[str, bytes], tuple[int, dict[str, str], bytes]] = {}

    def send(self, request: Any) -> AWSResponse:
        """Answer from memory."""
        operation = str(request.headers.get("X-Amz-Target", b"")).rpartition(".")[2].rstrip("'")
        body = request.body or b""
        returned = b"ALL_NEW" if b"ALL_NEW" in body else b""  # writes that tell what they wrote, and others
        statements = str(body.count(b'"Statement"')).encode()  # each has an answer of its own
        key = (operation or request.url, body if operation in _READS else returned + statements)
        if key not in self._known:
            answer = self._real.send(request)
            self._known[key] = (answer.status_code, dict(answer.headers), answer.content)
        status, headers, content = self._known[key]
        return AWSResponse(request.url, status, HTTPHeaders.from_dict(headers), _Raw(content))

    def close(self) -> None:
        """Close the real session."""
        self._real.close()


@contextmanager
def canned(*services: str) -> Iterator[None]:
    """Give the process's clients of these services canned answers."""
    endpoints = [aws.client(service)._endpoint for service in services]  # type: ignore[call-overload]  # noqa: SLF001
    for endpoint in endpoints:
        endpoint.http_session = CannedSession(endpoint.http_session)
    try:
        yield
    finally:
        for endpoint in endpoints:
            endpoint.http_session = endpoint.http_session._real  # noqa: SLF001


def cpu_us(run: Callable[[], object], *, times: int, blocks: int = 7) -> list[float]:
    """Return the CPU of one call in microseconds, a value a block; garbage collection is part of it."""
    for _ in range(max(2, times // 10)):
        run()
    found = []
    for _ in range(blocks):
        gc.collect()
        started = time.process_time()
        for _ in range(times):
            run()
        found.append((time.process_time() - started) / times * 1e6)
    return found


def beside(run: Callable[[], object], base: Callable[[], object], *, times: int) -> tuple[float, float]:
    """Return the CPU of both in microseconds, blocks interleaved, the least of each: other processes only ever add."""
    ours, theirs = [], []
    for _ in range(9):
        ours += cpu_us(run, times=times, blocks=1)
        theirs += cpu_us(base, times=times, blocks=1)
    return min(ours), min(theirs)


class _Instant:
    """A client whose calls return at once, so that only the code around them is measured."""

    def put_item(self, **_: object) -> dict[str, object]:
        """Do nothing."""
        return {}

    send_message = put_item


def webhook(world: World) -> list[Row]:
    """Measure verify + store + enqueue relative to the two AWS calls themselves."""
    del world
    from billing_webhook.handler import lambda_handler, services

    services()
    event = webhook_event()
    context = Context()
    with canned("dynamodb", "sqs"):
        if lambda_handler(event, context)["statusCode"] != 200:  # type: ignore[arg-type]
            raise RuntimeError("the webhook refused its event")
        whole = min(cpu_us(lambda: lambda_handler(event, context), times=60))  # type: ignore[arg-type]
    real = {name: aws._clients[name, ""] for name in ("dynamodb", "sqs")}  # noqa: SLF001
    try:
        aws._clients.update({(name, ""): _Instant() for name in real})  # noqa: SLF001
        added = min(cpu_us(lambda: lambda_handler(event, context), times=500))  # type: ignore[arg-type]
    finally:
        aws._clients.update({(name, ""): client for name, client in real.items()})  # noqa: SLF001
    return [
        Row("billing_webhook", "warm: CPU beside the two AWS calls, 4 KB event", f"with them {whole:.0f} us",
            f"{added:.0f} us", "<= 60 us", added <= 60)
    ]  # fmt: skip


def ingest(world: World) -> list[Row]:
    """Measure samples per second of CPU, and the cost of a batch."""
    from device_ingest.handler import lambda_handler, services

    services()
    messages = 10
    event = ingest_event(world, messages=messages)
    with canned("dynamodb"):
        spent = min(cpu_us(lambda: lambda_handler(event, Context()), times=15))  # type: ignore[arg-type]
    rate = messages * SAMPLES / spent * 1e6

    # A process of its own: the one before has used up a portion of each device's hour by its repeats.
    services.cache_clear()
    lambda_handler(ingest_event(world, messages=messages), Context())  # type: ignore[arg-type]
    fresh = ingest_event(world, messages=messages)
    meter = Meter(aws.client("dynamodb"), lookup=world.client("dynamodb"))
    with meter.recording() as used:
        answer = lambda_handler(fresh, Context())  # type: ignore[arg-type]
    if answer["batchItemFailures"]:
        raise RuntimeError("ingest refused telemetry")
    stored_kb = sum(-(-size // 1024) for size in _newest(world, messages))
    limit = stored_kb + messages
    calls = ", ".join(f"{used.calls.count(name)} {name}" for name in dict.fromkeys(used.calls))
    return [
        Row("device_ingest", f"warm: samples a second of CPU ({messages} messages of {SAMPLES})", "",
            f"{rate / 1000:.1f}k/s", ">= 50k/s", rate >= 50_000),
        Row("device_ingest", f"write units of {messages} messages from {messages} devices", f"{stored_kb} KB stored",
            f"{used.write_units:.0f} WRU, {used.read_units:g} RRU", f"<= {limit} WRU", used.write_units <= limit),
        Row("device_ingest", "calls of that batch", "", calls, "", None),
    ]  # fmt: skip


def _newest(world: World, count: int) -> list[int]:
    items = world.client("dynamodb").scan(TableName=world.values["TELEMETRY_TABLE"])["Items"]
    items.sort(key=lambda item: str(item.get("created_at", {}).get("S", "")), reverse=True)
    return [item_size(item) for item in items[:count]]


class _Frozen:
    """A service that repeats its first answer of each method, so that only the API around it is measured."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        answer = None
        method = getattr(self._real, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal answer
            if answer is None:
                answer = method(*args, **kwargs)
            return answer

        setattr(self, name, call)
        return call


def api(world: World) -> list[Row]:
    """Measure the API around its services: a list of 20 devices and a POST, beside a bare handler with its models."""
    from api.handler import lambda_handler
    from benchmarks import stock
    from karma.devices.answers import CreatedDeviceData, DeviceListData
    from karma.devices.schemas import CreateDeviceRequest

    created, listed = TypeAdapter(CreatedDeviceData), TypeAdapter(DeviceListData)

    authorization = {"authorization": f"Bearer {world.tokens[0]}"}
    listing = http_event("GET", "/api/v1/devices", headers=authorization)
    body = {
        "name": "New", "model": "EOS-3B", "mac": "AA:BB:CC:00:22:01", "serial_number": "EOS-BENCH-NEW",
        "location": {"room": "1"}, "tags": ["a", "b"],
    }  # fmt: skip
    creating = http_event("POST", "/api/v1/devices", body=json.dumps(body).encode(), headers=authorization)
    with _frozen_reads():
        shown = _data(lambda_handler(listing, Context()))
        made = _data(lambda_handler(creating, Context()))

        def bare_list() -> bytes:
            valid = listed.validate_python(shown)
            return b'{"success":true,"data":%b,"timestamp":1}' % listed.dump_json(valid)

        def bare_create() -> bytes:
            CreateDeviceRequest.model_validate_json(creating["body"])
            valid = created.validate_python(made)
            return b'{"success":true,"data":%b,"timestamp":1}' % created.dump_json(valid)

        for event in (listing, creating):
            _data(stock.lambda_handler(event, Context()))
        get, get_bare = beside(lambda: lambda_handler(listing, Context()), bare_list, times=150)
        post, post_bare = beside(lambda: lambda_handler(creating, Context()), bare_create, times=150)
        own_get, stock_get = beside(
            lambda: lambda_handler(listing, Context()), lambda: stock.lambda_handler(listing, Context()), times=150
        )
        own_post, stock_post = beside(
            lambda: lambda_handler(creating, Context()), lambda: stock.lambda_handler(creating, Context()), times=150
        )
        for event in (listing, creating):  # a refusal is another path, and what was measured was none
            _data(lambda_handler(event, Context()))
    return [
        Row("api", "warm: authenticated GET of 20 devices, CPU", f"bare + pydantic {get_bare:.0f} us",
            f"{get:.0f} us, {get / get_bare:.1f}x", "<= 3.2x", get / get_bare <= 3.2),
        Row("api", "warm: authenticated POST of a device, CPU", f"bare + pydantic {post_bare:.0f} us",
            f"{post:.0f} us, {post / post_bare:.1f}x", "<= 13x", post / post_bare <= 13),
        Row("api", "warm: that GET beside stock FastAPI + Mangum, CPU", f"stock {stock_get:.0f} us",
            f"{own_get:.0f} us, {own_get / stock_get:.2f}x", "<= .6x", own_get / stock_get <= 0.6),
        Row("api", "warm: that POST beside stock FastAPI + Mangum, CPU", f"stock {stock_post:.0f} us",
            f"{own_post:.0f} us, {own_post / stock_post:.2f}x", "<= .6x", own_post / stock_post <= 0.6),
        Row("api", "warm: that GET a second of CPU, without I/O", "", f"{1e6 / get:.0f}/s", ">= 8000/s",
            1e6 / get >= 8000),
    ]  # fmt: skip


@contextmanager
def _frozen_reads() -> Iterator[None]:
    """Answer devices, the plan and the account as they were first read; a caller's token is verified each time.

    Requests are counted, by limits that none of them reaches, and in this process where others count in DynamoDB.
    """
    from api.services import billing, devices, identity

    authenticator, throttle = identity.authenticator(), identity.throttle()
    rules = vars(throttle)["_rules"]
    vars(throttle)["_rules"] = {
        name: replace(rule, stored=False, limits={plan: _boundless(limit) for plan, limit in rule.limits.items()})
        for name, rule in rules.items()
    }
    users, service, allowances = vars(authenticator)["_users"], devices.service, billing.allowances
    frozen_service, frozen_allowances = _Frozen(service()), _Frozen(allowances())
    vars(authenticator)["_users"] = _Frozen(users)
    devices.service = lambda: frozen_service  # type: ignore[assignment]
    billing.allowances = lambda: frozen_allowances  # type: ignore[assignment]
    try:
        yield
    finally:
        devices.service, billing.allowances = service, allowances
        vars(authenticator)["_users"] = users
        vars(throttle)["_rules"] = rules


def _boundless(limit: Limit) -> Limit:
    return replace(limit, amount=1_000_000_000)


def _data(answer: dict[str, Any]) -> Any:
    if answer["statusCode"] >= 300:
        raise RuntimeError(str(answer))
    return json.loads(answer["body"])["data"]

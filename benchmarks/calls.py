"""Measures the DynamoDB calls and units of each route, with tables of any size.

    python -m benchmarks.calls                        write docs/calls.md
    python -m benchmarks calls --items 100000         measure among that many

The API's own handler runs against DynamoDB Local; units are computed by meter.py. One user owns everything that the
lists show: a few rows are made by the routes and functions themselves, and the rest are copies of them under other
keys, so that a table of `items` items has the sizes of real ones.

One file of more than 450 lines: the plan of the routes, the account that they need and the copies that make a table
large are read together, since each figure depends on all three.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import botocore.session
from botocore.config import Config

from benchmarks.dynamodb_local import dynamodb_local
from benchmarks.meter import Meter
from benchmarks.report import Row
from benchmarks.world import INDEXED, Context, World, http_event, seeded, table_shape
from karma.agents.domain import MODELS
from karma.core import aws
from karma.core.clock import epoch_ms
from karma.core.ids import UserId, new_id

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, DESCRIPTION = DOCS / "calls.md", DOCS / "openapi.json"
REWRITE = "python -m benchmarks.calls"
ITEMS = 100
"""Items of each table while docs/calls.md is measured; with more, the numbers are the same."""

_LIMIT = 5
_BATCH = 25
_BATCHES_SHOWN = 100
"""Stored batches from an hour before the range that is read to its end: a message every 72 s."""

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """Calls and units of one route."""

    route: str
    calls: tuple[str, ...]
    read_units: float
    write_units: float


class _Step(NamedTuple):
    """A request to measure, with the name of its route."""

    route: str
    method: str
    path: str
    query: Mapping[str, object] = {}
    body: object = None


@contextmanager
def on_dynamodb_local(tables: Mapping[str, str]) -> Iterator[Any]:
    """Let this process's functions use DynamoDB Local, with tables of these names.

    Yields a separate client, which is not measured.

    Args:
        tables: table name by short name (`devices`).

    Raises:
        DynamoDbLocalMissing: DynamoDB Local, or Java 17, is not installed.
    """
    variable = "AWS_ENDPOINT_URL_DYNAMODB"
    with dynamodb_local() as url:
        before = os.environ.get(variable)
        os.environ[variable] = url
        aws.reset()
        config = Config(parameter_validation=False, retries={"total_max_attempts": 3}, read_timeout=30)
        client: Any = botocore.session.Session().create_client("dynamodb", config=config)
        try:
            for name, table in tables.items():
                client.create_table(TableName=table, **table_shape(indexed=name in INDEXED))
            yield client
        finally:
            client.close()
            aws.reset()
            if before is None:
                del os.environ[variable]
            else:
                os.environ[variable] = before


class Rows:
    """One user's data: `fill` adds to it, `costs` measures the routes."""

    def __init__(self, client: Any, tables: Mapping[str, str], serve: Callable[[Attributes, Any], Attributes]) -> None:
        """Make the first rows; `serve` is the API's handler."""
        self._client = client
        self._tables = tables
        self._serve = serve
        self._headers: dict[str, str] = {}
        self._filled = 0
        self._number = itertools.count()
        self._day = (datetime.now(UTC) - timedelta(days=2)).replace(hour=0, minute=0, second=0, microsecond=0)
        self._first = _First()
        self._make()

    def fill(self, items: int) -> None:
        """Let each table have about that many items; never fewer than before."""
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(self._write, _packets(self._copies(self._filled, items))):
                pass
        self._filled = items
        self._count(items)

    def costs(self) -> list[Cost]:
        """Measure every route."""
        meter = Meter(aws.client("dynamodb"), lookup=self._client)
        found: list[Cost] = []
        for step in self._reads():
            self.call(step)  # from here on the caller is cached, as it is for a minute in a warm process
            found.append(self._measure(meter, step)[0])
        found += self._changes(meter)
        return found

    def filtered(self) -> Cost:
        """Measure the only kind of list that reads items which it does not show: up to 1,000 devices."""
        step = _Step("GET /devices?status=offline", "GET", "/api/v1/devices", {"limit": _LIMIT, "status": "offline"})
        return self._measure(Meter(aws.client("dynamodb"), lookup=self._client), step)[0]

    def call(self, step: _Step) -> Any:
        """Send one request; returns `data` of the answer."""
        body = None if step.body is None else json.dumps(step.body).encode()
        event = http_event(step.method, step.path, body=body, headers=self._headers, query=urlencode(step.query))
        with contextlib.redirect_stdout(io.StringIO()):
            answer = self._serve(event, Context())
        if answer["statusCode"] >= 300:
            raise RuntimeError(f"{step.method} {step.path}: {answer['statusCode']} {answer.get('body')}")
        shown = json.loads(answer.get("body") or "{}")
        return shown.get("data", shown)

    def _measure(self, meter: Meter, step: _Step) -> tuple[Cost, Any]:
        self._cache_caller()
        with meter.recording() as spent:
            data = self.call(step)
        return Cost(step.route, tuple(spent.calls), spent.read_units, spent.write_units), data

    def _cache_caller(self) -> None:
        """Cache the caller again: an older entry could expire during a measurement."""
        from api.services import identity

        identity.authenticator().forget(UserId(self._first.user_id))
        self.call(_Step("", "GET", "/api/v1/users/me"))

    def _reads(self) -> Iterator[_Step]:
        first, v1 = self._first, "/api/v1"
        device = f"{v1}/devices/{first.device_id}"
        yield _Step("GET /users/me", "GET", f"{v1}/users/me")
        yield _Step("GET /api-keys", "GET", f"{v1}/api-keys")
        yield from self._list("GET /devices", f"{v1}/devices", {})
        yield from self._list("GET /devices?sort=name", f"{v1}/devices", {"sort": "name"})
        yield _Step("GET /devices/{id}", "GET", device)
        yield _Step("GET /devices/{id}/latest", "GET", f"{device}/latest")
        start = self._day + timedelta(hours=10)
        span = {"from": start.isoformat(), "to": (start + timedelta(hours=1)).isoformat(), "metric": "temp_c"}
        yield from self._list("GET /devices/{id}/telemetry, an hour", f"{device}/telemetry", span)
        yield from self._list("GET /devices/{id}/commands", f"{device}/commands", {})
        yield _Step("GET /devices/{id}/commands/{id}", "GET", f"{device}/commands/{first.command_id}")
        yield from self._list("GET /devices/{id}/dead-letters", f"{device}/dead-letters", {})
        yield from self._list("GET /agents", f"{v1}/agents", {})
        yield _Step("GET /api/agents", "GET", "/api/agents", {"limit": _LIMIT})
        yield _Step("GET /agents/{id}", "GET", f"{v1}/agents/{first.agent_id}")
        yield from self._list("GET /runs", f"{v1}/runs", {})
        yield _Step("GET /api/runs", "GET", "/api/runs", {"limit": _LIMIT})
        yield _Step("GET /runs/{id}", "GET", f"{v1}/runs/{first.run_id}")
        yield _Step("GET /runs/{id}/events", "GET", f"{v1}/runs/{first.run_id}/events", {"limit": _LIMIT})
        yield from self._list("GET /threads", f"{v1}/threads", {})
        yield _Step("GET /config", "GET", f"{v1}/config")
        yield _Step("GET /config/{name}", "GET", f"{v1}/config/{_CONFIGURED}")
        yield from self._list("GET /config/{name}/history", f"{v1}/config/{_CONFIGURED}/history", {})
        yield from self._list("GET /notices", f"{v1}/notices", {})
        yield from self._list("GET /notices?unread=true", f"{v1}/notices", {"unread": "true"})
        yield from self._list("GET /tasks", f"{v1}/tasks", {})
        yield _Step("GET /tasks/{id}", "GET", f"{v1}/tasks/{first.task_id}")
        yield _Step("GET /tasks/{id}/subtasks", "GET", f"{v1}/tasks/{first.task_id}/subtasks")
        yield from self._list("GET /avatars", f"{v1}/avatars", {})
        yield _Step("GET /avatars/{id}", "GET", f"{v1}/avatars/{first.avatar_id}")
        yield _Step("GET /projects/{id}", "GET", f"{v1}/projects/{first.project_id}")
        yield _Step("GET /plans", "GET", f"{v1}/plans")
        yield _Step("GET /subscriptions/current", "GET", f"{v1}/subscriptions/current")
        yield _Step("GET /usage", "GET", f"{v1}/usage")
        yield from self._list("GET /billing/inbox", f"{v1}/billing/inbox", {})

    def _list(self, route: str, path: str, query: Mapping[str, object]) -> Iterator[_Step]:
        page = _Step(route, "GET", path, {**query, "limit": _LIMIT})
        yield page
        cursor = self.call(page)["next_cursor"]
        yield _Step(f"{route}, next page", "GET", path, {**page.query, "cursor": cursor})

    def _changes(self, meter: Meter) -> Iterator[Cost]:
        devices = "/api/v1/devices"
        cost, made = self._measure(meter, _Step("POST /devices", "POST", devices, body=self._device()))
        yield cost
        device = f"{devices}/{made['device']['id']}"
        yield self._measure(meter, _Step("PATCH /devices/{id}", "PATCH", device, body={"name": "Renamed device"}))[0]
        step = _Step("POST /devices/{id}/commands", "POST", f"{device}/commands", body=_COMMAND)
        cost, sent = self._measure(meter, step)
        yield cost
        command = f"{device}/commands/{sent['command']['id']}"
        yield self._measure(meter, _Step("DELETE /devices/{id}/commands/{id}", "DELETE", command))[0]
        yield self._measure(meter, _Step("DELETE /devices/{id}", "DELETE", device))[0]
        cost, made = self._measure(meter, _Step("POST /agents", "POST", "/api/v1/agents", body=self._agent()))
        yield cost
        agent, changed = f"/api/v1/agents/{made['agent']['id']}", {**self._agent(), "description": "Changed"}
        yield self._measure(meter, _Step("PUT /agents/{id}", "PUT", agent, body=changed))[0]
        yield self._measure(meter, _Step("DELETE /agents/{id}", "DELETE", agent))[0]
        config = f"/api/v1/config/{_CONFIGURED}"
        for enabled in (False, True):  # the next filling finds it as this one did
            step = _Step("PUT /config/{name}", "PUT", config, body={"config": {"enabled": enabled}})
            cost, _ = self._measure(meter, step)
        yield cost
        read = f"/api/v1/notices/{self._first.notice_id}/read"
        yield self._measure(meter, _Step("POST /notices/{id}/read, again", "POST", read))[0]
        yield from self._changes_of_work(meter)

    def _changes_of_work(self, meter: Meter) -> Iterator[Cost]:
        cost, made = self._measure(meter, _Step("POST /tasks, with two parts", "POST", "/api/v1/tasks", body=_TASK))
        yield cost
        task, part = f"/api/v1/tasks/{made['task']['id']}", made["subtasks"][0]["id"]
        yield self._measure(meter, _Step("PATCH /tasks/{id}", "PATCH", task, body={"title": "Other work"}))[0]
        step = _Step(
            "PATCH /tasks/{id}/subtasks/{id}", "PATCH", f"{task}/subtasks/{part}", body={"status": "in_progress"}
        )
        yield self._measure(meter, step)[0]
        yield self._measure(meter, _Step("DELETE /tasks/{id}", "DELETE", task))[0]
        cost, made = self._measure(meter, _Step("POST /avatars", "POST", "/api/v1/avatars", body=_AVATAR))
        yield cost
        avatar = f"/api/v1/avatars/{made['avatar']['id']}"
        yield self._measure(meter, _Step("PATCH /avatars/{id}", "PATCH", avatar, body={"name": "Moss"}))[0]
        yield self._measure(meter, _Step("DELETE /avatars/{id}", "DELETE", avatar))[0]
        cost, made = self._measure(meter, _Step("POST /projects", "POST", "/api/v1/projects", body=_PROJECT))
        yield cost
        project = f"/api/v1/projects/{made['project']['id']}"
        yield self._measure(meter, _Step("PATCH /projects/{id}", "PATCH", project, body={"progress": 50}))[0]
        yield self._measure(meter, _Step("DELETE /projects/{id}", "DELETE", project))[0]

    # The first row of each kind, made as users, devices and Stripe make them.

    def _make(self) -> None:
        from karma.identity.domain import Role

        who = {"email": "calls@example.com", "password": "Bench-marks-are-9-fine"}
        registered = self.call(_Step("", "POST", "/api/v1/auth/register", body={**who, "name": "Calls"}))
        user_id = self._first.user_id = registered["user"]["id"]
        self._client.update_item(
            TableName=self._tables["identity"],
            Key={"pk": {"S": f"USER#{user_id}"}, "sk": {"S": "PROFILE"}},
            UpdateExpression="SET #r = :r",
            ExpressionAttributeNames={"#r": "role"},
            ExpressionAttributeValues={":r": {"S": Role.ADMIN.value}},
        )
        token = self.call(_Step("", "POST", "/api/v1/auth/login", body=who))["access_token"]
        self._headers = {"authorization": f"Bearer {token}"}
        made = self.call(_Step("", "POST", "/api/v1/devices", body=self._device()))
        self._first.device_id = made["device"]["id"]
        self._first.serial = made["device"]["serial_number"]
        self._first.certificate_id = made["credentials"]["certificate_id"]
        commands = f"/api/v1/devices/{self._first.device_id}/commands"
        self._first.command_id = self.call(_Step("", "POST", commands, body=_COMMAND))["command"]["id"]
        made = self.call(_Step("", "POST", "/api/v1/agents", body=self._agent()))
        self._first.agent_id = made["agent"]["id"]
        self._first.task_id = self.call(_Step("", "POST", "/api/v1/tasks", body=_TASK))["task"]["id"]
        self._first.avatar_id = self.call(_Step("", "POST", "/api/v1/avatars", body=_AVATAR))["avatar"]["id"]
        self._first.project_id = self.call(_Step("", "POST", "/api/v1/projects", body=_PROJECT))["project"]["id"]
        self._configure()
        self._notify()
        self._tell()
        self._run()
        self._subscribe()
        for name, table in self._tables.items():
            self._first.items[name] = self._client.scan(TableName=table)["Items"]

    def _device(self) -> dict[str, object]:
        number = next(self._number)
        return {
            "name": "Greenhouse",
            "model": "EOS-3A",
            "mac": "AA:BB:CC:00:11:22",
            "serial_number": f"EOS-CALLS-{number:06d}",
            "location": {"building": "North", "room": "1"},
            "tags": ["greenhouse", "north"],
        }

    def _agent(self) -> dict[str, object]:
        return {
            "name": f"greenhouse keeper {next(self._number)}",
            "model": MODELS[0],
            "system_prompt": "You keep greenhouses. " * 100,
            "description": "Keeps the greenhouses of the north warm, and says what it did. " * 5,
            "tools": ["searchDatabase", "controlDevice"],
            "tags": ["greenhouse"],
        }

    def _configure(self) -> None:
        for number in range(2 * _LIMIT):
            body = {"config": {"description": f"Moves what is there to be moved, for the {number}th time. " * 5}}
            self.call(_Step("", "PUT", f"/api/v1/config/{_CONFIGURED}", body=body))

    def _notify(self) -> None:
        from karma.core.dynamo.transaction import Transaction
        from karma.notices.domain import Notice, NoticeType
        from karma.notices.transactional import add_notice

        now, tx = datetime.now(UTC), Transaction()
        made = [
            Notice(user_id=UserId(self._first.user_id), type=NoticeType.SESSIONS_ENDED, created_at=now)
            for _ in range(2 * _LIMIT)
        ]
        for notice in made:
            add_notice(tx, notice)
        tx.commit()
        self._first.notice_id = made[0].id
        self.call(_Step("", "POST", f"/api/v1/notices/{made[0].id}/read"))

    def _tell(self) -> None:
        from device_ingest.handler import lambda_handler

        start = epoch_ms(self._day + timedelta(hours=9))
        bodies: list[tuple[str, object]] = [
            ("telemetry", _telemetry(start + 72_000 * seq, seq)) for seq in range(_BATCHES_SHOWN)
        ]
        bodies += [
            ("heartbeat", {"boot": "calls", "seq": 1, "ts": 1, "ip": "192.0.2.1", "firmware_version": "1.2.3"}),
            ("telemetry", "no batch"),
        ]
        received = epoch_ms(datetime.now(UTC))
        for some in _tens(bodies):
            records = [
                {
                    "messageId": new_id(),
                    "body": json.dumps(
                        {
                            "payload_b64": base64.b64encode(json.dumps(body).encode()).decode(),
                            "topic": f"dt/karma/{self._first.serial}/{kind}",
                            "principal": self._first.certificate_id,
                            "received_ms": received,
                        }
                    ),
                }
                for kind, body in some
            ]
            with contextlib.redirect_stdout(io.StringIO()):
                answer = lambda_handler({"Records": records}, Context())  # type: ignore[arg-type]
            if answer["batchItemFailures"]:
                raise RuntimeError("ingest refused messages")

    def _run(self) -> None:
        from karma.agents.domain import BUILT_IN_ID
        from karma.conversations.domain import Thread, ThreadKey
        from karma.core.ids import RunId, ThreadId
        from karma.runs.domain import Run, RunKey, RunStatus, Segment
        from karma.runs.repository import RunRepository

        now, user_id = datetime.now(UTC), UserId(self._first.user_id)
        run_id, thread_id = RunId(new_id()), ThreadId(new_id())
        self._first.run_id, self._first.thread_id, key = run_id, thread_id, RunKey(user_id, run_id)
        event = json.dumps({"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "x" * 40}).encode()
        RunRepository().start(
            Run(
                key=key,
                thread_id=thread_id,
                status=RunStatus.RUNNING,
                model="model",
                created_at=now,
                agent_id=BUILT_IN_ID,
                agent_version=1,
            ),
            thread=Thread(key=ThreadKey(user_id, thread_id)),
            segment=Segment(key=key, n=1, writer=new_id(), epoch=1, lease_until=now, events=(event,) * 5),
            messages=(),
        )

    def _subscribe(self) -> None:
        from karma.billing.arrival import Arrival
        from karma.billing.domain import Subscription, SubscriptionStatus
        from karma.billing.plans import PlanName
        from karma.billing.ports import Row as Seen
        from karma.billing.repository.arrivals import ArrivalRepository
        from karma.billing.repository.subscriptions import SubscriptionRepository

        now = datetime.now(UTC)
        body = json.dumps({"type": "customer.subscription.updated", "data": {"object": {"metadata": "x" * 2000}}})
        for event_id in ("evt_handled", self._first.event_id):
            arrival = Arrival(event_id, "customer.subscription.updated", body)
            ArrivalRepository().store(arrival, received_at=now, due_at=now)
        subscription = Subscription(
            user_id=UserId(self._first.user_id),
            plan=PlanName.PRO,
            status=SubscriptionStatus.ACTIVE,
            stripe_status="active",
            current_period_start=now,
            current_period_end=now + timedelta(days=30),
            stripe_subscription_id="sub_calls",
            stripe_customer_id="cus_calls",
            stripe_created=now,
        )
        SubscriptionRepository().save(
            subscription.user_id, subscription, seen=Seen(), event_id="evt_handled", at=now, note="calls"
        )

    # Copies.

    def _copies(self, low: int, high: int) -> Iterator[tuple[str, Attributes]]:
        """Yield the copies for positions `low` to `high` of each table, as (table, item)."""
        first = self._first
        for number in range(low, high):
            yield from self._copies_in_telemetry(number)
            yield "billing", first.copy("billing", first.event_id, f"{first.event_id[:-9]}{number:09d}")
            if number % 2 == 0:
                yield "agents", self._segment(number // 2 + 2)
                yield from first.family("identity", f"USER#{first.user_id}", {first.user_id: new_id()})
            if number % 4 == 0:
                moment = epoch_ms(datetime.now(UTC))
                yield from first.family("agents", f"AGENT#{first.agent_id}", {first.agent_id: new_id()})
                yield from first.family("agents", f"#{first.run_id}", {first.run_id: new_id()}, beside="SEG#")
                yield from first.family("agents", f"#{first.thread_id}", {first.thread_id: new_id()})
                yield "devices", first.copy("devices", first.command_id, new_id(), sort="CMD#")
                yield "devices", self._letter(moment - number)
            if number % 8 == 0:
                changed = {first.device_id: new_id(), first.serial: f"EOS-CLONE-{number:06d}"}
                yield from first.family("devices", f"DEVICE#{first.device_id}", changed)
                yield from first.family("devices", f"THING#{first.serial}", changed)
                yield from first.family("agents", f"AVATAR#{first.avatar_id}", {first.avatar_id: new_id()})
                yield from first.family("work", f"PROJECT#{first.project_id}", {first.project_id: new_id()})
                yield from first.family("work", f"TASK#{first.task_id}", {first.task_id: new_id()})

    def _copies_in_telemetry(self, number: int) -> Iterator[tuple[str, Attributes]]:
        if number < _BATCHES_SHOWN:
            return  # stand there already
        item = self._first.items["telemetry"][number % _BATCHES_SHOWN]
        day = f"{self._day - timedelta(days=1 + number // _BATCHES_SHOWN):%Y-%m-%d}"
        yield "telemetry", {**item, "pk": {"S": f"DEV#{self._first.device_id}#{day}"}}

    def _segment(self, n: int) -> Attributes:
        item = self._first.of("agents", "SEG#")
        return {**item, "sk": {"S": f"SEG#{n:08d}"}}

    def _letter(self, received_ms: int) -> Attributes:
        item = self._first.of("devices", "DEAD#")
        return {**item, "sk": {"S": f"DEAD#{received_ms:013d}#{new_id()[-16:]}"}}

    def _write(self, packet: list[tuple[str, Attributes]]) -> None:
        asked: dict[str, Any] = {}
        for name, item in packet:
            asked.setdefault(self._tables[name], []).append({"PutRequest": {"Item": item}})
        while asked:
            asked = self._client.batch_write_item(RequestItems=asked)["UnprocessedItems"]

    def _count(self, items: int) -> None:
        """Set the counters, since the router, which would update them, does not run here."""
        counters = (
            ("devices", "COUNTER#devices", "device_counter", items // 8),
            ("agents", "COUNTER#runs", "run_counter", items // 4),
            ("agents", "COUNTER#avatars", "avatar_counter", items // 8),
            ("work", "COUNTER#tasks", "task_counter", items // 8),
        )
        for table, sk, kind, value in counters:
            owner = {"avatar_counter": "AVATARS", "task_counter": "TASKS"}.get(kind, "USER")
            item = {"pk": {"S": f"{owner}#{self._first.user_id}"}, "sk": {"S": sk}, "type": {"S": kind}}
            numbers = {"value": {"N": str(value)}, "schema": {"N": "1"}, "version": {"N": "1"}}
            self._client.put_item(TableName=self._tables[table], Item={**item, **numbers})


_CONFIGURED = "controlDevice"
_TASK = {
    "title": "Water the plants",
    "description": "Those of the north first, then the others; not those that were watered today. " * 3,
    "subtasks": [
        {"title": "Find the dry ones", "ref": "find", "description": "By their sensors. " * 10},
        {"title": "Water them", "dependencies": ["find"], "description": "As long as they are dry. " * 10},
    ],
}
_AVATAR = {
    "name": "Fern",
    "role": "gardener",
    "description": "Keeps plants alive. " * 10,
    "skills": ["watering"],
    "system_prompt": "You keep plants alive. " * 20,
}
_PROJECT = {"name": "Greenhouse", "description": "All that grows in the north. " * 10}
_COMMAND = {"command": "set_temperature", "params": {"celsius": 21.5}, "ttl_s": 3600}


@dataclass
class _First:
    """Ids of the rows that are copied, and the rows as stored."""

    user_id: str = ""
    device_id: str = ""
    serial: str = ""
    certificate_id: str = ""
    command_id: str = ""
    agent_id: str = ""
    run_id: str = ""
    thread_id: str = ""
    notice_id: str = ""
    task_id: str = ""
    avatar_id: str = ""
    project_id: str = ""
    event_id: str = "evt_calls_000000000"
    items: dict[str, list[Attributes]] = field(default_factory=dict)

    def of(self, table: str, sort: str) -> Attributes:
        """Return the row whose sort key begins with `sort`."""
        return next(item for item in self.items[table] if item["sk"]["S"].startswith(sort))

    def copy(self, table: str, old: str, new: str, *, sort: str = "") -> Attributes:
        """Copy the row that has an id in its key."""
        found = (item for item in self.items[table] if old in item["pk"]["S"] + item["sk"]["S"])
        copied: Attributes = _renamed(next(item for item in found if item["sk"]["S"].startswith(sort)), {old: new})
        return copied

    def family(
        self, table: str, key: str, changed: Mapping[str, str], *, beside: str = "-"
    ) -> Iterator[tuple[str, Attributes]]:
        """Copy all rows with `key` in their key, except those whose sort key begins with `beside`."""
        for item in self.items[table]:
            sk = item["sk"]["S"]
            if key in f"{item['pk']['S']}|{sk}" and not sk.startswith((beside, "SESSION#")):
                yield table, _renamed(item, changed)


def _renamed(value: Any, changed: Mapping[str, str]) -> Any:
    """Replace texts everywhere in an item."""
    if isinstance(value, dict):
        return {name: _renamed(each, changed) for name, each in value.items()}
    if isinstance(value, str):
        for old, new in changed.items():
            value = value.replace(old, new)
    return value


def _telemetry(start_ms: int, seq: int) -> dict[str, object]:
    samples = [{"ts": start_ms + 7_001 * n, "m": {"temp_c": 21.25, "rh_pct": 40.5}} for n in range(10)]
    return {"boot": "calls", "seq": seq, "samples": samples}


def _tens(bodies: list[tuple[str, object]]) -> Iterator[list[tuple[str, object]]]:
    for at in range(0, len(bodies), 10):
        yield bodies[at : at + 10]


def _packets(items: Iterable[tuple[str, Attributes]]) -> Iterator[list[tuple[str, Attributes]]]:
    rest = iter(items)
    while packet := list(itertools.islice(rest, _BATCH)):
        yield packet


def limit_of(cost: Cost) -> int:
    """Return the calls that a route may make: two for a read, one more for an order that needs an index."""
    return 3 if "sort=name" in cost.route else 2


def page(costs: Sequence[Cost]) -> str:
    """Render docs/calls.md."""
    left_out = [f"- {group}: {_LEFT_OUT.get(group, 'nobody has measured it yet')}." for group in unmeasured(costs)]
    rows = [f"| {cost.route} | {_shown(cost.calls)} | {cost.read_units:g} | {cost.write_units:g} |" for cost in costs]
    table = ["| route | DynamoDB calls | RRU | WRU |", "| --- | --- | --- | --- |", *rows]
    return "\n".join([_INTRODUCTION, *left_out, "", *table, ""])


def unmeasured(costs: Iterable[Cost]) -> list[str]:
    """Return the groups of docs/openapi.json none of whose routes is measured, in alphabetical order."""
    measured = {_template(cost.route) for cost in costs}
    groups: dict[str, bool] = {}
    for path, operations in json.loads(DESCRIPTION.read_text())["paths"].items():
        for method, operation in operations.items():
            [group] = operation["tags"]
            groups[group] = groups.get(group, False) or _template(f"{method.upper()} {path}") in measured
    return sorted(group for group, has_one in groups.items() if not has_one)


def _template(route: str) -> str:
    """Return method and path of a route, without its version, the names of its parameters and what follows it."""
    return re.sub(r"\{\w+\}", "{}", re.split("[,?]", route)[0].replace(" /api/v1/", " /"))


def _shown(calls: tuple[str, ...]) -> str:
    counted = ((calls.count(name), name) for name in dict.fromkeys(calls))
    return ", ".join(f"{times} {name}" if times > 1 else name for times, name in counted) or "none"


_INTRODUCTION = f"""\
# What routes cost in DynamoDB

Written by `{REWRITE}`; `tests/integration/benchmarks/test_calls.py` fails when it is stale, when a number is not
the same among 100 and among 10,000 items a table, or when a read makes more than two calls (three with `sort=name`, see
docs/adr/0005-device-data.md). `python -m benchmarks calls --items 100000` measures among more.

The caller is cached, as for a minute in a warm process; for a change it is read anew (docs/adr/0032-fresh-proof.md).
Lists show {_LIMIT} rows of about 1 KB. Units are computed from item sizes by AWS's rules (`benchmarks/meter.py`).

The table has what clients ask most often: the list of each kind, one of it, its creation, change and deletion.
Left out are routes of the same kind as one that is there: those of `/api` that answer as their twin of `/api/v1`
does, members and invitations of projects, changes of accounts and keys, and what administrators do with single
events and customers. What each function may call at all is in `tests/infra/golden/calls.json`.

Not in the table, because its cost does grow: a list of devices by filter, by offset, or in an order other than by age
or name reads up to 1,000 devices of its owner, 110 KB a hundred (docs/adr/0005-device-data.md). Lists of agents by tag
and of runs by agent count up to 1,000 rows for their `total` when it is more than a page, in one Query beside the
page's own (docs/adr/0010-agent-catalogue.md); so do lists of tasks by status, of projects and of their members.
A list of threads by words or by agent looks at up to 500 of them.

No route of these groups is measured:
"""

_LEFT_OUT = {
    "about": "it reads nothing",
    "audit": "a list as that of notices, which is read when something is looked into",
    "auth": "a login or a registration takes a password's hash or a mail, next to which its calls are little",
    "files": "docs/adr/0009-files.md has the calls of each; their bytes in S3 cost more",
    "health": "it asks each service once, and is asked by monitors",
    "models": "the configuration, which each process keeps for half a minute",
    "realtime": "one ticket a connection",
}
"""Reasons for measuring none of a group's routes, by the group's name in docs/openapi.json."""


def rows(world: World, items: int = ITEMS) -> list[Row]:
    """Measure among `items` items a table, for the table of all benchmarks."""
    found = []
    for cost in measure(world.values, items):
        reads = cost.route.startswith("GET")
        shown = f"{_shown(cost.calls)}; {cost.read_units:g} RRU, {cost.write_units:g} WRU"
        limit = limit_of(cost)
        found.append(
            Row(
                "api", f"calls: {cost.route}", f"{items} items a table", shown,
                f"<= {limit} calls" if reads else "", len(cost.calls) <= limit if reads else None,
            )
        )  # fmt: skip
    return found


def measure(values: Mapping[str, str], items: int) -> list[Cost]:
    """Measure in this process, whose environment is the API's; `values` has the tables' names."""
    from api.handler import lambda_handler

    tables = {name.removesuffix("_TABLE").lower(): table for name, table in values.items() if name.endswith("_TABLE")}
    with on_dynamodb_local(tables) as client:
        mine = Rows(client, tables, lambda_handler)
        mine.fill(items)
        return mine.costs()


def main() -> int:
    """Write the page."""
    with seeded() as world:
        PAGE.write_text(page(measure(world.values, ITEMS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

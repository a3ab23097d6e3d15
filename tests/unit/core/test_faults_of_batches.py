"""Every exception class of botocore, met by every consumer of a batch: what failed comes again, and nothing crashes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import botocore.exceptions
import orjson
import pytest
from botocore.client import BaseClient

from background import deletion, files, inbox, mail, router, runs
from background.sweeps import devices as device_sweep
from background.sweeps import files as file_sweep
from background.sweeps import queues as queue_sweeps
from background.sweeps import tables as table_sweeps
from device_ingest import handler as ingest
from karma.billing.customers import refresh_message
from karma.core import aws
from karma.core.errors import Upstream
from karma.core.ids import UserId
from tests.support.aws_faults import RAISED, made, passes

pytestmark = pytest.mark.fault("F-09a")

ID = "01890000-0000-7000-8000-00000000000a"
SWEEPS = (queue_sweeps, table_sweeps, file_sweep, device_sweep)
MODULES = (deletion, files, inbox, mail, router, runs, ingest, *SWEEPS)


def queued(*bodies: str) -> dict[str, Any]:
    shared = {"receiptHandle": "r", "attributes": {}, "messageAttributes": {}, "eventSource": "aws:sqs"}
    return {"Records": [{"messageId": f"m{n}", "body": body, **shared} for n, body in enumerate(bodies)]}


def device_row(sequence_number: str) -> dict[str, Any]:
    image = {"type": {"S": "device"}, "state": {"S": "active"}}
    keys = {"pk": {"S": f"USER#{ID}"}, "sk": {"S": f"DEVICE#{ID}"}}
    return {"dynamodb": {"Keys": keys, "SequenceNumber": sequence_number, "NewImage": image}}


HEARD = {
    "topic": "$aws/rules/karma/dt/karma/EOS-1/heartbeat",
    "principal": "c",
    "received_ms": 1,
    "payload_b64": "e30=",
}
WAKE_UP = {"wake_up": {"user_id": ID, "device_id": ID}}

BATCHES: dict[ModuleType, tuple[dict[str, Any], list[str]]] = {
    deletion: (queued(ID, ID), ["m0", "m1"]),
    files: (queued(*[orjson.dumps({"device_id": ID, "file_id": ID}).decode()] * 2), ["m0", "m1"]),
    inbox: (queued("evt_1", refresh_message(UserId(ID)), "evt_2"), ["m0", "m1", "m2"]),
    mail: (queued(ID, ID), ["m0", "m1"]),
    router: ({"Records": [device_row("1"), device_row("2")]}, ["1"]),
    runs: (queued(*[orjson.dumps({"user_id": ID, "run_id": ID}).decode()] * 2), ["m0", "m1"]),
    ingest: (queued(orjson.dumps(HEARD).decode(), orjson.dumps(WAKE_UP).decode()), ["m0", "m1"]),
}
"""A batch of each consumer, and the messages that must be delivered again when none could be handled."""


class Context:
    aws_request_id = "r"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 60_000


def variables() -> Iterator[str]:
    for module in MODULES:
        for field in dataclasses.fields(module.Settings):
            if field.default is dataclasses.MISSING:
                yield field.name.upper()


@pytest.fixture(scope="module")
def raising() -> Iterator[Callable[[Exception], None]]:
    """Set what every call of AWS raises."""
    fault = Exception()

    def fail(*_: Any, **__: Any) -> Any:
        raise fault

    def set_fault(to: Exception) -> None:
        nonlocal fault
        fault = to

    logging.disable()
    with pytest.MonkeyPatch.context() as patch:
        for name in (*variables(), "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "POWERTOOLS_METRICS_NAMESPACE"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        patch.setattr(BaseClient, "_make_api_call", fail)
        aws.reset()
        forget()
        yield set_fault
    forget()
    aws.reset()
    logging.disable(logging.NOTSET)


def forget() -> None:
    """Drop the services that functions build once a process."""
    for module in MODULES:
        for each in vars(module).values():
            if getattr(each, "__module__", "") == module.__name__ and hasattr(each, "cache_clear"):
                each.cache_clear()


def faults() -> Iterator[tuple[type[Exception], Exception]]:
    for kind in RAISED:
        for fault in made(kind):
            yield kind, fault
    refused = botocore.exceptions.ClientError({"Error": {"Code": "AccessDeniedException"}}, "Op")
    yield botocore.exceptions.ClientError, refused


def test_every_class_sends_a_batch_back_and_never_crashes(raising: Callable[[Exception], None]) -> None:
    wrong: list[str] = []
    for _, fault in faults():
        raising(fault)
        for consumer, (batch, again) in BATCHES.items():
            try:
                answer: object = consumer.lambda_handler(batch, Context())
            except Exception as exc:  # noqa: BLE001  whatever it is, the test looks at it
                answer = exc
            if answer != {"batchItemFailures": [{"itemIdentifier": each} for each in again]}:
                wrong.append(f"{consumer.__name__}: {fault!r} became {answer!r}")
    assert wrong == []


def test_a_sweep_says_what_it_could_not_do(raising: Callable[[Exception], None]) -> None:
    sweeps = [(function, name) for function in SWEEPS for name in function.services()]
    wrong: list[str] = []
    for kind in RAISED:
        fault = next(made(kind))
        raising(fault)
        for function, name in sweeps:
            try:
                found: object = function.lambda_handler({"sweep": name}, Context())
            except Exception as exc:  # noqa: BLE001  likewise
                found = exc
            if not (isinstance(found, Upstream) and found.retryable is passes(kind)):
                wrong.append(f"{name}: {fault!r} became {found!r}")
    assert wrong == []

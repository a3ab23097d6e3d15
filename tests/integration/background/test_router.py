"""The router folds the stream of the devices table into counters, exactly once."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from karma.core.ids import UserId
from karma.devices.repository.devices import DeviceRepository
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.stack import Context, Stack

EVENT = json.loads((Path(__file__).parents[2] / "events/dynamodb_stream_devices.json").read_text())
USER = UserId("01a1fd64-5851-7599-9816-cee19b83f05c")


@pytest.fixture(autouse=True)
def owner(stack: Stack) -> None:
    open_account(USER)


def handle(event: dict[str, Any], context: Context) -> list[str]:
    from background.router import lambda_handler

    return [failure["itemIdentifier"] for failure in lambda_handler(event, context)["batchItemFailures"]]


def test_only_active_rows_count_and_repeats_do_not(stack: Stack, lambda_context: Context) -> None:
    stack.use("router")
    devices = DeviceRepository()
    records = EVENT["Records"]
    counts = []
    for record in records:
        assert handle({"Records": [record]}, lambda_context) == []
        counts.append(devices.count(USER))
    assert counts == [0, 0, 1, 2, 2, 1, 1]
    for start in range(len(records)):  # a batch that is delivered again from any record on
        assert handle({"Records": records[start:]}, lambda_context) == []
        assert devices.count(USER) == 1


def test_a_batch_in_any_cut_gives_the_same_count(stack: Stack, lambda_context: Context) -> None:
    stack.use("router")
    cut = random.Random(7).randint(1, len(EVENT["Records"]) - 1)
    for records in (EVENT["Records"][:cut], EVENT["Records"], EVENT["Records"][cut:]):
        assert handle({"Records": records}, lambda_context) == []
    assert DeviceRepository().count(USER) == 1


def test_a_table_that_is_away_brings_the_record_back(stack: Stack, lambda_context: Context) -> None:
    stack.use("router", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert handle(EVENT, lambda_context) == [EVENT["Records"][0]["dynamodb"]["SequenceNumber"]]


def test_a_crash_at_any_call_is_repaired_by_the_redelivery(stack: Stack) -> None:
    stack.use("router")
    report = CrashTest(
        entry="background.router:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["devices"]],
        seed=lambda: EVENT,
        accept=lambda response: response == {"batchItemFailures": []},
    ).run()
    # Two changes count; the first of them makes the counter, when it has found none. Search reads devices, and writes
    # their rows at once: for a head without a journal, with one, and again as the first of their owner. Nobody watches
    # the devices, their owner's list neither.
    writes = {"dynamodb.UpdateItem": 3, "dynamodb.TransactWriteItems": 4}
    assert Counter(report.calls) == {**writes, "dynamodb.GetItem": 1, "dynamodb.Query": 7}


def test_a_real_stream_of_the_engine_is_understood(
    stack: Stack, lambda_context: Context, aws: Callable[[str], Any], streamed: Callable[[str], list[dict[str, Any]]]
) -> None:
    """The router understands records that DynamoDB itself wrote into the stream, not only captured ones."""
    stack.use("router")
    table = stack.tables["devices"]
    name = {"pk": {"S": f"USER#{USER}"}, "sk": {"S": "DEVICE#01a1fd64-5851-7599-9816-cee19b83f0aa"}}
    texts = {"model": "EOS-3A", "mac": "00:00:00:00:00:01", "serial_number": "EOS-1", "name": "Arm", "user_id": USER}
    more = {"type": "device", "state": "active", "device_id": "01a1fd64-5851-7599-9816-cee19b83f0aa"}
    stamps = dict.fromkeys(("created_at", "updated_at"), "2026-11-21T12:00:00.000Z")
    row = {**name, **{key: {"S": value} for key, value in {**texts, **more, **stamps}.items()}}
    aws("dynamodb").put_item(TableName=table, Item=row)
    records = streamed("devices")
    assert handle({"Records": records}, lambda_context) == []
    assert DeviceRepository().count(USER) == 1

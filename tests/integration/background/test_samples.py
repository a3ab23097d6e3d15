"""The stream of the telemetry table becomes marks of dirty hours: records that DynamoDB wrote, and deaths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from karma.core.clock import epoch_ms
from karma.core.ids import DeviceId, new_id
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.samples import Batch
from karma.telemetry.domain import HOUR_MS, Level, Period
from karma.telemetry.repository import RollupRepository
from tests.support.crash import CrashTest
from tests.support.rows import NOW
from tests.support.stack import Context, Stack

HOUR = epoch_ms(NOW) // HOUR_MS


@pytest.fixture
def device(stack: Stack) -> DeviceId:
    stack.use("samples")
    made = DeviceId(new_id())
    for seq, hour in enumerate((HOUR, HOUR, HOUR - 30)):
        at = hour * HOUR_MS + seq
        TelemetryRepository().store(made, Batch("b", seq, at, at, 1, b'[[1,{"a":1}]]', "d", {}))
    return made


def handle(records: list[dict[str, Any]], context: Context) -> list[str]:
    from background.samples import lambda_handler

    answered = lambda_handler({"Records": records}, context)
    return [failure["itemIdentifier"] for failure in answered["batchItemFailures"]]


def test_what_dynamodb_wrote_into_the_stream_marks_the_hours(
    device: DeviceId, streamed: Callable[..., list[dict[str, Any]]], lambda_context: Context
) -> None:
    records = streamed("telemetry")
    assert all("NewImage" not in each["dynamodb"] for each in records), "the stream brings keys alone"
    for _ in range(2):
        assert handle(records, lambda_context) == []
        dirty = RollupRepository().directory(device, consistent=True).dirty
        assert dirty == {Period(device, Level.HOUR, HOUR), Period(device, Level.HOUR, HOUR - 30)}
        # Marks are in the stream, too, and mark nothing.
        records = streamed("telemetry")


def test_a_death_at_any_call_is_repaired_by_the_redelivery(
    stack: Stack, device: DeviceId, streamed: Callable[..., list[dict[str, Any]]]
) -> None:
    records = streamed("telemetry")
    CrashTest(
        entry="background.samples:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["telemetry"]],
        ignore=("version", "token", "gsi1sk"),
        seed=lambda: {"Records": records},
        accept=lambda response: response == {"batchItemFailures": []},
    ).run()
    assert len(RollupRepository().directory(device, consistent=True).dirty) == 2


def test_a_table_that_is_away_brings_the_batch_back(
    stack: Stack, device: DeviceId, streamed: Callable[..., list[dict[str, Any]]], lambda_context: Context
) -> None:
    assert device
    records = streamed("telemetry")
    stack.use("samples", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert handle(records, lambda_context) == [records[0]["dynamodb"]["SequenceNumber"]]

"""The queue of telemetry: a day of a device at 1 Hz is rolled up and then costs one page, and what is no message."""

from __future__ import annotations

from typing import Any

import pytest

from karma.core.ids import new_id
from karma.integrations.sqs import SqsQueue
from karma.telemetry.domain import DAY_MS, HOUR_MS, Level, Resolution
from karma.telemetry.exports.domain import ExportState
from karma.telemetry.query import TelemetryQuery
from karma.telemetry.rebuilding import read_periods
from tests.support.devices import World
from tests.support.exports import Exporting
from tests.support.stack import Context, Stack
from tests.support.telemetry import Rolling


def handle(bodies: list[str], context: Context) -> list[str]:
    from background.telemetry import lambda_handler

    records = [{"messageId": str(n), "body": body} for n, body in enumerate(bodies)]
    answered = lambda_handler({"Records": records}, context)
    return [failure["itemIdentifier"] for failure in answered["batchItemFailures"]]


@pytest.mark.parametrize("a_minute", [1, 40])
def test_a_day_costs_one_page_however_many_samples_it_has(stack: Stack, lambda_context: Context, a_minute: int) -> None:
    from tests.support.clients import hooked

    stack.use("telemetry", **stack.environment("api"))
    rolling = Rolling(World(stack))
    now = rolling.world.clock.ms
    begin = now - now % DAY_MS - DAY_MS
    for hour in range(0, 24, 6):
        times = [begin + hour * HOUR_MS + n * 60_000 // a_minute for n in range(60 * a_minute)]
        rolling.store([(ts, {"temp_c": ts % 7}) for ts in times])
    rolling.settle()
    seen: list[str] = []
    with hooked("dynamodb", "before-call.dynamodb", lambda event_name, **_: seen.append(event_name.rpartition(".")[2])):
        page = rolling.read("temp_c", from_ms=begin, to_ms=begin + DAY_MS)
    assert seen == ["GetItem", "Query", "Query"]
    assert (page.resolution, len(page.points), page.next_position) == (Resolution.MINUTE, 240, None)
    assert len(page.series[0].gaps) == 4
    query = TelemetryQuery(devices=(rolling.device_id,), from_ms=begin, to_ms=begin + DAY_MS, resolution=Resolution.DAY)
    [day] = rolling.world.reader.read(rolling.world.user, query).points
    assert day.row.samples == 240 * a_minute  # type: ignore[union-attr]
    assert rolling.stored("temp_c", Level.DAY, begin) is not None


def test_an_export_is_written_by_as_many_messages_as_it_takes(
    stack: Stack, lambda_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the function's own rights: its parts, its checkpoints, the end of its upload, and one that is cancelled."""
    from background import telemetry

    stack.use("telemetry", **stack.environment("api"))
    exporting = Exporting(World(stack), work_s=0, part_bytes=1)
    exporting.queue = SqsQueue(stack.queues["telemetry"])
    exporting.rebuild()
    built = telemetry.Services(rollups=telemetry.services().rollups, exports=exporting.worker)
    monkeypatch.setattr(telemetry, "services", lambda: built)
    exporting.fill(60)
    made, cancelled, robbed = (exporting.create() for _ in range(3))

    def deliver(most: int) -> int:
        sqs, came = stack.aws("sqs"), 0
        while came < most:
            found = sqs.receive_message(QueueUrl=stack.queues["telemetry"], MaxNumberOfMessages=10).get("Messages", [])
            if not found:
                break
            assert handle([each["Body"] for each in found], lambda_context) == []
            for each in found:
                sqs.delete_message(QueueUrl=stack.queues["telemetry"], ReceiptHandle=each["ReceiptHandle"])
            came += len(found)
        return came

    assert deliver(3) == 3
    stack.aws("s3").delete_object(Bucket=stack.bucket, Key=f"exports/{exporting.read(robbed).checkpoint}")
    exporting.service.cancel(exporting.world.user, cancelled.key.export_id)
    assert deliver(99) > 2
    assert exporting.read(made).state is ExportState.SUCCEEDED
    assert len(exporting.rows(made)) == 120
    assert exporting.read(robbed).state is ExportState.FAILED
    assert (exporting.read(cancelled).state, exporting.uploads()) == (ExportState.CANCELLED, 0)


def test_messages_that_are_none_come_again(stack: Stack, lambda_context: Context) -> None:
    stack.use("telemetry")
    device = new_id()
    wrong: list[Any] = [
        "x",
        "[]",
        '{"rebuild": [["x", "hour", 1]]}',
        f'{{"rebuild": [["{device}", "week", 1]]}}',
        f'{{"rebuild": [["{device}", "hour", "1"]]}}',
        '{"export": 5}',
        f'{{"export": {{"user_id": "{device}", "export_id": "x"}}}}',
    ]
    assert handle(wrong, lambda_context) == [str(n) for n in range(len(wrong))]
    good = f'{{"rebuild": [["{device}", "hour", 490000]]}}'
    assert handle([good], lambda_context) == []
    assert len(read_periods(good)) == 1

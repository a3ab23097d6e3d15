"""Exports: written attempt by attempt, repeated, cancelled, taken over after any death; on the engine."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from karma.core.clock import monotonic
from karma.core.errors import Gone, InvalidRequest, InvalidTransition, NotFound, Upstream
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.requests import IdempotencyKeyReused
from karma.telemetry.domain import DAY_MS, HOUR_MS
from karma.telemetry.exports.domain import (
    GIVEN_UP_AFTER,
    LOOKED_AFTER,
    MAX_ATTEMPTS,
    MAX_OPEN,
    RETENTION,
    ExportId,
    ExportKey,
    ExportState,
    TooManyExports,
)
from karma.telemetry.exports.messages import read_export
from karma.telemetry.exports.sweep import send_open_exports
from karma.telemetry.exports.work import HELD_FOR
from karma.telemetry.purge import ExportsPurge
from karma.telemetry.tables import TableFormat
from tests.support.clients import hooked
from tests.support.devices import World
from tests.support.exports import PART, Exporting
from tests.support.requests import key
from tests.support.telemetry import Rolling


@pytest.fixture
def exporting(world: World) -> Exporting:
    return Exporting(world)


def test_a_table_is_written_in_the_background_and_linked_to(exporting: Exporting) -> None:
    exporting.fill(70)
    made = exporting.create()
    assert (made.state, made.progress, exporting.service.link(made)) == (ExportState.QUEUED, 0, None)
    assert exporting.deliver(times=2) == ["succeeded", "over"]
    over = exporting.read(made)
    assert (over.state, over.rows, over.progress) == (ExportState.SUCCEEDED, 140, 1)
    rows = exporting.rows(made)
    assert [row[2] for row in rows[:2]] == ["hum", "temp_c"]
    assert len({tuple(row) for row in rows}) == 140
    link = exporting.service.link(over)
    assert link is not None
    assert link.until == exporting.world.clock.now() + timedelta(hours=1)
    assert over.table in link.url
    assert exporting.service.list(exporting.world.user, limit=5) == ([over], None)
    with pytest.raises(NotFound):
        exporting.service.get(UserId(new_id()), made.key.export_id)
    exporting.world.clock.pass_time(seconds=RETENTION.total_seconds())
    with pytest.raises(NotFound):
        exporting.read(made)


def test_a_link_is_for_who_has_the_devices(exporting: Exporting) -> None:
    other = Rolling(exporting.world)
    made = exporting.create(devices=(exporting.rolling.device_id, other.device_id))
    exporting.deliver()
    assert exporting.service.link(exporting.read(made)) is not None
    exporting.world.devices.delete(exporting.world.user, other.device_id)
    assert exporting.service.link(exporting.read(made)) is None
    late = exporting.create()
    exporting.world.devices.delete(exporting.world.user, exporting.rolling.device_id)
    assert exporting.deliver() == ["failed"]
    failure = exporting.read(late).failure
    assert failure is not None
    assert failure.code == "NOT_FOUND"
    with pytest.raises(NotFound):
        exporting.create()


def test_a_long_one_is_written_by_one_attempt_after_the_other(world: World) -> None:
    exporting = Exporting(world, work_s=0)
    exporting.fill(300)
    made = exporting.create()
    first = read_export(exporting.queue.bodies.pop())
    shown = []
    while exporting.worker.take(first) == "goes on":
        shown.append(exporting.read(made).progress)
        exporting.queue.bodies.clear()
    assert (shown, len(shown)) == (sorted(shown), 14)
    assert exporting.read(made).state is ExportState.SUCCEEDED
    assert [row[0] for row in exporting.rows(made)] == sorted(row[0] for row in exporting.rows(made))
    assert len({tuple(row) for row in exporting.rows(made)}) == 600


def test_a_range_that_no_query_may_have_is_one_export(exporting: Exporting) -> None:
    exporting.world.kept_days = 120
    exporting.world.clock.pass_time(hours=24 * 65)
    exporting.fill(5, begin=exporting.world.clock.ms - HOUR_MS)
    made = exporting.create(from_ms=0, to_ms=exporting.world.clock.ms)
    assert exporting.world.clock.ms - made.order.from_ms == 120 * DAY_MS, "what is kept"
    exporting.deliver()
    assert exporting.read(made).rows == 10
    nothing = exporting.create(from_ms=5, to_ms=9)
    exporting.deliver()
    assert (exporting.read(nothing).rows, exporting.rows(nothing)) == (0, [])


class Dead(BaseException):
    """The process died."""


@pytest.mark.parametrize("many", [False, True], ids=["one object", "parts"])
def test_a_death_at_any_call_is_made_good_by_a_repeat(world: World, many: bool) -> None:
    """The repeat comes when the dead worker's hold is over; and there is one table, with each row once."""
    exporting = Exporting(world, work_s=0, page_rows=200, part_bytes=1 if many else PART)
    exporting.fill(250)
    deaths, seen = 0, 0
    while True:
        made, left = exporting.create(), deaths

        def die(**_: Any) -> None:
            nonlocal left
            if not left:
                raise Dead
            left -= 1

        exporting.queue.bodies.clear()
        alive = True
        try:
            with hooked("dynamodb", "after-call.dynamodb", die), hooked("s3", "after-call.s3", die):
                while exporting.worker.take(made.key) == "goes on":
                    pass
        except Dead:
            alive = False
            deaths += 1
            if exporting.read(made).is_open:
                assert exporting.worker.take(made.key) in {"held", "goes on", "succeeded"}
            exporting.world.clock.pass_time(seconds=HELD_FOR.total_seconds() + 1)
            while exporting.worker.take(made.key) == "goes on":
                seen += 1
        over = exporting.read(made)
        assert (over.state, over.rows) == (ExportState.SUCCEEDED, 500)
        assert len({tuple(row) for row in exporting.rows(made)}) == 500
        if alive:
            break
    assert deaths > 12
    assert seen


def test_of_two_workers_one_writes(world: World) -> None:
    """A worker that was taken for dead goes on beside the next: its parts and its checkpoint harm nobody."""
    slow = Exporting(world, part_bytes=1, page_rows=100)
    slow.fill(250)
    made = slow.create()
    seen: list[str] = []

    def overtake(**_: Any) -> None:
        if len(seen) == 0:
            seen.append("held")
            assert slow.a_worker(part_bytes=1).take(made.key) == "held"
            slow.world.clock.pass_time(seconds=HELD_FOR.total_seconds() + 1)
            seen.append(slow.a_worker(part_bytes=1, page_rows=70).take(made.key))

    with hooked("s3", "before-call.s3.UploadPart", overtake):
        assert slow.worker.take(made.key) == "changed"
    assert seen == ["held", "succeeded"]
    assert len({tuple(row) for row in slow.rows(made)}) == 500
    assert slow.uploads() == 0


def test_what_fails_each_time_is_given_up(exporting: Exporting) -> None:
    exporting.fill(5)
    made = exporting.create()

    def fail(**_: Any) -> None:
        raise Dead

    for _ in range(MAX_ATTEMPTS):
        with hooked("s3", "before-call.s3", fail), pytest.raises(Dead):
            exporting.worker.take(made.key)
        exporting.world.clock.pass_time(seconds=HELD_FOR.total_seconds() + 1)
    assert exporting.worker.take(made.key) == "failed"
    assert exporting.read(made).failure == ("EXPORT_FAILED", "The export could not be written")
    late = exporting.create()
    exporting.world.clock.pass_time(seconds=GIVEN_UP_AFTER.total_seconds())
    assert exporting.worker.take(late.key) == "failed"


def test_more_rows_than_the_plan_allows_fail_and_say_what_fits(exporting: Exporting) -> None:
    exporting.fill(60)
    made = exporting.create(most_rows=50)
    assert exporting.deliver() == ["failed"]
    failure = exporting.read(made).failure
    assert failure is not None
    assert (failure.code, failure.message.rpartition(":")[2]) == ("EXPORT_TOO_LARGE", "25.000Z")
    fits = exporting.create(most_rows=50, to_ms=exporting.begin + 25_000)
    exporting.deliver()
    assert len(exporting.rows(fits)) == 50


def test_a_cancelled_one_is_written_no_further(world: World) -> None:
    exporting = Exporting(world, work_s=0, part_bytes=1)
    exporting.fill(100)
    made = exporting.create()
    assert exporting.worker.take(made.key) == "goes on"
    assert exporting.uploads() == 1
    cancelled = exporting.service.cancel(world.user, made.key.export_id)
    assert (cancelled.state, exporting.service.link(cancelled)) == (ExportState.CANCELLED, None)
    assert exporting.service.cancel(world.user, made.key.export_id) == cancelled
    assert set(exporting.deliver(times=2)) == {"over"}
    assert exporting.uploads() == 0
    done = exporting.create()
    while exporting.deliver() != ["succeeded"]:
        assert exporting.queue.bodies or exporting.read(done).state is ExportState.SUCCEEDED
        break
    with pytest.raises(InvalidTransition):
        exporting.service.cancel(world.user, done.key.export_id)


def test_a_cancel_between_two_parts_is_found(world: World) -> None:
    exporting = Exporting(world, part_bytes=1)
    exporting.fill(100)
    made = exporting.create()

    def cancel(**_: Any) -> None:
        if exporting.read(made).is_open:
            exporting.service.cancel(world.user, made.key.export_id)

    with hooked("s3", "before-call.s3.UploadPart", cancel):
        assert exporting.worker.take(made.key) == "changed"
    assert (exporting.read(made).state, exporting.uploads()) == (ExportState.CANCELLED, 0)


def test_a_repeated_request_makes_one(exporting: Exporting) -> None:
    first = exporting.create(idempotency_key=key())
    exporting.deliver()
    assert exporting.create(idempotency_key=key()) == exporting.read(first)
    with pytest.raises(IdempotencyKeyReused):
        exporting.create(idempotency_key=key(), form=TableFormat.PARQUET)
    assert len(exporting.service.list(exporting.world.user, limit=9)[0]) == 1
    exporting.world.stack.aws("dynamodb").delete_item(
        TableName=exporting.world.stack.tables["telemetry"],
        Key={"pk": {"S": f"EXPORTS#{exporting.world.user}"}, "sk": {"S": f"EXPORT#{first.key.export_id}"}},
    )
    with pytest.raises(Gone):
        exporting.create(idempotency_key=key())


def test_an_account_has_few_at_a_time(exporting: Exporting) -> None:
    made = [exporting.create() for _ in range(MAX_OPEN)]
    with pytest.raises(TooManyExports):
        exporting.create()
    exporting.service.cancel(exporting.world.user, made[0].key.export_id)
    exporting.create()
    exporting.deliver()
    for _ in range(MAX_OPEN):
        exporting.create()
    with pytest.raises(InvalidRequest):
        exporting.create(from_ms=9, to_ms=9)


def test_a_lost_message_is_made_up_for_by_the_sweep(exporting: Exporting, monkeypatch: pytest.MonkeyPatch) -> None:
    def sweep() -> int:
        return send_open_exports(exporting.store, exporting.queue, exporting.world.clock)

    def refuse(*_: Any, **__: Any) -> None:
        raise Upstream("The queue is gone")

    with monkeypatch.context() as patched:
        patched.setattr(exporting.queue, "send", refuse)
        made = exporting.create()
    assert (sweep(), exporting.queue.bodies) == (0, [])
    exporting.world.clock.pass_time(seconds=LOOKED_AFTER.total_seconds() + 1)
    assert (sweep(), sweep(), len(exporting.queue.bodies)) == (1, 0, 1)
    assert exporting.deliver() == ["succeeded"]
    exporting.world.clock.pass_time(seconds=LOOKED_AFTER.total_seconds() + 1)
    assert (sweep(), exporting.read(made).state) == (0, ExportState.SUCCEEDED)


def test_an_account_s_deletion_takes_them_along(world: World) -> None:
    exporting = Exporting(world, work_s=0, part_bytes=1)
    exporting.fill(100)
    made = exporting.create(idempotency_key=key())
    exporting.worker.take(made.key)
    purge = PurgeAttempt(user_id=world.user, requested_at=world.clock.now(), ends_at=monotonic() + 60, settled=True)
    assert ExportsPurge(exporting.objects).purge_account(purge)
    assert not [item for item in world.items("telemetry") if item["pk"]["S"].startswith("EXPORTS#")]
    listed = world.stack.aws("s3").list_objects_v2(Bucket=world.stack.bucket, Prefix=f"exports/{world.user}/")
    assert (listed["KeyCount"], exporting.uploads()) == (0, 0)
    assert set(exporting.deliver()) == {"gone"}
    assert exporting.worker.take(ExportKey(world.user, ExportId(new_id()))) == "gone"

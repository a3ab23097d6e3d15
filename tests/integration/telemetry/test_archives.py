"""Raw telemetry beyond its time in the database: what is read is what was, at every hour of its way to the archive."""

from __future__ import annotations

from typing import Any

import pytest

from karma.billing.plans import PlanName
from karma.core import aws
from karma.core.clock import from_epoch_ms
from karma.core.dynamo.partitions import delete_keys, pages
from karma.core.errors import InvalidRequest
from karma.core.ids import DeviceId, new_id
from karma.devices.repository.items import TelemetryItem, days_between, telemetry_pk
from karma.devices.samples import Batch
from karma.integrations.s3 import S3Archives
from karma.telemetry.archives import GET_UNITS
from karma.telemetry.archiving import Archiving
from karma.telemetry.domain import DAY_MS, HOUR_MS, Level, Period, Point, Resolution
from karma.telemetry.ports import DeviceClosed
from karma.telemetry.raw import MAX_UNITS_READ
from karma.telemetry.rebuilding import ARCHIVED_AFTER, periods_message
from karma.telemetry.removal import TelemetryOfDevices
from tests.support.crash import CrashTest
from tests.support.devices import World
from tests.support.plans import subscribe
from tests.support.stack import Context, Stack
from tests.support.telemetry import Rolling


@pytest.fixture
def rolling(world: World) -> Rolling:
    return Rolling(world)


def yesterday(world: World) -> int:
    return world.clock.ms - world.clock.ms % DAY_MS - DAY_MS


def sent(rolling: Rolling) -> list[tuple[int, float]]:
    """Let the device send a day's samples of some hours, in messages that overlap, whole numbers and fractions."""
    begin = yesterday(rolling.world)
    times = [begin + hour * HOUR_MS + n * 60_000 for hour in (0, 1, 9, 23) for n in range(20)]
    samples = [(ts, n if n % 2 else n + 0.5) for n, ts in enumerate(times)]
    for at in range(0, len(samples), 20):
        rolling.store([(ts, {"temp_c": value}) for ts, value in samples[at : at + 20 : 2]])
        rolling.store([(ts, {"temp_c": value}) for ts, value in samples[at + 1 : at + 20 : 2]])
    return samples


def archive(rolling: Rolling) -> None:
    """Pass the time after which the day before yesterday is archived, and sweep."""
    rolling.settle()
    rolling.world.clock.pass_time(seconds=ARCHIVED_AFTER.total_seconds())
    while rolling.sweep():
        rolling.world.clock.pass_time(minutes=11)


def expire(rolling: Rolling) -> None:
    """Delete the device's raw batches, as the database does when they have expired."""
    for day in days_between(rolling.world.clock.ms - 60 * DAY_MS, rolling.world.clock.ms):
        for keys in pages(TelemetryItem, telemetry_pk(rolling.device_id, day)):
            delete_keys(TelemetryItem, keys)


def read(rolling: Rolling, begin: int, *, limit: int = 7) -> list[tuple[int, float]]:
    """Read a day page by page."""
    found: list[tuple[int, float]] = []
    after: Any = None
    while True:
        page = rolling.read(
            "temp_c", from_ms=begin, to_ms=begin + DAY_MS, resolution=Resolution.RAW, limit=limit, after=after
        )
        found += [(point.ts, point.value) for point in page.points if isinstance(point, Point)]
        after = page.next_position
        if after is None:
            return found


def objects(stack: Stack) -> list[str]:
    listed = aws.client("s3").list_objects_v2(Bucket=stack.bucket, Prefix="archives/")
    return [each["Key"] for each in listed.get("Contents", [])]


def test_what_is_read_of_a_day_is_the_same_before_and_after_it_is_archived_and_expired(
    rolling: Rolling, stack: Stack
) -> None:
    begin = yesterday(rolling.world)
    samples = sent(rolling)
    assert read(rolling, begin) == samples
    archive(rolling)
    assert len(objects(stack)) == 1
    assert read(rolling, begin) == samples
    expire(rolling)
    assert read(rolling, begin) == samples
    assert {type(value) for _, value in read(rolling, begin)} == {int, float}
    rolling.world.clock.pass_time(hours=24 * 300)
    assert read(rolling, begin, limit=1_000) == samples
    middle = rolling.read("temp_c", from_ms=begin + 9 * HOUR_MS, to_ms=begin + 10 * HOUR_MS, resolution=Resolution.RAW)
    assert len(middle.points) == 20
    rolling.world.kept_days = 0  # a smaller plan shows less at once
    assert read(rolling, begin) == []


def test_a_span_beyond_what_a_request_reads_is_refused_by_its_limit(rolling: Rolling) -> None:
    now = rolling.world.clock.ms
    with pytest.raises(InvalidRequest, match="at most 31 days at resolution raw") as refused:
        rolling.read("temp_c", from_ms=now - 90 * DAY_MS, to_ms=now - 30 * DAY_MS, resolution=Resolution.RAW)
    assert refused.value.code == "INVALID_RANGE"


def test_a_page_reads_a_bounded_number_of_objects_and_says_where_it_goes_on(rolling: Rolling) -> None:
    begin, days = yesterday(rolling.world), MAX_UNITS_READ // GET_UNITS + 4
    for day in range(days):
        rolling.store([(begin - day * DAY_MS, {"temp_c": day})])
    archive(rolling)
    rolling.world.clock.pass_time(hours=24 * 10)
    expire(rolling)
    first = begin - (days - 1) * DAY_MS
    page = rolling.read("temp_c", from_ms=first, to_ms=begin + 1, resolution=Resolution.RAW)
    assert 0 < len(page.points) < days
    assert page.next_position is not None
    rest = rolling.read("temp_c", from_ms=first, to_ms=begin + 1, resolution=Resolution.RAW, after=page.next_position)
    assert [point.ts for point in (*page.points, *rest.points)] == [first + day * DAY_MS for day in range(days)]


def test_samples_that_come_after_the_archive_are_in_it_and_in_the_rollups(rolling: Rolling, stack: Stack) -> None:
    world, begin = rolling.world, yesterday(rolling.world)
    samples = sent(rolling)
    archive(rolling)
    expire(rolling)
    late = [(begin + 9 * HOUR_MS + 30_000, 99.5), (begin + 15 * HOUR_MS, 98)]
    received = begin + 29 * DAY_MS  # it was in a queue since then
    for ts, value in late:
        body = {"boot": "late", "seq": 1, "samples": [{"ts": ts, "m": {"temp_c": value}}]}
        world.tell(world.message(rolling.made, "telemetry", body, received_ms=received))
        rolling.tell(rolling.keys([(ts, {})]))
    assert read(rolling, begin) == sorted(samples + late)
    for _ in range(4):
        rolling.sweep()
        world.clock.pass_time(minutes=11)
    [name] = objects(stack)
    expire(rolling)
    assert read(rolling, begin) == sorted(samples + late), name
    hour = rolling.stored("temp_c", Level.HOUR, begin + 9 * HOUR_MS)
    assert hour is not None
    assert (sum(row.samples for row in hour.rows), max(row.greatest for row in hour.rows)) == (21, 99.5)


def test_a_plan_without_archives_has_none(rolling: Rolling, stack: Stack) -> None:
    rolling.world.kept_days = 0
    sent(rolling)
    archive(rolling)
    assert objects(stack) == []
    assert not [item for item in rolling.world.items("telemetry") if item["sk"]["S"].startswith("LATER#")]


def test_whoever_dies_while_archiving_is_followed_by_one_who_ends_it(stack: Stack) -> None:
    stack.use("telemetry")
    world, device, number = World(stack), DeviceId(new_id()), 20_000
    begin, day = number * DAY_MS, Period(device, Level.ARCHIVE, number)
    subscribe(world.user, PlanName.PRO)

    def store(seq: int) -> None:
        ts = begin + seq * HOUR_MS
        text = f'[[{ts},{{"a":{seq}}}]]'.encode()
        world.telemetry.store(device, Batch("b", seq, ts, ts, 1, text, "d", {}), owner=world.user)
        world.rollups.mark(day, due=from_epoch_ms(begin))

    def seed() -> dict[str, Any]:
        """Archive a day of which a batch comes later."""
        for name in objects(stack):
            world.archives.remove(name.removeprefix("archives/"))
        world.rollups.numbers(device, ["a"])
        store(0)
        dirty = world.rollups.dirty(day)
        assert dirty is not None
        Archiving(world.telemetry, world.notes, world.archives, kept_days=lambda _: 365).archive(dirty)
        store(1)
        return {"Records": [{"messageId": "m", "body": periods_message([day])}]}

    report = CrashTest(
        entry="background.telemetry:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["telemetry"]],
        ignore=("version", "created_at", "updated_at", "gsi1sk"),
        seed=seed,
        other_state=lambda: objects(stack),
        accept=lambda response: response == {"batchItemFailures": []},
    ).run()
    assert report.points >= 9


def test_a_deleted_device_leaves_no_archive_though_a_worker_was_at_it(
    stack: Stack, lambda_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from background.telemetry import lambda_handler

    stack.use("telemetry")
    world = World(stack)
    rolling = Rolling(world)
    sent(rolling)
    number = yesterday(world) // DAY_MS
    archive(rolling)
    removal, device, other = TelemetryOfDevices(world.rollups, world.archives, world.clock), rolling.device_id, new_id()
    day = Period(device, Level.ARCHIVE, number)
    name = f"365/{other}/{'0' * 64}"
    world.archives.keep(name, b"another device's")

    def put_and_die(own: str, data: bytes) -> None:
        """Put an object behind the removal, of a worker that has looked before it, and dies."""
        assert 0 < removal.remove(device, limit=100) < 100
        S3Archives.keep(world.archives, own, data)
        raise KeyboardInterrupt

    world.rollups.mark(day, due=world.clock.now())
    monkeypatch.setattr(world.archives, "keep", put_and_die)
    with pytest.raises(KeyboardInterrupt):
        rolling.rebuilding.rebuild(day)
    assert [name for name in objects(stack) if device in name]
    again = {"Records": [{"messageId": "m", "body": periods_message([day])}]}
    assert lambda_handler(again, lambda_context) == {"batchItemFailures": []}
    assert objects(stack) == [f"archives/{name}"]
    assert removal.remove(device, limit=100) == 0
    assert world.notes.find(device, first=0, last=10**6) == []
    world.rollups.mark(day, due=world.clock.now())
    dirty = world.rollups.dirty(day)
    assert dirty is not None
    with pytest.raises(DeviceClosed):
        rolling.archiving.archive(dirty)

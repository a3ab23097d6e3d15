"""Telemetry read back: raw points over batches, days and pages; buckets from rollups, or from raw where these lack."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from karma.core.cursors import CursorSigner
from karma.core.errors import InvalidRequest, NotFound
from karma.core.ids import UserId, new_id
from karma.telemetry import buckets as buckets_module
from karma.telemetry import raw as raw_module
from karma.telemetry.domain import (
    BUCKET_MS,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    Bucket,
    Level,
    Point,
    Resolution,
    TelemetryPoint,
)
from karma.telemetry.query import TelemetryQuery
from tests.support.devices import World
from tests.support.telemetry import Rolling, Samples


@pytest.fixture
def rolling(world: World) -> Rolling:
    return Rolling(world)


def fill(rolling: Rolling, times: list[int], *, size: int = 7) -> list[tuple[int, Mapping[str, float]]]:
    """Store samples of some times in batches that overlap, in any order; return them in time order."""
    chance = random.Random(7)
    samples = [(ts, {"temp_c": ts % 97, "hum": 1.5} if ts % 5 else {"temp_c": ts % 97}) for ts in times]
    shuffled = sorted(samples, key=lambda sample: (sample[0] // HOUR_MS, chance.random()))
    for at in range(0, len(shuffled), size):
        rolling.store(shuffled[at : at + size])
    return sorted(samples)


def walk(rolling: Rolling, *metrics: str, **how: Any) -> tuple[list[TelemetryPoint], int]:
    """Return the points of all pages, and their number."""
    found: list[TelemetryPoint] = []
    after: Mapping[str, object] | None = None
    for pages in range(1, 400):
        page = rolling.read(*metrics, after=after, **how)
        assert len(page.points) <= page.limit
        found += page.points
        if page.next_position is None:
            return found, pages
        after = json.loads(json.dumps(page.next_position))
        signed = CursorSigner(current="k", keys={"k": "secret"}).encode(page.next_position, scope="telemetry")
        assert len(signed) <= 2_048
    raise AssertionError("the pages do not end")


def expected_raw(rolling: Rolling, samples: Samples, *metrics: str) -> list[Point]:
    return [
        Point(ts, rolling.device_id, metric, value)
        for ts, values in sorted(samples, key=lambda sample: sample[0])
        for metric, value in sorted(values.items())
        if not metrics or metric in metrics
    ]


def test_raw_points_come_back_once_and_in_order(rolling: Rolling) -> None:
    now = rolling.world.clock.ms
    samples = fill(rolling, [now - n * 17 * MINUTE_MS for n in range(100)])  # 28 h
    raw: dict[str, Any] = {"resolution": Resolution.RAW, "from_ms": samples[0][0], "to_ms": now + 1}
    for metrics in ((), ("temp_c",), ("hum", "temp_c"), ("absent",)):
        wanted = expected_raw(rolling, samples, *metrics)
        for limit in (None, 9, 1_000):
            assert walk(rolling, *metrics, limit=limit, **raw)[0] == wanted
    found, _ = walk(rolling, "temp_c", limit=1, resolution=Resolution.RAW, from_ms=samples[-10][0], to_ms=now)
    assert found == expected_raw(rolling, samples, "temp_c")[-10:-1]
    last_day = [point for point in expected_raw(rolling, samples) if point.ts > now - DAY_MS]
    assert walk(rolling, resolution=Resolution.RAW, limit=50)[0] == last_day


def test_pages_hold_at_equal_times(rolling: Rolling) -> None:
    now = rolling.world.clock.ms
    for seq in range(5):
        rolling.store([(now, {"temp_c": seq})])
    found, _ = walk(rolling, limit=2, resolution=Resolution.RAW)
    assert [point.value for point in found if isinstance(point, Point)] == [0, 1, 2, 3, 4]


@pytest.mark.fault("F-25i")
def test_a_page_ends_when_it_has_read_enough(rolling: Rolling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the pages, all of them together hold what one page of everything does."""
    now = rolling.world.clock.ms
    samples = fill(rolling, [now - n * 7 * MINUTE_MS for n in range(100)], size=3)
    monkeypatch.setattr(raw_module, "MAX_UNITS_READ", 3)
    for metrics, limit in (((), 1_000), (("hum",), 5), (("absent",), 9)):
        found, pages = walk(rolling, *metrics, limit=limit, resolution=Resolution.RAW)
        assert found == expected_raw(rolling, samples, *metrics)
        assert pages > 5


def expected_buckets(samples: Samples, metric: str, size: int) -> list[tuple[int, int, float, float, float, float]]:
    found: dict[int, list[tuple[int, float]]] = {}
    for ts, values in samples:
        if metric in values:
            found.setdefault(ts - ts % size, []).append((ts, values[metric]))
    rows = []
    for ts, pairs in sorted(found.items()):
        all_values = [value for _, value in pairs]
        rows.append((ts, len(pairs), min(all_values), max(all_values), sum(all_values), max(pairs)[1]))
    return rows


def rows_of(points: list[TelemetryPoint], metric: str) -> list[tuple[Any, ...]]:
    return [tuple(point.row) for point in points if isinstance(point, Bucket) and point.metric == metric]


SIZES = (Resolution.MINUTE, Resolution.HOUR, Resolution.DAY)


@pytest.mark.fault("F-12d")
def test_buckets_are_what_raw_says_whether_they_are_rolled_up_or_not(rolling: Rolling) -> None:
    """From the last second of the samples to days later: what is dirty, open or settled shows the same."""
    now = rolling.world.clock.ms
    samples = fill(rolling, [now - n * 19 * MINUTE_MS - 60_000 for n in range(150)])  # 47 h
    how: dict[str, Any] = {"from_ms": samples[0][0], "to_ms": now + 1}
    for minutes in (0, 20, 70, 25 * 60, 48 * 60):
        rolling.world.clock.pass_time(minutes=minutes)
        for _ in range(2):
            for resolution in SIZES:
                found, _pages = walk(rolling, resolution=resolution, **how)
                for metric in ("temp_c", "hum"):
                    assert rows_of(found, metric) == expected_buckets(samples, metric, BUCKET_MS[resolution])
                assert found == sorted(found, key=lambda point: (point.ts, point.metric))
                size = BUCKET_MS[resolution]
                for point in found:
                    assert isinstance(point, Bucket)
                    assert point.partial == (point.ts + size > rolling.world.clock.ms)
            rolling.sweep()
    assert rolling.dirty() == []


@pytest.mark.fault("F-24i")
def test_pages_of_buckets_hold_all_of_them_once(rolling: Rolling) -> None:
    now = rolling.world.clock.ms
    samples = fill(rolling, [now - n * 19 * MINUTE_MS for n in range(60)])
    rolling.world.clock.pass_time(minutes=90)
    rolling.sweep()
    for resolution in SIZES:
        how: dict[str, Any] = {"from_ms": samples[0][0], "to_ms": now + 1, "resolution": resolution}
        whole, pages = walk(rolling, **how)
        assert (pages, len(whole) > 0) == (1, True)
        for limit in (1, 2, 7, 40):
            if resolution is Resolution.MINUTE and limit < 7:
                continue
            assert walk(rolling, limit=limit, **how)[0] == whole


def test_late_samples_show_once_they_are_told_of_and_are_marked_until_then(
    rolling: Rolling, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = rolling.world.clock.ms
    begin = now - now % DAY_MS - 2 * DAY_MS
    how: dict[str, Any] = {"from_ms": begin, "to_ms": begin + DAY_MS, "resolution": Resolution.DAY}
    rolling.store([(begin + HOUR_MS, {"temp_c": 1})])
    rolling.settle()
    rolling.store([(begin + HOUR_MS + 1, {"temp_c": 3}), (begin + 5 * HOUR_MS, {"temp_c": 5})])

    def shown() -> tuple[int, bool]:
        [bucket] = rolling.read("temp_c", **how).points
        assert isinstance(bucket, Bucket)
        return bucket.row.samples, bucket.partial

    assert shown() == (3, False)
    # More dirty hours than a page computes: what is stored is shown, and that it lacks something.
    with monkeypatch.context() as patch:
        patch.setattr(buckets_module, "MAX_UNITS_ROLLED", 0)
        assert shown() == (1, True)
    rolling.settle()
    assert shown() == (3, False)
    assert rolling.stored("temp_c", Level.DAY, begin) is not None


def test_percentiles_are_near_those_of_the_values(rolling: Rolling) -> None:
    now, chance = rolling.world.clock.ms, random.Random(3)
    begin = now - now % DAY_MS - DAY_MS
    values = [chance.lognormvariate(3, 0.5) for _ in range(2_000)]
    for hour in range(4):
        part = values[hour * 500 : hour * 500 + 500]
        rolling.store([(begin + hour * HOUR_MS + n * 1_000, {"ms": value}) for n, value in enumerate(part)])
    how: dict[str, Any] = {"from_ms": begin, "to_ms": begin + DAY_MS, "percents": (50.0, 99.5)}
    for _ in range(2):
        [day] = rolling.read("ms", resolution=Resolution.DAY, **how).points
        assert isinstance(day, Bucket)
        ordered = sorted(values)
        assert day.percentiles == pytest.approx({"p50": ordered[999], "p99.5": ordered[1989]}, 0.011)
        hours = rolling.read("ms", resolution=Resolution.HOUR, **how).points
        assert len(hours) == 4
        for hour, bucket in enumerate(hours):
            assert isinstance(bucket, Bucket)
            middle = sorted(values[hour * 500 : hour * 500 + 500])[249]
            assert bucket.percentiles["p50"] == pytest.approx(middle, 0.011)
        rolling.settle()
    assert rolling.read("ms", **how).resolution is Resolution.HOUR
    with pytest.raises(InvalidRequest, match="percentiles"):
        rolling.read("ms", resolution=Resolution.MINUTE, **how)


def test_several_devices_are_read_together_with_their_gaps(world: World) -> None:
    first, second = Rolling(world), Rolling(world)
    now = world.clock.ms - world.clock.ms % HOUR_MS
    first.store([(now - n * MINUTE_MS, {"temp_c": n, "hum": 1}) for n in (1, 2, 30)])
    second.store([(now - n * MINUTE_MS, {"temp_c": -n}) for n in (1, 4)])
    query = TelemetryQuery(
        devices=(second.device_id, first.device_id, second.device_id),
        metrics=("temp_c", "hum"),
        from_ms=now - 40 * MINUTE_MS,
        to_ms=now,
        resolution=Resolution.MINUTE,
    )
    page = world.reader.read(world.user, query)
    found = {
        (series.device_id, series.metric): (
            [(point.ts - now) // MINUTE_MS for point in series.points],
            [((gap.begin_ms - now) // MINUTE_MS, (gap.end_ms - now) // MINUTE_MS) for gap in series.gaps],
        )
        for series in page.series
    }
    assert list(found) == [
        (second.device_id, "hum"),
        (second.device_id, "temp_c"),
        (first.device_id, "hum"),
        (first.device_id, "temp_c"),
    ]
    assert found[second.device_id, "hum"] == ([], [(-40, 0)])
    assert found[second.device_id, "temp_c"] == ([-4, -1], [(-40, -4), (-3, -1)])
    assert found[first.device_id, "temp_c"] == ([-30, -2, -1], [(-40, -30), (-29, -2)])
    for limit in (1, 3):
        for resolution in (Resolution.RAW, Resolution.MINUTE):
            changed: dict[str, Any] = {**vars(query), "resolution": resolution}
            whole = world.reader.read(world.user, TelemetryQuery(**changed)).points
            parts: list[TelemetryPoint] = []
            after = None
            while True:
                part = world.reader.read(world.user, TelemetryQuery(**{**changed, "limit": limit, "after": after}))
                parts += part.points
                after = part.next_position
                if after is None:
                    break
            assert parts == list(whole)
    other = world.reader.read(UserId(world.user), TelemetryQuery(devices=(first.device_id,)))
    assert other.series[0].gaps[0].begin_ms >= other.from_ms


def test_raw_of_devices_that_send_much_ends_where_all_of_them_were_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Rolling(world), Rolling(world)
    now = world.clock.ms
    mine = fill(first, [now - n * MINUTE_MS for n in range(80)], size=4)
    theirs = fill(second, [now - n * 11 * MINUTE_MS for n in range(20)])
    wanted = sorted(
        [*expected_raw(first, mine), *expected_raw(second, theirs)],
        key=lambda point: (point.ts, point.device_id != first.device_id, point.metric),
    )
    monkeypatch.setattr(raw_module, "MAX_UNITS_READ", 5)
    for limit in (7, 1_000):
        found: list[TelemetryPoint] = []
        after = None
        while True:
            page = world.reader.read(
                world.user,
                TelemetryQuery(
                    devices=(first.device_id, second.device_id), resolution=Resolution.RAW, limit=limit, after=after
                ),
            )
            found += page.points
            after = page.next_position
            if after is None:
                break
        assert found == wanted


def test_ranges_are_bounded(world: World) -> None:
    rolling = Rolling(world)
    now = world.clock.ms
    wrong: list[dict[str, Any]] = [
        {"from_ms": now, "to_ms": now},
        {"from_ms": now - 32 * DAY_MS, "to_ms": now, "resolution": Resolution.RAW},
        {"from_ms": now - 32 * DAY_MS, "to_ms": now, "resolution": Resolution.MINUTE},
        {"from_ms": now - 401 * DAY_MS, "to_ms": now, "resolution": Resolution.HOUR},
        {"from_ms": now - 2_000 * DAY_MS, "to_ms": now},
    ]
    for how in wrong:
        with pytest.raises(InvalidRequest):
            rolling.read(**how)
    with pytest.raises(InvalidRequest, match="series"):
        rolling.read(*(f"m{n}" for n in range(101)))
    for user, device_id in ((UserId(new_id()), rolling.device_id), (world.user, new_id()), (world.user, "x#y")):
        with pytest.raises(NotFound):
            world.reader.read(user, TelemetryQuery(devices=(rolling.device_id, device_id)))

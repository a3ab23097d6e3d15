"""Telemetry read back: raw points over batches, days and pages; hours and days computed on read."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from itertools import cycle, product
from typing import Any

import pytest

from karma.core.clock import epoch_ms, from_epoch_ms, iso, parse_iso
from karma.core.cursors import CursorSigner
from karma.core.errors import InvalidRequest, NotFound
from karma.core.ids import UserId, new_id
from karma.devices import telemetry as telemetry_module
from karma.devices.answers import PointView, point_view
from karma.devices.domain import Resolution, TelemetryPoint
from karma.devices.service import Created
from karma.devices.telemetry import TelemetryQuery
from tests.support.devices import World

HOUR = 3_600_000


def fill(world: World, made: Created, times: list[int], *, size: int = 7) -> None:
    """Store batches that overlap in time, over more than a day, in any order."""
    shuffled = sorted(times, key=lambda ts: (ts // HOUR, random.Random(ts).random()))
    batches: list[list[int]] = []
    batch: list[int] = []
    for ts in shuffled:
        if batch and (len(batch) == size or max(*batch, ts) - min(*batch, ts) > HOUR):
            batches.append(batch)
            batch = []
        batch.append(ts)
    batches.append(batch)
    messages = [
        world.message(
            made,
            "telemetry",
            {"boot": "b", "seq": seq, "samples": [{"ts": ts, "m": {"temp_c": ts % 97, "hum": 1.5}} for ts in batch]},
        )
        for seq, batch in enumerate(batches)
    ]
    world.tell(*messages)


def test_raw_points_come_back_once_and_in_order(world: World) -> None:
    made = world.create()
    now = world.clock.ms
    times = [now - n * 17 * 60_000 for n in range(100)]  # 28 h
    fill(world, made, times)
    device_id = made.current.device.id

    def walk(limit: int, **how: object) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        after = None
        while True:
            query = TelemetryQuery(metric="temp_c", limit=limit, after=after, **how)  # type: ignore[arg-type]
            page = world.reader.points(world.user, device_id, query)
            shown = [point_view(point, named=False) for point in page.points]
            found += [(point["ts"], point["value"]) for point in shown]
            assert len(page.points) <= limit
            after = page.next_position
            if after is None:
                return found

    expected = [(iso(from_epoch_ms(ts)), ts % 97) for ts in sorted(times)]
    everything = {"from_ms": min(times), "to_ms": now + 1}
    assert walk(1000, **everything) == expected
    assert walk(9, **everything) == expected
    assert walk(1, from_ms=times[9], to_ms=now) == expected[-10:-1]
    last_day = [pair for pair, ts in zip(expected, sorted(times), strict=True) if ts > now - 24 * HOUR]
    assert walk(50) == last_day
    both = world.reader.points(world.user, device_id, TelemetryQuery(limit=3))
    assert [point.metric for point in both.points[:2]] == ["hum", "temp_c"]


def test_pages_hold_at_equal_times(world: World) -> None:
    made = world.create()
    now = world.clock.ms
    for seq in range(5):
        world.tell(world.message(made, "telemetry", world.samples((0, float(seq)), seq=seq)))
    found, after = [], None
    for _ in range(10):
        page = world.reader.points(
            world.user, made.current.device.id, TelemetryQuery(metric="temp_c", limit=2, after=after)
        )
        found += [point_view(point, named=False)["value"] for point in page.points]
        after = page.next_position
        if after is None:
            break
    assert found == [0, 1, 2, 3, 4]
    assert now == world.clock.ms


@pytest.mark.fault("F-12d")
def test_hours_and_days_are_computed_on_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world.create()
    now = world.clock.ms
    times = [now - n * 20 * 60_000 - 60_000 for n in range(150)]
    fill(world, made, times)
    monkeypatch.setattr(telemetry_module, "MAX_UNITS_READ", 3)  # several pages
    for resolution, size in ((Resolution.HOUR, HOUR), (Resolution.DAY, 24 * HOUR)):
        found: list[PointView] = []
        after = None
        while True:
            query = TelemetryQuery(
                metric="temp_c", resolution=resolution, from_ms=min(times), to_ms=now + 1, after=after
            )
            page = world.reader.points(world.user, made.current.device.id, query)
            found += [point_view(point, named=False) for point in page.points]
            after = page.next_position
            if after is None:
                break
        expected: dict[int, list[int]] = {}
        for ts in sorted(times):
            expected.setdefault(ts - ts % size, []).append(ts % 97)
        assert [epoch_ms(parse_iso(point["ts"])) for point in found] == sorted(expected)
        for point, values in zip(found, expected.values(), strict=True):
            assert (point["count"], point["min"], point["max"]) == (len(values), min(values), max(values))
            assert point["avg"] == pytest.approx(sum(values) / len(values))
            begin = epoch_ms(parse_iso(point["ts"]))
            assert point["partial"] == (begin < min(times) or begin + size > now)
        partial = [point["partial"] for point in found]
        assert partial == [True, *[False] * (len(partial) - 2), now % size != 0]


def walk(world: World, made: Created, **how: Any) -> tuple[list[TelemetryPoint], int]:
    """Return the points of all pages, and their number."""
    found: list[TelemetryPoint] = []
    after: Mapping[str, object] | None = None
    for pages in range(1, 300):
        query = TelemetryQuery(after=after, **how)
        page = world.reader.points(world.user, made.current.device.id, query)
        assert len(page.points) <= query.limit
        found += page.points
        if page.next_position is None:
            return found, pages
        after = json.loads(json.dumps(page.next_position))
        signed = CursorSigner(current="k", keys={"k": "secret"}).encode(page.next_position, scope="telemetry")
        assert len(signed) <= 2_048
    raise AssertionError("the pages do not end")


@pytest.mark.fault("F-25i")
def test_a_page_ends_when_it_has_read_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the pages, all of them together hold what one page of everything does."""
    made = world.create()
    stored = fill_hours(world, made, hours=12, a_hour=2)
    now = world.clock.ms
    resolutions, metrics = (Resolution.RAW, Resolution.HOUR, Resolution.DAY), ("", "temp_c", "rare", "absent")
    ends = cycle([(2, 1000), (7, 11), (40, 5)])
    for (resolution, metric), (units, limit) in zip(product(resolutions, metrics), ends, strict=False):
        how: Any = {
            "from_ms": now - 11 * HOUR - 17,
            "to_ms": now - 5,
            "resolution": resolution,
            "metric": metric,
        }
        whole, one = walk(world, made, limit=5_000, **how)
        assert one == 1
        assert (len(whole) > 0) == (metric != "absent")
        with monkeypatch.context() as patch:
            patch.setattr(telemetry_module, "MAX_UNITS_READ", units)
            found, pages = walk(world, made, limit=limit, **how)
        assert found == whole
        # Aggregates end at hours, and read the one before again.
        assert pages >= stored // (units + 2 * 2) - 2


def fill_hours(world: World, made: Created, *, hours: int, a_hour: int) -> int:
    """Store batches of several samples at any times of each hour up to now; return their number."""
    now = world.clock.ms
    chance = random.Random(4)
    messages = []
    for seq in range(hours * a_hour):
        hour = now - now % HOUR - (1 + seq // a_hour) * HOUR
        times = [hour + chance.randrange(HOUR // 60_000) * 60_000 for _ in range(3)]
        samples = [{"ts": ts, "m": {"temp_c": chance.randrange(97), "hum": 1}} for ts in times]
        if seq % 10 == 7:
            samples[0]["m"] = {"rare": seq}
        messages.append(world.message(made, "telemetry", {"boot": "b", "seq": seq, "samples": samples}))
    world.tell(*messages)
    return len(messages)


@pytest.mark.fault("F-25i")
def test_a_day_that_cannot_be_summed_at_once_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world.create()
    now = world.clock.ms
    names = [f"metric-{n}" for n in range(60)]
    samples = [{"ts": now - n * HOUR, "m": dict.fromkeys(names, 1.25)} for n in range(9)]
    world.tell(world.message(made, "telemetry", {"boot": "b", "seq": 1, "samples": samples}))
    monkeypatch.setattr(telemetry_module, "MAX_UNITS_READ", 2)
    monkeypatch.setattr(telemetry_module, "MAX_UNITS_SUMMED", 8)
    with pytest.raises(InvalidRequest, match="metric: name one"):
        walk(world, made, resolution=Resolution.DAY)
    day, pages = walk(world, made, resolution=Resolution.DAY, metric=names[3])
    assert pages > 1
    assert sum(point_view(point, named=False)["count"] for point in day) == len(samples)
    assert len(walk(world, made, resolution=Resolution.HOUR)[0]) == len(samples) * len(names)


@pytest.mark.fault("F-24i")
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_an_hour_of_more_metrics_than_a_page_has_points_is_shown_on_several(world: World, limit: int) -> None:
    made = world.create()
    now = world.clock.ms
    hour = now - now % HOUR - 2 * HOUR
    names = [f"m{n}" for n in range(5)]
    samples = [{"ts": hour + offset, "m": dict.fromkeys(names, 1)} for offset in (10, HOUR + 10)]
    world.tell(world.message(made, "telemetry", {"boot": "b", "seq": 1, "samples": samples}))
    found: list[tuple[int, str]] = []
    after = None
    while True:
        query = TelemetryQuery(resolution=Resolution.HOUR, from_ms=hour + 5, to_ms=now + 1, limit=limit, after=after)
        page = world.reader.points(world.user, made.current.device.id, query)
        assert len(page.points) <= limit
        found += [(point.ts, point.metric) for point in page.points]
        assert len(found) <= 2 * len(names)
        after = page.next_position
        if after is None:
            break
    times = sorted({ts for ts, _ in found})
    assert found == [(ts, name) for ts in times for name in names]
    assert len(times) == 2


def test_ranges_are_bounded(world: World) -> None:
    made = world.create()
    now = world.clock.ms
    wrong = [
        TelemetryQuery(from_ms=now, to_ms=now),
        TelemetryQuery(from_ms=now - 32 * 24 * HOUR, to_ms=now),
        TelemetryQuery(from_ms=now - 8 * 24 * HOUR, to_ms=now, resolution=Resolution.HOUR),
    ]
    for query in wrong:
        with pytest.raises(InvalidRequest):
            world.reader.points(world.user, made.current.device.id, query)
    for user, device_id in ((UserId(new_id()), made.current.device.id), (world.user, new_id()), (world.user, "x#y")):
        with pytest.raises(NotFound):
            world.reader.points(user, device_id, TelemetryQuery())

"""Reading rollups costs what they hold, not what they were made of: calls and units are those of docs/calls.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from benchmarks.meter import Meter, Spent
from karma.core import aws
from karma.telemetry.domain import DAY_MS, HOUR_MS, Level, Period, Resolution, Rollup, joined, rolled_up
from karma.telemetry.query import TelemetryPage
from tests.support.devices import World
from tests.support.stack import Stack
from tests.support.telemetry import Rolling

METRICS = ("temp_c", "rh_pct", "power_w")


@cache
def an_hour(samples: int) -> Mapping[str, Rollup]:
    """Return the rollups of an hour with so many samples, each of three metrics."""
    every_ms = HOUR_MS / samples
    return rolled_up(
        (int(n * every_ms), {name: 20 + n % 40 / 4 + at for at, name in enumerate(METRICS)}) for n in range(samples)
    )


def moved(rollup: Rollup, begin_ms: int) -> Rollup:
    return Rollup(tuple(row._replace(ts=row.ts + begin_ms) for row in rollup.rows), rollup.sketch)


def seeded(world: World, samples: int) -> tuple[Rolling, int]:
    """Store a day's rollups of a device whose every hour has so many samples, without the samples."""
    rolling = Rolling(world)
    day = (world.clock.ms - 3 * DAY_MS) // DAY_MS
    rollups = world.rollups
    numbers = rollups.numbers(rolling.device_id, METRICS)
    days: dict[int, list[tuple[int, Rollup]]] = {number: [] for number in numbers.values()}
    for level, first, count in ((Level.HOUR, day * 24, 24), (Level.DAY, day, 1)):
        for place in range(first, first + count):
            period = Period(rolling.device_id, level, place)
            rollups.mark(period, due=world.clock.now())
            dirty = rollups.dirty(period)
            assert dirty is not None
            if level is Level.HOUR:
                made = {numbers[name]: moved(each, period.begin_ms) for name, each in an_hour(samples).items()}
                for number, rollup in made.items():
                    days[number].append((period.begin_ms, rollup))
            else:
                made = {number: joined(hours) for number, hours in days.items()}
            rollups.replace(dirty, made)
    return rolling, day * DAY_MS


def read(
    stack: Stack, rolling: Rolling, *metrics: str, resolution: Resolution, begin_ms: int
) -> tuple[TelemetryPage, Spent]:
    meter = Meter(aws.client("dynamodb"), lookup=stack.aws("dynamodb"))
    with meter.recording() as spent:
        page = rolling.read(*metrics, resolution=resolution, from_ms=begin_ms, to_ms=begin_ms + DAY_MS)
    return page, spent


def test_a_bucket_of_100_000_samples_costs_what_one_of_100_does(stack: Stack, world: World) -> None:
    (few, begin_ms), (many, _) = seeded(world, 100), seeded(world, 100_000)
    for resolution in (Resolution.AUTO, Resolution.MINUTE, Resolution.HOUR, Resolution.DAY):
        for metrics in (METRICS[:1], METRICS[:2]):
            page, cheap = read(stack, few, *metrics, resolution=resolution, begin_ms=begin_ms)
            other, dear = read(stack, many, *metrics, resolution=resolution, begin_ms=begin_ms)
            assert len(page.points) == len(other.points) > 0
            # The device, its directory, and the rollups of each metric.
            assert cheap.calls == dear.calls == ["GetItem", "Query", *["Query"] * len(metrics)]
            # Minutes of a thousand times as many samples have counts and sums of three more digits.
            is_short = resolution in (Resolution.HOUR, Resolution.DAY)
            assert cheap.read_units <= dear.read_units <= cheap.read_units * (1 if is_short else 1.25)


def test_a_day_at_1_hz_at_auto_is_one_page(stack: Stack, world: World) -> None:
    rolling, begin_ms = seeded(world, 3_600)
    page, spent = read(stack, rolling, resolution=Resolution.AUTO, begin_ms=begin_ms)
    assert page.resolution is Resolution.MINUTE
    assert page.next_position is None
    assert len(page.points) == 1_440 * len(METRICS)
    assert spent.calls == ["GetItem", "Query", *["Query"] * len(METRICS)]
    assert spent.read_units <= 1 + len(METRICS) * 7

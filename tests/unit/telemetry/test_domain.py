"""Rollups of samples in any order, and what `auto` means."""

from __future__ import annotations

import random
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import DeviceId, new_id
from karma.telemetry.domain import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    Gap,
    Level,
    Period,
    Resolution,
    Statistics,
    gaps_between,
    joined,
    resolution_for,
    rolled_up,
    summed,
)

Samples = st.lists(
    st.tuples(
        st.integers(0, HOUR_MS - 1),
        st.dictionaries(st.sampled_from(["a", "b#1", "温"]), st.floats(-1e9, 1e9), min_size=1),
    ),
    min_size=1,
    max_size=40,
)


def expected(samples: list[tuple[int, dict[str, float]]], metric: str, size: int) -> list[Statistics]:
    """Count as the definitions say, with exact sums."""
    found: dict[int, list[tuple[int, float]]] = {}
    for ts, values in samples:
        if metric in values:
            found.setdefault(ts - ts % size, []).append((ts, values[metric]))
    return [
        Statistics(
            ts,
            len(pairs),
            min(value for _, value in pairs),
            max(value for _, value in pairs),
            float(sum(Fraction(value) for _, value in pairs)),
            max(pairs)[1],
        )
        for ts, pairs in sorted(found.items())
    ]


@given(samples=Samples, chance=st.randoms(use_true_random=False))
def test_a_rollup_is_the_same_for_any_order_of_samples(
    samples: list[tuple[int, dict[str, float]]], chance: random.Random
) -> None:
    made = rolled_up(samples)
    shuffled = list(samples)
    chance.shuffle(shuffled)
    assert rolled_up(shuffled) == made
    assert made.keys() == {metric for _, values in samples for metric in values}
    for metric, rollup in made.items():
        assert list(rollup.rows) == expected(samples, metric, MINUTE_MS)
        [hour] = expected(samples, metric, HOUR_MS)
        row = summed(0, rollup)
        assert (row.samples, row.least, row.greatest, row.last) == (hour.samples, hour.least, hour.greatest, hour.last)
        assert row.total == pytest.approx(hour.total, rel=1e-9, abs=1e-3)
        assert row.least <= row.average <= row.greatest
        assert rollup.sketch.count == hour.samples


@given(hours=st.dictionaries(st.integers(0, 23), Samples, min_size=1, max_size=4))
def test_a_day_of_hours_is_the_day_of_their_samples(hours: dict[int, list[tuple[int, dict[str, float]]]]) -> None:
    moved = {
        hour: [(hour * HOUR_MS + ts, {"a": 1.0, **values}) for ts, values in samples] for hour, samples in hours.items()
    }
    day = joined((hour * HOUR_MS, rolled_up(samples)["a"]) for hour, samples in sorted(moved.items()))
    everything = [sample for samples in moved.values() for sample in samples]
    for row, wanted in zip(day.rows, expected(everything, "a", HOUR_MS), strict=True):
        assert row[:4] == wanted[:4]
        assert row.last == wanted.last
    assert day.sketch == rolled_up(everything)["a"].sketch


def test_gaps_are_the_stretches_without_a_bucket() -> None:
    times = [10, 11, 15, 16]
    assert gaps_between(times, size_ms=1, begin_ms=10, end_ms=17) == [Gap(12, 15)]
    assert gaps_between(times, size_ms=1, begin_ms=8, end_ms=20) == [Gap(8, 10), Gap(12, 15), Gap(17, 20)]
    assert gaps_between([], size_ms=5, begin_ms=0, end_ms=20) == [Gap(0, 20)]
    assert gaps_between([0], size_ms=5, begin_ms=0, end_ms=3) == []


@pytest.mark.parametrize(
    ("length", "resolution", "most"),
    [
        (timedelta(seconds=1), Resolution.RAW, 3_600),
        (timedelta(hours=1), Resolution.RAW, 3_600),
        (timedelta(hours=24), Resolution.MINUTE, 1_500),
        (timedelta(hours=25), Resolution.MINUTE, 1_500),
        (timedelta(days=7), Resolution.HOUR, 1_500),
        (timedelta(days=62), Resolution.HOUR, 1_500),
        (timedelta(days=366), Resolution.DAY, 1_500),
    ],
)
def test_auto_shows_a_range_with_few_points(length: timedelta, resolution: Resolution, most: int) -> None:
    span_ms = int(length.total_seconds() * 1000)
    assert resolution_for(span_ms) is resolution
    size = {Resolution.RAW: 1_000, Resolution.MINUTE: MINUTE_MS, Resolution.HOUR: HOUR_MS, Resolution.DAY: DAY_MS}
    assert span_ms / size[resolution] <= most


def test_a_span_knows_when_it_is() -> None:
    period = Period(DeviceId(new_id()), Level.DAY, 2)
    assert (period.begin_ms, period.end_ms) == (2 * DAY_MS, 3 * DAY_MS)

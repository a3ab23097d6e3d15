"""Sketches: errors within what they say, and the same result however values are put together."""

from __future__ import annotations

import math
import random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.telemetry.sketch import BASE_ERROR, MAX_BUCKETS, Sketch

Values = st.lists(st.floats(-1e300, 1e300, allow_subnormal=False), min_size=1, max_size=60)


def true_percentile(values: list[float], percent: float) -> float:
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]


@given(values=Values, percent=st.sampled_from([1, 50, 95, 99.9]))
def test_a_percentile_is_within_the_error_that_the_sketch_says(values: list[float], percent: float) -> None:
    sketch = Sketch.of(values)
    wanted = true_percentile(values, percent)
    assert abs(sketch.percentile(percent) - wanted) <= abs(wanted) * sketch.error * (1 + 1e-6) + 1e-300


@given(parts=st.lists(Values, min_size=1, max_size=6), chance=st.randoms(use_true_random=False))
def test_what_is_merged_is_what_all_values_make(parts: list[list[float]], chance: random.Random) -> None:
    whole = Sketch.of(value for part in parts for value in part)
    sketches = [Sketch.of(part) for part in parts]
    chance.shuffle(sketches)
    assert Sketch.merged(sketches) == whole
    assert whole.count == sum(map(len, parts))


@given(values=Values)
def test_it_is_stored_as_json(values: list[float]) -> None:
    sketch = Sketch.of(values)
    assert Sketch.read(orjson.loads(orjson.dumps(sketch.stored()))) == sketch


def test_values_of_a_wide_range_take_no_more_room_and_lose_precision_by_their_own_account() -> None:
    chance = random.Random(5)
    calm = Sketch.of(chance.gauss(40, 3) for _ in range(3_600))
    assert calm.error == BASE_ERROR
    wild = [chance.lognormvariate(0, 40) for _ in range(3_600)]
    sketch = Sketch.of(wild)
    assert len(sketch.positive) <= MAX_BUCKETS
    assert BASE_ERROR < sketch.error < 1
    assert len(orjson.dumps(sketch.stored())) < 2_000


def test_a_sketch_of_no_values_has_no_percentiles() -> None:
    with pytest.raises(ValueError, match="no values"):
        Sketch().percentile(50)

"""The machine of alarms against an oracle that sees the whole history, sorted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from karma.alarms.engine import (
    MAX_NEW,
    NEVER,
    WINDOW,
    Comparison,
    Episode,
    EpisodeChange,
    SampleCondition,
    WatchState,
    absorb,
    would_raise,
)

HOT = SampleCondition(metric="temp_c", comparison=Comparison.ABOVE, high=23, margin=1)
Sample = tuple[int, float]


def oracle(condition: SampleCondition, samples: Sequence[Sample]) -> list[Episode]:
    """Alarms of a whole history by the words of the rule, without the machine: it looks back at every sample."""
    newest: dict[int, float] = {}
    for ts, value in samples:
        newest[ts] = max(value, newest.get(ts, value))
    history = sorted(newest.items())
    found: list[Episode] = []
    is_open = False
    for at, (ts, value) in enumerate(history):
        depths = [
            condition.depth(each, history[i - 1] if i else None, when)
            for i, (when, each) in enumerate(history[: at + 1])
        ]
        if depths[at] is None:
            continue
        if not is_open:
            begin = at
            while begin and depths[begin] is not None and depths[begin] < 0:  # type: ignore[operator]
                begin -= 1
            first = next((i for i in range(begin, at + 1) if depths[i] is not None and depths[i] < 0), None)  # type: ignore[operator]
            after_end = next((i for i, one in enumerate(history) if found and one[0] > found[-1].cleared), 0)
            first = None if first is None else max(first, after_end)
            bad_now = depths[at] is not None and depths[at] < 0  # type: ignore[operator]
            if bad_now and first is not None and ts - history[first][0] >= condition.for_ms:
                found.append(Episode(history[first][0], ts, NEVER, value))
                is_open = True
            continue
        begin = at
        while depths[begin] is not None and depths[begin] >= condition.margin and history[begin][0] > found[-1].raised:  # type: ignore[operator]
            begin -= 1
        good = [i for i in range(begin, at + 1) if history[i][0] > found[-1].raised and depths[i] >= condition.margin]  # type: ignore[operator]
        if good and depths[at] >= condition.margin and ts - history[good[0]][0] >= condition.keep_ms:  # type: ignore[operator]
            found[-1] = found[-1]._replace(cleared=ts)
            is_open = False
    return found


class Told:
    """The knowledge of somebody who hears of every change."""

    def __init__(self, condition: SampleCondition) -> None:
        self.condition = condition
        self.state = WatchState(floor=-1)
        self.raised: list[Episode] = []

    def hear(self, batch: Sequence[Sample]) -> tuple[EpisodeChange, ...]:
        outcome = absorb(self.condition, self.state, batch)
        # Stored and read again, as between two batches.
        self.state = WatchState.read(json.loads(json.dumps(outcome.state.stored())))
        for change in outcome.changes:
            if change.is_new:
                assert change.episode.raised not in {each.raised for each in self.raised}, "raised twice"
                self.raised.append(change.episode)
            else:
                place = next(i for i, each in enumerate(self.raised) if each.raised == change.episode.raised)
                assert self.raised[place].cleared == NEVER, "cleared twice"
                self.raised[place] = self.raised[place]._replace(cleared=change.episode.cleared)
        return outcome.changes


values = st.sampled_from([20.0, 22.5, 25.0])
histories = st.lists(st.tuples(st.integers(0, 60), values), min_size=1, max_size=30)
conditions = st.builds(
    SampleCondition,
    metric=st.just("m"),
    comparison=st.sampled_from(list(Comparison)),
    low=st.just(21.0),
    high=st.sampled_from([2000.0, 23.0]),
    margin=st.sampled_from([0.0, 1.0]),
    for_ms=st.sampled_from([0, 5, 10]),
    keep_ms=st.sampled_from([0, 5]),
)


def batches_of(samples: Sequence[Sample], cuts: Sequence[int]) -> list[Sequence[Sample]]:
    edges = [0, *sorted(cut % (len(samples) + 1) for cut in cuts), len(samples)]
    return [samples[a:b] for a, b in pairwise(edges) if a < b]


@settings(max_examples=300)
@given(condition=conditions, samples=histories, cuts=st.lists(st.integers(0, 30), max_size=6), again=st.integers(0, 5))
def test_in_order_it_says_what_the_whole_history_says(
    condition: SampleCondition, samples: list[Sample], cuts: list[int], again: int
) -> None:
    one_a_moment = sorted(dict(samples).items())
    told = Told(condition)
    batches = batches_of(one_a_moment, cuts)
    for place, batch in enumerate(batches):
        told.hear(batch)
        told.hear(batches[max(0, place - again)])  # delivered twice, or once more later
    assert told.raised == oracle(condition, one_a_moment)
    assert would_raise(condition, dict(one_a_moment)) == told.raised


@settings(max_examples=300)
@given(condition=conditions, samples=histories, order=st.randoms(), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_in_any_order_none_is_missed_and_none_doubled(
    condition: SampleCondition, samples: list[Sample], order: object, cuts: list[int]
) -> None:
    if condition.comparison is Comparison.RATE:  # it is between neighbours: what comes late makes others of them
        condition = replace(condition, comparison=Comparison.ABOVE)
    condition = replace(condition, keep_ms=0)
    samples = list(dict(samples).items())
    shuffled = [*samples, *samples[: len(samples) // 2]]
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    told = Told(condition)
    for batch in batches_of(shuffled, cuts):
        told.hear(batch)
    truth = oracle(condition, samples)
    for episode in truth:
        assert len([each for each in told.raised if each.meets(episode)]) == 1, (episode, told.raised)
    if not condition.for_ms:
        # Nothing that comes late makes a bad sample good: nothing is told that the whole history does not tell.
        assert all(any(each.meets(episode) for episode in truth) for each in told.raised)


@given(extra=st.integers(1, 40), batch=st.integers(1, 20))
def test_what_comes_beyond_the_window_is_counted_and_changes_nothing(extra: int, batch: int) -> None:
    state = WatchState(floor=-1)
    samples = [(ts, 20.0) for ts in range(10, 10 + WINDOW + extra)]
    for at in range(0, len(samples), batch):
        state = absorb(HOT, state, samples[at : at + batch]).state
    assert len(state.tail) == WINDOW
    late = absorb(HOT, state, [(5, 30.0)])
    assert (late.late, late.changes, late.state) == (1, (), state)


def test_what_flaps_is_bounded_and_not_told_later() -> None:
    flapping = [(ts, 25.0 if ts % 2 else 20.0) for ts in range(1, 3001)]
    outcome = absorb(HOT, WatchState(floor=0), flapping)
    assert len(outcome.changes) == MAX_NEW
    assert outcome.dropped == 1500 - MAX_NEW
    assert absorb(HOT, outcome.state, flapping).changes == ()
    assert absorb(HOT, outcome.state, [*flapping, (3001, 25.0)]).changes == (
        EpisodeChange(Episode(3001, 3001, NEVER, 25.0), is_new=True),
    )


def test_a_late_sample_goes_to_its_place() -> None:
    told = Told(replace(HOT, for_ms=10))
    assert told.hear([(0, 25.0), (8, 25.0)]) == ()
    assert told.hear([(4, 20.0)]) == ()
    assert told.hear([(17, 25.0)]) == ()
    (change,) = told.hear([(18, 25.0)])
    assert change == EpisodeChange(Episode(8, 18, NEVER, 25.0), is_new=True)


def test_hysteresis_and_keep_hold_an_alarm() -> None:
    told = Told(replace(HOT, keep_ms=60))
    told.hear([(0, 23.5), (10, 22.5), (20, 21.9), (50, 22.5), (60, 21.0), (119, 21.0)])
    assert [each.cleared for each in told.raised] == [NEVER]
    told.hear([(120, 21.0)])
    assert [each.cleared for each in told.raised] == [120]


def test_a_rate_needs_two_samples_and_counts_both_ways() -> None:
    rate = SampleCondition(metric="m", comparison=Comparison.RATE, high=2)
    told = Told(rate)
    told.hear([(1_000_000, 500.0)])
    assert told.raised == []
    told.hear([(1_001_000, 503.0), (1_002_000, 503.0), (1_003_000, 500.0)])
    assert [(each.since, each.cleared) for each in told.raised] == [(1_001_000, 1_002_000), (1_003_000, NEVER)]

"""The same lifecycle events, in any order and with any repeats, end in one presence: that of the latest event."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.devices.domain import PRESENCE_WINDOW_MS, PresenceEvent, PresenceState

MINUTE = 60_000


def on(ts: int, version: int, session: str = "s") -> PresenceEvent:
    return PresenceEvent(ts, version, True, session)


def off(ts: int, version: int, session: str = "s") -> PresenceEvent:
    return PresenceEvent(ts, version, False, session)


events = st.builds(
    PresenceEvent,
    ts=st.integers(0, 20 * MINUTE),
    version=st.integers(0, 6),
    connected=st.booleans(),
    session=st.sampled_from(["s1", "s2", "s3"]),
)


def judged(history: list[PresenceEvent]) -> PresenceEvent:
    """Return the event that the rules, applied literally to all events at once, decide for."""
    newest = max(event.ts for event in history)
    window = [event for event in history if event.ts >= newest - PRESENCE_WINDOW_MS]
    return max(window, key=lambda event: event.rank)


@given(st.lists(events, min_size=1, max_size=8), st.randoms(use_true_random=False), st.data())
def test_any_order_and_repeats_end_in_the_same_state(
    history: list[PresenceEvent], random: Random, data: st.DataObject
) -> None:
    draw = data.draw
    expected = PresenceState().after(*history)
    order = [*history, *draw(st.lists(st.sampled_from(history), max_size=6))]
    random.shuffle(order)
    state = PresenceState()
    while order:
        size = draw(st.integers(1, len(order)))
        batch, order = order[:size], order[size:]
        state = state.after(*batch)
    assert state == expected
    assert state.winner == judged(history)


@given(st.lists(events, min_size=1, max_size=8))
def test_the_state_stays_small_and_holds_only_what_may_win(history: list[PresenceEvent]) -> None:
    kept = PresenceState().after(*history).events
    assert [event.ts for event in kept] == sorted((event.ts for event in kept), reverse=True)
    assert [event.rank for event in kept] == sorted(event.rank for event in kept)


@st.composite
def lives(draw: st.DrawFn) -> list[PresenceEvent]:
    """Draw the events of a real device: connections one after another, versions that rise, or restart at 0 after a
    pause."""
    ts, version, history = 0, 0, []
    for number in range(draw(st.integers(1, 6))):
        ts += draw(st.integers(1, 10 * MINUTE))
        session = draw(st.sampled_from(["persistent", f"clean{number}"]))
        history.append(on(ts, version, session))
        ts += draw(st.integers(0, 10 * MINUTE))
        history.append(off(ts, version, session))
        version += draw(st.integers(1, 2))
        if draw(st.booleans()):
            ts, version = ts + PRESENCE_WINDOW_MS + 1, 0
    return history if draw(st.booleans()) else history[:-1]


@given(lives(), st.randoms(use_true_random=False))
def test_a_real_life_ends_as_its_last_event_says(history: list[PresenceEvent], random: Random) -> None:
    last = history[-1]
    random.shuffle(history)
    state = PresenceState()
    for event in history:
        state = state.after(event)
    assert state.connected is last.connected


@pytest.mark.parametrize(
    ("history", "connected"),
    [
        ([], False),
        ([on(0, 0)], True),
        ([on(0, 0), off(1000, 0)], False),
        ([on(1000, 0), off(1000, 0)], False),  # equal version: disconnected wins
        ([off(1000, 0), on(1000, 1)], True),  # take-over within one millisecond
        ([on(0, 5), off(PRESENCE_WINDOW_MS, 2)], True),  # within the window the version decides
        ([on(0, 5), off(PRESENCE_WINDOW_MS + 1, 2)], False),  # beyond it the time does
        ([off(0, 9), on(PRESENCE_WINDOW_MS + 1, 0)], True),  # versions restarted after a pause
        ([off(1000, 3), on(1500, 3)], False),  # a closed session does not reopen
        ([off(1000, 3, "p"), on(2000, 4, "p")], True),  # a persistent session resumed: same identifier, next version
    ],
)
def test_each_rule_decides_which_of_two_events_wins_in_any_order(history: list[PresenceEvent], connected: bool) -> None:
    for order in itertools.permutations(history):
        assert PresenceState().after(*order).connected is connected

"""Limits of what one device costs, however fast it sends; an ordinary device neither meets nor pays for them."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import DeviceId, new_id
from karma.devices import allowance
from karma.devices.allowance import (
    ANSWERS_AN_HOUR,
    LETTERS_AN_HOUR,
    MESSAGES_PORTION,
    PORTION,
    UNITS_AN_HOUR,
    WORDS_AN_HOUR,
    HourlyAllowance,
)
from karma.devices.repository.hours import Cost

pytestmark = pytest.mark.fault("F-26e")
HOUR_MS = 3_600_000
DEVICE, OTHER = DeviceId(new_id()), DeviceId(new_id())
MESSAGE_UNITS = 128 + 24
"""Write units of a message of 128 KB with the largest number of hours."""


class Hours:
    """HourRepository in a dictionary; counts the calls."""

    def __init__(self) -> None:
        self.taken: dict[tuple[DeviceId, Cost, int], int] = {}
        self.calls = 0

    def take(self, device_id: DeviceId, cost: Cost, amount: int, *, hour: int, most: int) -> bool:
        self.calls += 1
        place = (device_id, cost, hour)
        if self.taken.get(place, 0) + amount > most:
            return False
        self.taken[place] = self.taken.get(place, 0) + amount
        return True


def processes(hours: Hours, number: int) -> list[HourlyAllowance]:
    return [HourlyAllowance(cast("Any", hours)) for _ in range(number)]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, MESSAGE_UNITS), st.integers(0, 1)), max_size=400),
    st.integers(1, 4),
)
def test_a_device_never_has_more_than_its_hour(sent: list[tuple[int, int, int]], number: int) -> None:
    """The first portion of each process comes on top."""
    hours = Hours()
    running = processes(hours, number)
    had = {0: 0, 1: 0}
    for process, units, hour in sent:
        if running[process % number].take_units(DEVICE, units, received_ms=hour * HOUR_MS):
            had[hour] += units
        elif had[hour] < PORTION - MESSAGE_UNITS:
            pytest.fail("an ordinary device was refused")
    assert all(units <= UNITS_AN_HOUR + number * PORTION for units in had.values())


def test_a_flood_costs_little_more_than_nothing() -> None:
    """Ten messages a second, each with an item in 24 hours, to all processes for an hour."""
    hours = Hours()
    running = processes(hours, 50)
    messages = range(36_000)
    units = sum(24 * running[n % 50].take_units(DEVICE, 24, received_ms=n * 100) for n in messages)
    letters = sum(running[n % 50].take_letter(DEVICE, received_ms=n * 100) for n in messages)
    assert (units, letters) == (UNITS_AN_HOUR + 50 * PORTION, LETTERS_AN_HOUR)
    assert hours.calls == UNITS_AN_HOUR // PORTION + LETTERS_AN_HOUR + 2 * 50
    assert running[0].take_units(OTHER, 2, received_ms=0)
    assert running[0].take_units(DEVICE, 2, received_ms=HOUR_MS), "the next hour is another one"


def test_an_ordinary_message_costs_no_call() -> None:
    """One of 4 KB a minute for an hour; then a backlog of 4 MB beside it, for one call a portion."""
    hours = Hours()
    [process] = processes(hours, 1)
    assert all(process.take_units(DEVICE, 4, received_ms=minute * 60_000) for minute in range(60))
    assert hours.calls == 0
    assert all(process.take_units(DEVICE, 5, received_ms=HOUR_MS - 1) for _ in range(4 * 1024 // 5 + 1))
    assert hours.calls <= 4 * 1024 // PORTION + 1


def test_a_message_that_could_not_be_stored_asks_again_for_the_same_units() -> None:
    hours = Hours()
    [process] = processes(hours, 1)
    for _ in range(10_000):
        assert process.take_units(DEVICE, 24, received_ms=0)
        process.give_back(DEVICE, 24, received_ms=0)
    assert hours.calls == 0


def test_what_a_process_remembers_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "_MAX_KNOWN", 3)
    monkeypatch.setattr(allowance, "LETTERS_AN_HOUR", 0)
    [process] = processes(Hours(), 1)
    for hour in range(9):
        process.take_units(DEVICE, 1, received_ms=hour * HOUR_MS)
        assert not process.take_letter(DEVICE, received_ms=hour * HOUR_MS)
        assert len(process._left) <= 3
        assert len(process._over) <= 3


@pytest.mark.fault("F-26f")
@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.integers(1, 4_000)), max_size=12))
def test_messages_of_a_device_have_an_end_and_its_answers_one_of_their_own(
    sent: list[tuple[int, bool, int]],
) -> None:
    hours = Hours()
    running = processes(hours, 2)
    had = {True: 0, False: 0}
    asked = {True: 0, False: 0}
    for process, answers, number in sent:
        take = running[process].take_answer if answers else running[process].take_word
        asked[answers] += number
        had[answers] += sum(take(DEVICE, received_ms=0) for _ in range(number))
    for answers, most in ((True, ANSWERS_AN_HOUR), (False, WORDS_AN_HOUR)):
        assert min(asked[answers], most - 2 * MESSAGES_PORTION) <= had[answers] <= most + 2 * MESSAGES_PORTION
    assert hours.calls <= (sum(had.values()) // MESSAGES_PORTION) + 4


@pytest.mark.fault("F-26f")
def test_an_ordinary_device_costs_no_call_for_its_messages() -> None:
    hours = Hours()
    [process] = processes(hours, 1)
    assert all(
        process.take_word(DEVICE, received_ms=n) and process.take_answer(DEVICE, received_ms=n) for n in range(90)
    )
    assert hours.calls == 0

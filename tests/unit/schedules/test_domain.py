"""The one of the due fires that fires: after outages of any length, by each way to catch up."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.schedules.domain import MAX_CAUGHT_UP, MAX_COUNTED, ON_TIME, CatchUp, FireDecision, FireKey, Schedule, decide
from karma.schedules.timing import Timing
from tests.contract.stores.test_schedules import NOW, schedule

MINUTE = timedelta(minutes=1)


def minutely(catch_up: CatchUp, *, window_s: int = 3600, cron: str = "* * * * *") -> Schedule:
    return replace(schedule(next_fire_at=NOW), timing=Timing(cron=cron), catch_up=catch_up, catch_up_window_s=window_s)


@pytest.mark.parametrize("catch_up", CatchUp)
def test_one_that_is_on_time_fires(catch_up: CatchUp) -> None:
    for late in (timedelta(), timedelta(seconds=59)):
        assert decide(minutely(catch_up), NOW + late) == FireDecision(due_at=NOW, missed=0, next_fire_at=NOW + MINUTE)
    daily = minutely(catch_up, cron="0 12 * * *")
    assert decide(daily, NOW + ON_TIME).due_at == NOW


def test_a_late_one_fires_within_the_window_or_is_missed() -> None:
    late = NOW + timedelta(minutes=30)
    tomorrow = NOW + timedelta(days=1)
    for catch_up in (CatchUp.LATEST, CatchUp.ALL):
        daily = minutely(catch_up, cron="0 12 * * *")
        assert decide(daily, late) == FireDecision(due_at=NOW, missed=0, next_fire_at=tomorrow)
        short = replace(daily, catch_up_window_s=60)
        assert decide(short, late) == FireDecision(due_at=None, missed=1, next_fire_at=tomorrow)
    none = minutely(CatchUp.NONE, cron="0 12 * * *")
    assert decide(none, late) == FireDecision(due_at=None, missed=1, next_fire_at=tomorrow)


def test_after_an_outage_the_latest_fires_or_the_last_ten_do() -> None:
    back = NOW + timedelta(hours=3)
    latest = decide(minutely(CatchUp.LATEST), back)
    assert latest == FireDecision(due_at=back, missed=180, next_fire_at=back + MINUTE)
    every = minutely(CatchUp.ALL)
    fired, missed = [], 0
    while every.next_fire_at is not None and every.next_fire_at <= back:
        decided = decide(every, back)
        fired.append(decided.due_at)
        missed += decided.missed
        every = replace(every, next_fire_at=decided.next_fire_at)
    assert fired == [back - n * MINUTE for n in range(MAX_CAUGHT_UP)][::-1]
    assert missed == 181 - MAX_CAUGHT_UP


def test_an_outage_of_a_month_is_counted_up_to_a_number() -> None:
    back = NOW + timedelta(days=30, seconds=5)
    decided = decide(minutely(CatchUp.LATEST), back)
    assert decided.due_at == NOW + timedelta(days=30)
    assert MAX_COUNTED <= decided.missed <= MAX_COUNTED + 60


@given(
    catch_up=st.sampled_from(CatchUp),
    cron=st.sampled_from(["* * * * *", "*/7 * * * *", "0 * * * *", "0 3 * * *", "0 0 1 * *"]),
    late_s=st.integers(0, 3 * 86_400),
    window_s=st.integers(60, 86_400),
)
def test_each_fire_is_over_once(catch_up: CatchUp, cron: str, late_s: int, window_s: int) -> None:
    first = Timing(cron=cron).after(NOW)
    assert first is not None
    waits = replace(minutely(catch_up, window_s=window_s, cron=cron), next_fire_at=first)
    now = first + timedelta(seconds=late_s)
    due = [first]
    while (following := waits.timing.after(due[-1])) is not None and following <= now:
        due.append(following)
    fired, missed = [], 0
    while waits.next_fire_at is not None and waits.next_fire_at <= now:
        decided = decide(waits, now)
        missed += decided.missed
        if decided.due_at is not None:
            assert now - decided.due_at <= waits.window
            fired.append(decided.due_at)
        waits = replace(waits, next_fire_at=decided.next_fire_at)
    assert fired == due[len(due) - len(fired) :]
    assert len(fired) + missed == len(due)
    assert len(fired) <= (MAX_CAUGHT_UP if catch_up is CatchUp.ALL else 1)
    assert waits.next_fire_at == waits.timing.after(now)


def test_a_fire_names_its_run_and_no_other_does() -> None:
    keys = {FireKey(of.user_id, of.id, NOW + n * MINUTE).run_id for of in (schedule(1), schedule(2)) for n in range(50)}
    assert len(keys) == 100
    assert all(len(each) == 32 for each in keys)

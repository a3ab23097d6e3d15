"""Sweeps of expired questions: whatever one account leaves behind busy threads, questions of others are dealt with."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from karma.core.errors import StorageThrottled
from karma.core.ids import RunId, ThreadId, UserId
from karma.runs.domain import RunKey
from karma.runs.expiry import (
    ASKED_AGAIN_AFTER,
    ASKED_AGAIN_WITHIN,
    LISTED_AT_ONCE,
    SWEEPS_FOR,
    read_expiry,
    request_expiries,
)
from karma.runs.interrupts import MAX_INTERRUPTS, Interrupt
from karma.runs.ports import Expiring, ExpiringPage
from tests.contexts.runs import question
from tests.contract.stores.test_runs import run
from tests.fakes.runs import MemoryRuns, SetClock

MINUTE = timedelta(minutes=1)
TEMPLATE = question(run())


class Swept(MemoryRuns):
    """A store in which writes take time; questions of the hostile account are of threads that stay busy."""

    def __init__(self, *, write_s: float) -> None:
        super().__init__()
        self.clock = SetClock()
        self._write_s = write_s
        self.stale: list[Expiring] = []
        """The questions that the index still lists."""
        self.messages: list[RunKey] = []
        self.sweeps: list[int] = []
        """Messages of each sweep."""
        self.waits: dict[RunKey, int] = {}
        """Sweeps since an honest question expired, until it was dealt with."""

    def ask(self, user: str, name: str, *, n: int = 1, within: timedelta = timedelta()) -> RunKey:
        key = RunKey(UserId(user), RunId(name))
        for at in range(1, n + 1):
            asked: Interrupt = replace(
                TEMPLATE, key=key, n=at, thread_id=ThreadId(name), expires_at=self.clock.now() + within
            )
            self.interrupts_by_id[asked.id] = asked
        if user != "hostile":
            self.waits[key] = 0
        return key

    def expiring(self, *args: object, **named: object) -> ExpiringPage:
        page = super().expiring(*args, **named)  # type: ignore[arg-type]
        return page._replace(questions=[*self.stale, *page.questions])

    def put_off(self, *args: object, **named: object) -> None:
        self.clock.pass_by(timedelta(seconds=self._write_s))
        super().put_off(*args, **named)  # type: ignore[arg-type]

    def send(self, body: str, *, group: str) -> None:
        self.clock.pass_by(timedelta(seconds=self._write_s))
        key, _ = read_expiry(body)
        assert group == key.user_id
        self.messages.append(key)
        if key.user_id != "hostile":
            for each in [each for each in self.interrupts_by_id.values() if each.key == key]:
                self.lapse(each, at=self.clock.now())

    def sweep(self) -> None:
        began = self.clock.now()
        self.sweeps.append(request_expiries(self, self, self.clock))
        took = self.clock.now() - began
        assert took <= SWEEPS_FOR + timedelta(seconds=self._write_s * (MAX_INTERRUPTS + 1))
        for key in self.waits:
            open_ = [each for each in self.interrupts_by_id.values() if each.key == key and each.answer is None]
            self.waits[key] += any(each.expires_at < began for each in open_)
        self.clock.pass_by(max(MINUTE - took, timedelta()))


@pytest.mark.parametrize("nth", range(4))
def test_no_account_holds_up_another_one_s_questions(nth: int, seed: int) -> None:
    dice = random.Random(seed)
    store = Swept(write_s=0.02)
    for name in range(dice.randint(60, 120)):  # more than a sweep can put off
        store.ask("hostile", f"h{name}", n=31)
    for minute in range(25):
        for name in range(dice.randint(0, 3)):
            user = f"u{dice.randint(1, 40)}"
            store.ask(user, f"{user}-{minute}-{name}", n=dice.randint(1, 3), within=dice.randint(0, 90) * MINUTE / 90)
        store.sweep()
    store.clock.pass_by(2 * MINUTE)
    store.sweep()
    assert store.waits
    assert max(store.waits.values()) == 0, "each is dealt with by the first sweep that finds it"
    assert all(each.answer for each in store.interrupts_by_id.values() if each.key.user_id != "hostile")


def test_one_that_stays_busy_is_asked_about_ever_more_rarely() -> None:
    store = Swept(write_s=0)
    for name in range(3):
        store.ask("hostile", f"h{name}", n=31)
    store.clock.pass_by(MINUTE)
    store.sweep()
    at = [store.clock.now()]
    for _ in range(24 * 60):
        store.sweep()
        if store.sweeps[-1]:
            at.append(store.clock.now())
    gaps = [round((later - earlier) / MINUTE) for earlier, later in pairwise(at)]
    assert gaps[:6] == pytest.approx([5, 10, 20, 40, 80, 160], abs=1)
    assert set(gaps[6:]) <= {round(ASKED_AGAIN_WITHIN / MINUTE) + late for late in (0, 1)}
    assert max(store.sweeps) == 3, "one message a run"
    assert ASKED_AGAIN_AFTER == 5 * MINUTE


def test_a_sweep_goes_on_behind_what_it_lists_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.expiry.LISTED_AT_ONCE", 7)
    monkeypatch.setattr("karma.runs.expiry._PAGE", 3)
    store = Swept(write_s=0)
    keys = [store.ask(f"u{n}", f"r{n}", n=1 + n % 2) for n in range(30)]
    store.clock.pass_by(MINUTE)
    store.sweep()
    assert sorted(set(store.messages)) == sorted(keys)
    assert LISTED_AT_ONCE == 5_000


def test_what_the_index_still_lists_is_nothing_to_put_off() -> None:
    store = Swept(write_s=0)
    key = store.ask("u1", "r1")
    store.clock.pass_by(MINUTE)
    store.stale = [Expiring(key, 1, 0)]
    store.sweep()
    store.stale = [Expiring(key, 1, 0), Expiring(RunKey(UserId("u1"), RunId("gone")), 1, 0)]
    store.sweep()
    assert store.put_offs == {}
    assert store.expiring(store.clock.now(), limit=9).questions == store.stale


def test_a_queue_that_refuses_leaves_it_to_the_next_sweep() -> None:
    store = Swept(write_s=0)
    key = store.ask("u1", "r1")
    store.clock.pass_by(MINUTE)

    class Broken:
        def send(self, body: str, *, group: str) -> None:
            raise StorageThrottled("busy")

    assert request_expiries(store, Broken(), store.clock) == 0
    store.sweep()
    assert store.messages == [key]

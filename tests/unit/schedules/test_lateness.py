"""Lateness of schedules of each minute, by a clock that is moved second by second, sweeps, and messages with delays."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from karma.core.errors import StorageThrottled
from karma.runs.domain import RunStatus
from karma.schedules.domain import Overlap
from karma.schedules.sweeps import LOOK_AGAIN, read_fire, send_due
from karma.schedules.timing import Timing
from tests.support.lost_runs import Life
from tests.unit.schedules.test_firing import Scheduled

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


class Minutes(Scheduled):
    """A schedule of each minute, the queue with its delays, and a sweep at one second of each minute."""

    def __init__(self, *, sweeps_at: int) -> None:
        super().__init__()
        self.sweeps_at = sweeps_at
        self.queue: list[tuple[datetime, str]] = []
        self.late: list[timedelta] = []
        """Lateness of each fire that began a run."""
        self.dies_at: int | None = None
        """Step of the next fire at which its process dies."""
        self.is_refused = False
        """The queue takes nothing from consumers."""
        self.is_sweeping = False
        self.began: list[datetime] = []
        self.add(timing=Timing(cron="* * * * *"), overlap=Overlap.ALLOW, at=self.now + MINUTE)

    def send(self, body: str, *, delay_s: int = 0) -> None:
        if self.is_refused and not self.is_sweeping:
            raise StorageThrottled("busy")
        assert 0 <= delay_s <= 900
        self.queue.append((self.now + timedelta(seconds=delay_s), body))

    def pass_by(self, minutes: int, *, consumes: bool = True, sweeps: bool = True) -> None:
        for _ in range(minutes * 60):
            self.world.clock.pass_by(SECOND)
            if sweeps and self.now.second == self.sweeps_at:
                self.is_sweeping = True
                send_due(self.store, self, self.world.clock)
                self.is_sweeping = False
            if consumes:
                self._consume()

    def _consume(self) -> None:
        due = [each for each in self.queue if each[0] <= self.now]
        self.queue = [each for each in self.queue if each[0] > self.now]
        for at, body in due:
            key, life = read_fire(body), Life(self.dies_at)
            self.dies_at = None
            before = len(self.runs)
            try:
                asyncio.run(self.fires(life).fire(key))
            except BaseException:  # noqa: BLE001  as a process that dies: the message comes again
                self.queue.append((at + MINUTE, body))
            if len(self.runs) > before:
                self.late.append(self.now - key.due_at)
                self.began.append(key.due_at)
                self.end(RunStatus.FINISHED)


@pytest.mark.parametrize("sweeps_at", [0, 1, 7, 29, 30, 31, 45, 59])
def test_is_that_of_the_queue_also_behind_one_that_was_late(sweeps_at: int) -> None:
    scheduled = Minutes(sweeps_at=sweeps_at)
    scheduled.pass_by(3)
    scheduled.pass_by(1, consumes=False)
    for _ in range(28):  # no consumer for a minute and a half
        scheduled.world.clock.pass_by(SECOND)
    scheduled.pass_by(1)
    scheduled.late.clear()
    scheduled.pass_by(6)
    assert len(scheduled.late) == 6
    assert max(scheduled.late) <= 2 * SECOND
    assert len(set(scheduled.began)) == len(scheduled.began)
    assert len(scheduled.queue) <= 1, "the sweep finds what was sent put off"


@pytest.mark.parametrize("step", range(1, 20))
def test_is_restored_by_a_sweep_where_its_process_dies(step: int) -> None:
    scheduled = Minutes(sweeps_at=31)
    scheduled.pass_by(2)
    scheduled.dies_at = step
    scheduled.pass_by(4)
    began, late = list(scheduled.began), list(scheduled.late)
    assert len(set(began)) == len(began)
    assert scheduled.shown.counts.started == len(scheduled.runs)
    assert max(late) < MINUTE + LOOK_AGAIN
    scheduled.late.clear()
    scheduled.pass_by(4)
    assert len(scheduled.late) == 4
    assert max(scheduled.late) <= 2 * SECOND


def test_is_a_sweep_s_at_most_where_the_queue_refuses_what_comes_next() -> None:
    scheduled = Minutes(sweeps_at=31)
    scheduled.is_refused = True
    scheduled.pass_by(6)
    assert scheduled.shown.counts.started == len(set(scheduled.began)) >= 5
    assert max(scheduled.late) <= MINUTE


def test_no_sweep_is_needed_as_long_as_fires_follow_each_other() -> None:
    scheduled = Minutes(sweeps_at=31)
    scheduled.pass_by(1)
    scheduled.pass_by(5, sweeps=False)
    assert len(scheduled.late) == 6
    assert max(scheduled.late) <= 2 * SECOND


def test_a_message_that_comes_twice_begins_one_run() -> None:
    scheduled = Minutes(sweeps_at=31)
    for _ in range(5):
        scheduled.pass_by(1)
        scheduled.queue += scheduled.queue
    assert len(set(scheduled.began)) == len(scheduled.runs) == scheduled.shown.counts.started == 5


def test_what_comes_later_is_left_to_the_sweep() -> None:
    for at_second, delays in ((30, []), (31, [89])):
        scheduled = Scheduled()
        at = scheduled.now.replace(minute=58, second=at_second)
        scheduled.world.clock.pass_by(at - scheduled.now)
        scheduled.add(at=at)
        assert scheduled.fire() == "started"
        assert [delay_s for _, delay_s in scheduled.sent] == delays

"""A stream counts for as long as its process lives, and no longer than a lease after that; nothing cuts it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from agent_stream import services
from agent_stream.open_streams import counted
from karma.core.errors import RateLimited, StorageThrottled
from karma.core.leases import Lease, Pool
from karma.identity.limits import OPEN_STREAMS, OpenRequests
from tests.fakes.leases import MemoryLeases
from tests.fakes.runs import SetClock, caller
from tests.support.lost_runs import Handle, Life, live

pytestmark = pytest.mark.fault("F-22b")

ADA = caller().user_id
THREE = Pool("three", 3, OPEN_STREAMS.longest)
PROCESS = timedelta(minutes=15)


class Renewals(MemoryLeases):
    """Leases that count their renewals, and fail while they are throttled."""

    def __init__(self) -> None:
        super().__init__()
        self.renewed = 0
        self.is_throttled = False

    def renew(self, lease: Lease, *, now: datetime, until: datetime) -> Lease:
        self.renewed += 1
        if self.is_throttled:
            raise StorageThrottled("busy")
        return super().renew(lease, now=now, until=until)


@dataclass
class Mortal(Life):
    """A process whose death ends what waits in it."""

    dies: Callable[[], object] = lambda: None

    def _die(self) -> None:
        self.dies()
        super()._die()


class World:
    """Leases of an account, and time that passes while a stream waits to renew its own."""

    def __init__(self) -> None:
        self.clock, self.leases = SetClock(), Renewals()
        self.began = self.clock.now()
        self.seen: Callable[[], None] = lambda: None
        """Looks at the world when time has passed."""
        self.leaves: Callable[[], object] = lambda: None
        """Lets the client leave."""

    def streams(self, life: Life | None = None) -> OpenRequests:
        leases: Any = Handle(self.leases, life or Life(None))
        return OpenRequests(leases, self.clock, pool=OPEN_STREAMS)

    def held(self) -> int:
        return self.leases.held(OPEN_STREAMS, ADA, self.clock.now())

    def past(self) -> timedelta:
        return self.clock.now() - self.began

    def stream(self, *, lasts: timedelta, life: Mortal | None = None, until: timedelta | None = None) -> bool:
        """Hold a stream open for a time, which passes by its renewals; tell whether its block came to its end."""
        ended: list[bool] = []

        async def work() -> None:
            loop, left = asyncio.get_running_loop(), asyncio.Event()
            if life is not None:
                life.dies = lambda: loop.call_soon_threadsafe(left.set)
            self.leaves = lambda: loop.call_soon_threadsafe(left.set)
            leases: Any = Handle(self.leases, life or Life(None))
            streams = _Passing(self, leases, until=self.clock.now() + lasts)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(services, "open_streams", lambda: streams)
                end = None if until is None else self.clock.now() + until
                async with counted(caller(), until=end):
                    if end is None:
                        await left.wait()
                    ended.append(True)

        live(work)
        return bool(ended)


class _Passing(OpenRequests):
    """Streams whose time passes while they wait to be renewed."""

    def __init__(self, world: World, leases: Any, *, until: datetime) -> None:
        super().__init__(leases, world.clock, pool=OPEN_STREAMS)
        self._world, self._until = world, until

    def renew_in_s(self, lease: Lease) -> float:
        wait, left = timedelta(seconds=super().renew_in_s(lease)), self._until - self._world.clock.now()
        self._world.clock.pass_by(min(wait, left))
        self._world.seen()
        if wait < left:
            return 0.0
        self._world.leaves()
        return 60.0


def test_a_turn_of_ten_seconds_renews_nothing_and_is_given_back_at_once() -> None:
    world = World()
    assert world.stream(lasts=timedelta(seconds=10))
    assert (world.leases.renewed, world.held()) == (0, 0)


def test_what_ends_within_a_lease_renews_nothing() -> None:
    """A stream that follows a log does so for a minute."""
    world = World()
    assert world.stream(lasts=timedelta(seconds=60), until=timedelta(seconds=60))
    assert (world.leases.renewed, world.held()) == (0, 0)


def test_a_stream_of_fifteen_minutes_counts_all_the_time_at_less_than_two_writes_a_minute() -> None:
    world, held = World(), list[int]()
    world.seen = lambda: held.append(world.held())
    assert world.stream(lasts=PROCESS)
    assert set(held) == {1}
    assert 15 < world.leases.renewed < 30
    assert world.held() == 0


@pytest.mark.parametrize("after", [False, True])
def test_the_stream_of_a_killed_process_is_free_after_a_lease_whatever_it_served(after: bool) -> None:
    for step in range(1, 99):
        world, life = World(), Mortal(step, after=after)
        world.stream(lasts=PROCESS, life=life)
        if not life.is_dead:
            assert step > 20, "it has renewed its lease before it gave it back"
            return
        world.clock.pass_by(OPEN_STREAMS.longest + timedelta(milliseconds=1))
        assert world.held() == 0, step


def test_a_table_that_is_throttled_cuts_nothing_and_counts_again_when_it_answers() -> None:
    world, held = World(), dict[int, int]()

    def seen() -> None:
        at = world.past()
        world.leases.is_throttled = timedelta(minutes=2) < at < timedelta(minutes=5)
        held[at // timedelta(minutes=1)] = world.held()

    world.seen = seen
    assert world.stream(lasts=timedelta(minutes=8))
    assert [held[minute] for minute in (1, 2, 4, 6)] == [1, 1, 0, 1]
    assert world.held() == 0


def test_a_short_failure_is_tried_again_before_the_lease_is_over() -> None:
    world, held = World(), list[int]()

    def seen() -> None:
        world.leases.is_throttled = timedelta(seconds=30) < world.past() < timedelta(seconds=68)
        held.append(world.held())

    world.seen = seen
    assert world.stream(lasts=timedelta(minutes=3))
    assert set(held) == {1}


def test_a_late_stream_whose_places_others_have_goes_on_and_is_counted_when_one_leaves() -> None:
    world, others, held = World(), list[Lease](), list[int]()

    def seen() -> None:
        at = world.past()
        world.leases.is_throttled = at < timedelta(minutes=2)
        if not others and world.held() == 0:
            others.extend(world.streams().open(ADA, until=None) for _ in range(OPEN_STREAMS.places))
            others[:] = [world.streams().renew(each, until=None) for each in others]
        elif others and at > timedelta(minutes=3):
            world.streams().close(others.pop())
        else:
            others[:] = [world.streams().renew(each, until=None) for each in others]
        held.append(world.held())

    world.seen = seen
    assert world.stream(lasts=timedelta(minutes=4))
    assert max(held) <= OPEN_STREAMS.places
    assert world.held() == len(others), "it gives back the place that it has found, and nobody else's"


def test_a_renewal_that_is_on_its_way_when_the_stream_ends_leaves_nothing() -> None:
    world = World()
    real = world.leases.renew

    def renew(lease: Lease, *, now: datetime, until: datetime) -> Lease:
        world.leaves()
        return real(lease, now=now, until=until)

    world.leases.renew = renew  # type: ignore[method-assign]
    assert world.stream(lasts=PROCESS)
    assert world.held() == 0


@pytest.mark.parametrize("nth", range(20))
def test_any_history_keeps_to_the_cap_but_for_those_that_were_late(nth: int, seed: int) -> None:
    """Opens, ends, deaths, renewals in time and late: never more in time than the cap, and none of the dead stays."""
    chance, clock, leases = random.Random(seed), SetClock(), MemoryLeases()
    streams = OpenRequests(leases, clock, pool=THREE)
    living = list[Lease]()
    for _ in range(200):
        clock.pass_by(timedelta(seconds=chance.choice([0, 1, 10])))
        in_time = [each for each in living if each.until >= clock.now()]
        match chance.randrange(5):
            case 0 | 1:
                try:
                    living.append(streams.open(ADA, until=None))
                except RateLimited:
                    assert leases.held(THREE, ADA, clock.now()) == 3
            case 2 if living:
                streams.close(living.pop(chance.randrange(len(living))))
            case 3 if living:
                living.pop(chance.randrange(len(living)))  # killed
            case _:
                late_one = chance.random() < 0.2
                living = [each if late_one else streams.renew(each, until=None) for each in living]
        assert len(in_time) <= 3, nth
    clock.pass_by(OPEN_STREAMS.longest + timedelta(seconds=1))
    assert leases.held(THREE, ADA, clock.now()) == 0
    assert [streams.open(ADA, until=None).place for _ in range(3)]

"""The machine behind every alarm of a metric: samples in, alarms that begin and end out. Pure, in event time.

    ok ──> pending    the first sample that is bad
       <──            a sample that is not, before `for` is over
    pending ──> raised      bad samples have come for `for`
    raised <──> recovering  good samples have begun
    recovering ──> ok       they have come for `keep`

Samples come doubled, and in another order than they were taken. So the state of a device has the last `WINDOW` samples
in it, and the machine's state before them: what comes late is put into its place, and the machine runs again from
there. What was said before is not taken back: an alarm that was raised stays raised until a good sample follows, one
that was cleared is cleared. A sample that comes later still changes nothing; it is counted.

Times are milliseconds of the device's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple

from karma.core.records import Record

WINDOW: Final = 32
"""Samples of a device within which another order changes nothing."""
MAX_NEW: Final = 20
"""Alarms of a rule and a device that one batch raises; what flaps faster is one alarm."""
NEVER: Final = 1 << 53
"""A moment after all others."""


class Comparison(StrEnum):
    """Quantity of a metric that is compared."""

    ABOVE = "above"
    BELOW = "below"
    OUTSIDE = "outside"
    """Of a range."""
    RATE = "rate"
    """The change a second between one sample and the next, up or down."""


class SampleCondition(Record, kw_only=True):
    """Values of a metric that are bad, and those that are good again; between them nothing changes."""

    metric: str
    comparison: Comparison
    low: float = 0.0
    """Least value that is not bad, of `below` and `outside`."""
    high: float = 0.0
    """Greatest value that is not bad, of the others."""
    margin: float = 0.0
    """Distance by which a value must be within the bounds to be good again."""
    for_ms: int = 0
    """Time for which samples must be bad; what is shorter than the device's interval ends with its next sample."""
    keep_ms: int = 0
    """Time for which samples must be good again."""

    def depth(self, value: float, before: tuple[int, float] | None, ts: int) -> float | None:
        """Return how far a value is within the bounds, negative outside of them; None: nobody can tell."""
        if self.comparison is Comparison.RATE:
            if before is None or before[0] >= ts:
                return None
            return self.high - abs(value - before[1]) * 1000 / (ts - before[0])
        if self.comparison is Comparison.ABOVE:
            return self.high - value
        if self.comparison is Comparison.BELOW:
            return value - self.low
        return min(self.high - value, value - self.low)


class Phase(IntEnum):
    """State of the machine."""

    OK = 0
    PENDING = 1
    RAISED = 2
    RECOVERING = 3


class Machine(NamedTuple):
    """The machine after a sample."""

    phase: Phase = Phase.OK
    since: int = 0
    """Time of the first bad sample of what is pending or raised."""
    good_since: int = 0
    """Time of the first good sample while it recovers."""
    last: tuple[int, float] | None = None

    def step(self, condition: SampleCondition, ts: int, value: float) -> Machine:
        """Return it after a sample that is later than all before."""
        depth = condition.depth(value, self.last, ts)
        last = (ts, value)
        if depth is None:
            return self._replace(last=last)
        is_bad, is_good = depth < 0, depth >= condition.margin
        if self.phase in (Phase.OK, Phase.PENDING):
            if not is_bad:
                return Machine(last=last)
            since = self.since if self.phase is Phase.PENDING else ts
            phase = Phase.RAISED if ts - since >= condition.for_ms else Phase.PENDING
            return Machine(phase, since, last=last)
        if not is_good:
            return Machine(Phase.RAISED, self.since, last=last)
        good_since = self.good_since if self.phase is Phase.RECOVERING else ts
        if ts - good_since >= condition.keep_ms:
            return Machine(last=last)
        return Machine(Phase.RECOVERING, self.since, good_since, last)

    @property
    def is_raised(self) -> bool:
        """Tell whether an alarm is open."""
        return self.phase >= Phase.RAISED


class Episode(NamedTuple):
    """An alarm as the machine sees it: from the sample that raised it to the one that cleared it."""

    since: int
    """Time of its first bad sample."""
    raised: int
    cleared: int = NEVER
    """NEVER: it is open."""
    value: float = 0.0
    """Value that raised it."""

    def meets(self, other: Episode) -> bool:
        """Tell whether both were open at some moment."""
        return self.raised < other.cleared and other.raised < self.cleared


class EpisodeChange(NamedTuple):
    """An alarm that is new, or that is over now."""

    episode: Episode
    is_new: bool


class WatchState(Record, kw_only=True):
    """State of one rule on one device."""

    floor: int
    """Time up to which samples come too late."""
    base: Machine = field(default_factory=Machine)
    """The machine before the samples of `tail`."""
    tail: tuple[tuple[int, float], ...] = ()
    """The last samples in order of time, WINDOW of them at the most."""
    told: tuple[Episode, ...] = ()
    """Alarms that were raised and may still be touched by what comes late, in order of time."""

    @classmethod
    def read(cls, stored: Sequence[Any]) -> WatchState:
        """Read what `stored` wrote."""
        floor, (phase, since, good_since, *last), tail, told = stored
        machine = Machine(Phase(phase), since, good_since, (last[0], last[1]) if last else None)
        episodes = tuple(Episode(since, raised, cleared or NEVER) for since, raised, cleared in told)
        return cls(floor=floor, base=machine, tail=tuple((ts, value) for ts, value in tail), told=episodes)

    def stored(self) -> list[Any]:
        """Write it as JSON, short."""
        base = self.base
        machine = [int(base.phase), base.since, base.good_since, *(base.last or ())]
        told = [[each.since, each.raised, 0 if each.cleared == NEVER else each.cleared] for each in self.told]
        return [self.floor, machine, [list(sample) for sample in self.tail], told]


class Absorbed(NamedTuple):
    """Changes by a batch of samples."""

    state: WatchState
    changes: tuple[EpisodeChange, ...] = ()
    late: int = 0
    """Samples that came too late to be taken."""
    dropped: int = 0
    """Alarms beyond MAX_NEW that began and ended within the batch."""


def absorb(condition: SampleCondition, state: WatchState, samples: Iterable[tuple[int, float]]) -> Absorbed:
    """Take samples in any order; those that were taken before change nothing.

    Of two values at one moment the greater one counts, whichever comes first.
    """
    taken, late = dict(state.tail), 0
    for ts, value in samples:
        if ts <= state.floor:
            late += 1
        elif ts not in taken or taken[ts] < value:
            taken[ts] = value
    tail = tuple(sorted(taken.items()))
    if tail == state.tail:
        return Absorbed(state, late=late)
    machines, found = _replayed(condition, state, tail)
    told, changes, dropped = _compared(state.told, found)
    # What was dropped must not be found again.
    cut = len(tail) if dropped else max(0, len(tail) - WINDOW)
    floor, base = (tail[cut - 1][0], machines[cut - 1]) if cut else (state.floor, state.base)
    kept = tuple(each for each in told if each.cleared > floor)
    return Absorbed(WatchState(floor=floor, base=base, tail=tail[cut:], told=kept), changes, late, dropped)


def _replayed(
    condition: SampleCondition, state: WatchState, tail: Sequence[tuple[int, float]]
) -> tuple[list[Machine], list[Episode]]:
    """Run the machine over samples; what was told before holds, whatever they say."""
    machine, machines, found = state.base, list[Machine](), list[Episode]()
    ends = {each.cleared for each in state.told}
    begins = {each.raised: each for each in state.told}
    open_ = next((each._replace(cleared=NEVER) for each in state.told if each.raised <= state.floor), None)
    for ts, value in tail:
        after = machine.step(condition, ts, value)
        if ts in ends and after.is_raised:
            after = Machine(last=after.last)
        elif ts in begins and not after.is_raised:
            after = Machine(Phase.RAISED, begins[ts].since, last=after.last)
        if open_ is None and after.is_raised:
            open_ = Episode(after.since, ts, NEVER, value)
        elif open_ is not None and not after.is_raised:
            found.append(open_._replace(cleared=ts))
            open_ = None
        machine = after
        machines.append(machine)
    return machines, found if open_ is None else [*found, open_]


def _compared(
    told: Sequence[Episode], found: Sequence[Episode]
) -> tuple[Sequence[Episode], tuple[EpisodeChange, ...], int]:
    """Return the alarms as they are told from now on, what of them is news, and how many are left out."""
    known, changes, dropped = list(told), list[EpisodeChange](), 0
    for episode in found:
        place = next((place for place, each in enumerate(known) if each.meets(episode)), None)
        if place is not None:
            if known[place].cleared == NEVER != episode.cleared:
                known[place] = known[place]._replace(cleared=episode.cleared)
                changes.append(EpisodeChange(known[place], is_new=False))
        elif sum(change.is_new for change in changes) < MAX_NEW or episode.cleared == NEVER:
            known.append(episode)
            changes.append(EpisodeChange(episode, is_new=True))
        else:
            dropped += 1
    return sorted(known), tuple(changes), dropped


def would_raise(condition: SampleCondition, samples: Mapping[int, float]) -> list[Episode]:
    """Return the alarms that a rule had raised on stored samples."""
    machine, found = Machine(), list[Episode]()
    for ts, value in sorted(samples.items()):
        after = machine.step(condition, ts, value)
        if after.is_raised and not machine.is_raised:
            found.append(Episode(after.since, ts, NEVER, value))
        elif machine.is_raised and not after.is_raised:
            found[-1] = found[-1]._replace(cleared=ts)
        machine = after
    return found

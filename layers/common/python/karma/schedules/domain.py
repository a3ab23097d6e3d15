"""Schedules: types, and rules that need no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple, NewType

from karma.core.clock import iso
from karma.core.errors import AlreadyExists, StaleVersion, ValidationFailed
from karma.core.ids import ApiKeyId, BulkId, RunId, UserId, derived_id
from karma.core.records import Record
from karma.schedules.timing import Timing

ScheduleId = NewType("ScheduleId", str)

MAX_SCHEDULES: Final = 100
"""Schedules of one account."""
MAX_NAME_CHARS: Final = 100
MAX_RUN_BYTES: Final = 65_536
"""Bytes of the request for a run as JSON."""
MAX_OPEN_RUNS: Final = 100
"""Runs of a schedule that go on side by side at the most: the next fire is left out, as each of them is watched."""
MAX_FAILURES: Final = 10
"""Fires in a row that failed, or whose runs did, after which a schedule is stopped."""
ON_TIME: Final = timedelta(minutes=5)
"""A fire that is later by no more than this is not caught up: it is on time."""
MIN_WINDOW_S: Final = 60
MAX_WINDOW_S: Final = 86_400
DEFAULT_WINDOW_S: Final = 3_600
MAX_CAUGHT_UP: Final = 10
"""Fires that are caught up after an outage at the most, the latest of them."""
MAX_COUNTED: Final = 10_000
"""Missed fires of one outage are counted up to this number."""
MAX_SKIPS: Final = 10
"""Fires in a row that were skipped, over `SKIPS_FOR` at least, after which a schedule rests between its fires."""
SKIPS_FOR: Final = timedelta(hours=1)
REST: Final = timedelta(hours=1)
"""Time for which a schedule that rests does not fire, after each fire that is skipped."""
MAX_MESSAGE_CHARS: Final = 500
"""Characters of an error's message that are kept."""


class FireAction(StrEnum):
    """Work of a fire; the value names the member that says it."""

    RUN = "run"
    """It begins a run of an agent."""
    COMMAND = "command"
    """It sends a command to one device, or to those with a tag."""


class Overlap(StrEnum):
    """Rule for a fire while the schedule's run, or command, before it is still active."""

    SKIP = "skip"
    """No run begins; the fire is counted as skipped."""
    QUEUE = "queue"
    """The run waits for its turn in its thread."""
    ALLOW = "allow"
    """The run begins beside the other one, in a thread of its own."""


class CatchUp(StrEnum):
    """Rule for fires that come later than `ON_TIME`."""

    NONE = "none"
    """They are missed."""
    LATEST = "latest"
    """The latest of them fires, unless it is later than the window."""
    ALL = "all"
    """Those within the window fire, the latest `MAX_CAUGHT_UP`."""


class FireOutcome(StrEnum):
    """Outcome of a fire."""

    STARTED = "started"
    SKIPPED = "skipped"
    """The run before was still active."""
    FAILED = "failed"
    """No run could begin, or no command be sent."""
    MISSED = "missed"
    """It came too late."""


class ScheduleStatus(StrEnum):
    """State of a schedule."""

    ACTIVE = "active"
    PAUSED = "paused"
    STOPPED = "stopped"
    """It was paused by us after `MAX_FAILURES` failures in a row."""
    ENDED = "ended"


class ScheduleChanged(StaleVersion):
    """Another request changed the schedule, or it fired, between our reading of it and our write: read again."""


class TooManySchedules(AlreadyExists):
    """The account has as many schedules as one may have."""

    code = "TOO_MANY_SCHEDULES"

    def __init__(self) -> None:
        super().__init__(f"An account has at most {MAX_SCHEDULES} schedules")


class ScheduleTooLarge(ValidationFailed):
    """The request for a run is larger than a schedule keeps."""

    code = "SCHEDULE_TOO_LARGE"


class Author(Record, kw_only=True):
    """The credential that last changed a schedule: its runs have its rights of the time of the fire."""

    api_key_id: ApiKeyId | None = None
    """API key; None: a person."""


class FireError(Record, kw_only=True):
    """Reason that no run began, or no command was sent."""

    code: str
    message: str


class LastFire(Record, kw_only=True):
    """The latest fire of a schedule."""

    due_at: datetime
    fired_at: datetime
    outcome: FireOutcome
    error: FireError | None = None


class Counts(Record, kw_only=True):
    """Numbers of a schedule's fires, by outcome."""

    started: int = 0
    skipped: int = 0
    failed: int = 0
    missed: int = 0


class Schedule(Record, kw_only=True):
    """One schedule; lengths are checked by schemas.py."""

    id: ScheduleId
    user_id: UserId
    name: str
    timing: Timing
    action: FireAction = FireAction.RUN
    run: Mapping[str, Any] | None
    """The body of the run, by the names of `POST /runs`; None: it sends commands, or it was not read, as in lists."""
    command: Mapping[str, Any] | None = None
    """The command and its devices, by the names of `POST /commands/bulk`, and `device_id`; None: likewise."""
    overlap: Overlap
    catch_up: CatchUp
    catch_up_window_s: int
    enabled: bool
    author: Author
    next_fire_at: datetime | None
    """The fire that it waits for; None: it is paused, stopped or has ended."""
    stopped: bool = False
    last_fire: LastFire | None = None
    last_run_id: RunId | None = None
    """The latest run that it began."""
    last_bulk_id: BulkId | None = None
    """The latest bulk command that it made."""
    open_run_ids: tuple[RunId, ...] = ()
    """Runs that it began whose ends were not looked at yet, in the order of their fires."""
    counts: Counts = Counts()
    failures: int = 0
    """Failures in a row, of fires or of their runs."""
    resumed_at: datetime | None = None
    """Moment at which its owner enabled it again: runs that had failed by then count no more."""
    skips: int = 0
    """Fires in a row that were skipped."""
    skipped_since: datetime | None = None
    """Moment of the first of them."""
    created_at: datetime
    updated_at: datetime
    version: int
    """Counts what its owner changes, not its fires."""
    run_version: int = 1
    """The version with which `run`, or `command`, came."""

    @property
    def body(self) -> Mapping[str, Any] | None:
        """Return what it does: its run or its command."""
        return self.run if self.action is FireAction.RUN else self.command

    @property
    def status(self) -> ScheduleStatus:
        """Return its state."""
        if self.stopped:
            return ScheduleStatus.STOPPED
        if not self.enabled:
            return ScheduleStatus.PAUSED
        return ScheduleStatus.ACTIVE if self.next_fire_at is not None else ScheduleStatus.ENDED

    @property
    def is_resting(self) -> bool:
        """Tell whether fires were skipped so often, and for so long, that it fires less often until a run begins."""
        last, since = self.last_fire, self.skipped_since
        return self.skips >= MAX_SKIPS and last is not None and since is not None and last.fired_at - since >= SKIPS_FOR

    def forgives(self, failed_at: datetime | None) -> bool:
        """Tell whether its owner has enabled it again since a run of it failed."""
        return failed_at is not None and self.resumed_at is not None and failed_at <= self.resumed_at

    @property
    def window(self) -> timedelta:
        """Return how late a fire may be."""
        return ON_TIME if self.catch_up is CatchUp.NONE else max(ON_TIME, timedelta(seconds=self.catch_up_window_s))


class Census(NamedTuple):
    """Numbers of an account's schedules."""

    total: int
    active: int
    """Schedules that wait for a fire."""
    version: int
    """Number of changes by which one was made, woken or deleted; 0: there never was one."""

    @property
    def is_full(self) -> bool:
        """Tell whether there are as many as one account may have."""
        return self.total >= MAX_SCHEDULES


class FireKey(NamedTuple):
    """A fire: a schedule, and the moment for which it was due."""

    user_id: UserId
    schedule_id: ScheduleId
    due_at: datetime

    @property
    def run_id(self) -> RunId:
        """Return the id of the fire's run."""
        text = f"{self.user_id}\n{self.schedule_id}\n{iso(self.due_at)}"
        return RunId(hashlib.sha256(text.encode()).hexdigest()[:32])

    @property
    def bulk_id(self) -> BulkId:
        """Return the id of the fire's bulk command, which sorts by the moment for which the fire was due."""
        return BulkId(derived_id(self.due_at, "schedule", self.user_id, self.schedule_id))


class FireDecision(Record, kw_only=True):
    """Choice of the fire, among those that are due, that is to fire now."""

    due_at: datetime | None
    """None: all of them are missed."""
    missed: int
    next_fire_at: datetime | None
    """The fire after the one that fires, or after now."""


def decide(schedule: Schedule, now: datetime) -> FireDecision:
    """Decide which of the fires of a schedule that are due by now fires first.

    Fires that are later than the schedule allows are missed, and with `latest` or `none` all but the last one.
    """
    first = schedule.next_fire_at
    if first is None:
        return FireDecision(due_at=None, missed=0, next_fire_at=None)
    timing, horizon = schedule.timing, now - schedule.window
    missed, due = 0, first
    while due < horizon and missed < MAX_COUNTED:
        missed += 1
        following = timing.after(due)
        if following is None or following > now:
            return FireDecision(due_at=None, missed=missed, next_fire_at=following)
        due = following
    if due < horizon:  # more than are counted
        found = timing.after(horizon)
        if found is None or found > now:
            return FireDecision(due_at=None, missed=missed, next_fire_at=found)
        due = found
    pending = [due]
    while (following := timing.after(pending[-1])) is not None and following <= now:
        pending.append(following)
    kept = MAX_CAUGHT_UP if schedule.catch_up is CatchUp.ALL else 1
    passed_over = max(0, len(pending) - kept)
    chosen = pending[passed_over]
    return FireDecision(due_at=chosen, missed=missed + passed_over, next_fire_at=timing.after(chosen))


class Fired(Record, kw_only=True):
    """A fire that is over, as the schedule's item is to say."""

    seen: Schedule
    """The schedule as it was read."""
    due_at: datetime
    at: datetime
    outcome: FireOutcome
    missed: int
    next_fire_at: datetime | None
    run_id: RunId | None = None
    bulk_id: BulkId | None = None
    error: FireError | None = None
    open_run_ids: tuple[RunId, ...] = ()
    failures: int = 0

    @property
    def stops(self) -> bool:
        """Tell whether the schedule is stopped with it."""
        return self.failures >= MAX_FAILURES

    def applied(self) -> Schedule:
        """Return the schedule after the fire."""
        seen, counts, name = self.seen, self.seen.counts, self.outcome.value
        skips, since = seen.skips, seen.skipped_since
        if self.outcome is FireOutcome.STARTED:
            skips, since = 0, None
        elif self.outcome is FireOutcome.SKIPPED:
            skips, since = skips + 1, since or self.at
        counts = replace(counts, missed=counts.missed + self.missed)
        if self.outcome is not FireOutcome.MISSED:
            counts = replace(counts, **{name: getattr(counts, name) + 1})
        after = replace(
            seen,
            next_fire_at=None if self.stops else self.next_fire_at,
            enabled=seen.enabled and not self.stops,
            stopped=self.stops,
            last_fire=LastFire(due_at=self.due_at, fired_at=self.at, outcome=self.outcome, error=self.error),
            last_run_id=self.run_id or seen.last_run_id,
            last_bulk_id=self.bulk_id or seen.last_bulk_id,
            open_run_ids=self.open_run_ids,
            counts=counts,
            failures=self.failures,
            skips=skips,
            skipped_since=since,
        )
        if self.outcome is FireOutcome.SKIPPED and after.is_resting and after.next_fire_at is not None:
            latest = max(after.next_fire_at - timedelta(microseconds=1), self.at + REST)
            after = replace(after, next_fire_at=after.timing.after(latest))
        return after

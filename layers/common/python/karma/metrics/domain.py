"""Counts of runs by hour, and reports made of hours. No I/O.

A run counts once, in the hour in which it ended, so that hours that are over do not change. What it took is the time
from its start to its end without its pauses, counted of runs that completed: one that was cancelled says nothing of
how long answers take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from karma.core.clock import epoch_ms
from karma.core.errors import ValidationFailed
from karma.core.ids import AgentId, UserId
from karma.core.records import Record
from karma.models.told_usage import tokens_in
from karma.runs.domain import ACTIVE, Run, RunStatus

HOUR: Final = timedelta(hours=1)
KEPT: Final = timedelta(days=400)
"""Time for which the figures of an hour are kept."""
AHEAD: Final = timedelta(days=31)
"""Time from now in which a report may end."""
BUCKETS_S: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0)
"""Upper bounds of the histogram of durations, in seconds; another bucket has what is longer."""
_NO_BUCKETS: Final = (0,) * (len(BUCKETS_S) + 1)


class Stage(StrEnum):
    """The part of a run that has been counted."""

    BEGAN = "began"
    ENDED = "ended"


class Series(NamedTuple):
    """The runs that are counted together; None: of any account, of any agent."""

    user_id: UserId | None = None
    agent_id: AgentId | None = None


ALL_RUNS: Final = Series()


class Cell(NamedTuple):
    """The figures of a series in the hour that begins at a moment."""

    series: Series
    hour: datetime


class Figures(Record, kw_only=True):
    """Sums over runs that ended."""

    completed: int = 0
    """Runs that finished."""
    interrupted: int = 0
    """Runs that ended with a question; the run that goes on with the answer is another one."""
    failed: int = 0
    cancelled: int = 0
    tokens: int = 0
    input_tokens: int = 0
    """Those of them that were read by models."""
    cached_tokens: int = 0
    """Those of the input that providers had cached."""
    cost_micros: int = 0
    """Cost of the model calls in micro-dollars, of the runs of which it is known."""
    unpriced: int = 0
    """Runs whose cost nobody knows, since their process was lost."""
    duration_ms: int = 0
    """Of the completed runs together."""
    buckets: tuple[int, ...] = _NO_BUCKETS
    """Completed runs by their duration: at most BUCKETS_S[n] seconds, and longer ones."""

    def __add__(self, other: Figures) -> Figures:
        """Return the sums over both."""
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)[:-1]}
        return Figures(**sums, buckets=tuple(a + b for a, b in zip(self.buckets, other.buckets, strict=True)))

    @property
    def runs(self) -> int:
        """Return the number of runs."""
        return self.completed + self.interrupted + self.failed + self.cancelled

    @property
    def success_rate(self) -> float | None:
        """Return the part of the runs that completed; None: there are none."""
        return self.completed / self.runs if self.runs else None

    @property
    def average_s(self) -> float | None:
        """Return the mean duration of completed runs in seconds; None: there are none."""
        return round(self.duration_ms / self.completed / 1000, 3) if self.completed else None

    @property
    def tokens_a_run(self) -> float | None:
        """Return the mean number of tokens; None: there are no runs."""
        return round(self.tokens / self.runs, 1) if self.runs else None

    @property
    def cached_share(self) -> float | None:
        """Return the part of the input that providers had cached; None: nothing was read."""
        return round(self.cached_tokens / self.input_tokens, 4) if self.input_tokens else None

    def quantile_s(self, part: float) -> float | None:
        """Estimate the duration in seconds below which a part (0 to 1) of the completed runs lies.

        Within a bucket runs are taken as evenly spread; of the longest ones only the bucket's lower bound is known.
        """
        wanted, below, lower = part * sum(self.buckets), 0, 0.0
        if not wanted:
            return None
        for found, upper in zip(self.buckets, BUCKETS_S, strict=False):
            if found and below + found >= wanted:
                return round(lower + (upper - lower) * (wanted - below) / found, 3)
            below, lower = below + found, upper
        return lower


NOTHING: Final = Figures()


class Totals(Record, kw_only=True):
    """Figures of all runs that were ever counted."""

    active: int = 0
    """Runs that have begun and not ended, paused ones included."""
    ended: Figures = NOTHING


def stage_of(run: Run) -> Stage:
    """Return how far a run is."""
    return Stage.BEGAN if run.status in ACTIVE else Stage.ENDED


def hour_of(moment: datetime) -> datetime:
    """Return the beginning of a moment's hour."""
    return moment.replace(minute=0, second=0, microsecond=0)


def figures_of(run: Run) -> Figures:
    """Return what one run that has ended adds."""
    completed = run.status is RunStatus.FINISHED
    usage = run.usage or {}
    read, cached = (usage.get(name) for name in ("inputTokens", "cachedInputTokens"))
    # A model whose answer broke off tells no total.
    tokens = sum(int(str(each.get("totalTokens", tokens_in([each])))) for each in run.usages)
    lasted = epoch_ms(run.finished_at or run.created_at) - epoch_ms(run.created_at) - run.paused_ms
    took = max(0, lasted) if completed else 0
    return Figures(
        completed=int(completed),
        interrupted=int(run.status is RunStatus.INTERRUPTED),
        failed=int(run.status is RunStatus.FAILED),
        cancelled=int(run.status is RunStatus.CANCELLED),
        tokens=tokens,
        input_tokens=read if isinstance(read, int) else 0,
        cached_tokens=cached if isinstance(cached, int) else 0,
        cost_micros=run.cost_micros or 0,
        unpriced=int(run.cost_micros is None),
        duration_ms=took,
        buckets=_bucket(took) if completed else _NO_BUCKETS,
    )


def cells_of(run: Run) -> list[tuple[Cell, Figures]]:
    """Return where a run that has ended counts, with what it adds there.

    What agents have used that its own one called counts as theirs, so that the agents' figures add up to all.
    """
    hour = hour_of(run.finished_at or run.created_at)
    whole = figures_of(run)
    found = [(ALL_RUNS, whole)]
    if run.agent_id is not None:
        theirs = {AgentId(str(each["agent_id"])): _used(each) for each in run.delegated}
        own = whole
        for used in theirs.values():
            own = replace(
                own,
                tokens=max(0, own.tokens - used.tokens),
                input_tokens=max(0, own.input_tokens - used.input_tokens),
                cached_tokens=max(0, own.cached_tokens - used.cached_tokens),
                cost_micros=max(0, own.cost_micros - used.cost_micros),
            )
        for agent_id, figures in {run.agent_id: own, **theirs}.items():
            found += [(Series(agent_id=agent_id), figures), (Series(run.key.user_id, agent_id), figures)]
    return [(Cell(series, hour), figures) for series, figures in found]


def _used(delegated: Mapping[str, object]) -> Figures:
    def number(name: str) -> int:
        return int(str(delegated.get(name, 0)))

    # What is known, of which the run's usage is the sum; runs of earlier releases say only what budgets counted.
    known = number("input_tokens") + number("output_tokens") if "input_tokens" in delegated else number("tokens")
    return Figures(
        tokens=known,
        input_tokens=number("input_tokens"),
        cached_tokens=number("cached_input_tokens"),
        cost_micros=number("cost_micros"),
    )


def _bucket(duration_ms: int) -> tuple[int, ...]:
    within = next((n for n, most in enumerate(BUCKETS_S) if duration_ms <= most * 1000), len(BUCKETS_S))
    return tuple(int(n == within) for n in range(len(BUCKETS_S) + 1))


class Granularity(StrEnum):
    """Length of a report's periods; all begin in UTC, weeks on Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"

    @property
    def length(self) -> timedelta:
        """Return the length of a period."""
        return {Granularity.HOUR: HOUR, Granularity.DAY: timedelta(days=1), Granularity.WEEK: timedelta(weeks=1)}[self]

    @property
    def usual(self) -> timedelta:
        """Return the time that a report covers when nobody says."""
        return self.length * {Granularity.HOUR: 24, Granularity.DAY: 7, Granularity.WEEK: 4}[self]

    @property
    def most(self) -> timedelta:
        """Return the longest time that a report may cover: each hour of it is read."""
        return self.length * {Granularity.HOUR: 168, Granularity.DAY: 31, Granularity.WEEK: 13}[self]

    def floor(self, moment: datetime) -> datetime:
        """Return the beginning of the period that has a moment."""
        hour = hour_of(moment)
        if self is Granularity.HOUR:
            return hour
        day = hour.replace(hour=0)
        return day if self is Granularity.DAY else day - timedelta(days=day.weekday())


class Span(Record):
    """Whole periods of a report: [start, end)."""

    start: datetime
    end: datetime
    granularity: Granularity

    @classmethod
    def of(cls, start: datetime | None, end: datetime | None, granularity: Granularity, *, now: datetime) -> Span:
        """Return the periods that have the time from `start` to `end`; None: the usual time until now.

        Raises:
            ValidationFailed: `end_time` or `start_time` is outside of what is kept, or `start_time` is not before
                `end_time`, or further before it than a report covers.
        """
        until = end or now
        if not now - KEPT < until <= now + AHEAD:
            raise ValidationFailed.of(
                "end_time", f"must be in the last {KEPT.days} days, or at most {AHEAD.days} days ahead"
            )
        since = start or until - granularity.usual
        if since < now - KEPT:
            raise ValidationFailed.of("start_time", f"must be in the last {KEPT.days} days, of which figures are kept")
        if since >= until:
            raise ValidationFailed.of("start_time", "must be before end_time")
        if until - since > granularity.most:
            most = f"{granularity.most.days} days before end_time with granularity {granularity.value}"
            raise ValidationFailed.of("start_time", f"must be at most {most}")
        last = granularity.floor(until)
        return cls(granularity.floor(since), last if last == until else last + granularity.length, granularity)

    def periods(self) -> Iterator[datetime]:
        """Yield the beginning of each period."""
        at = self.start
        while at < self.end:
            yield at
            at += self.granularity.length


def by_period(span: Span, hours: Sequence[tuple[datetime, Figures]]) -> Mapping[datetime, Figures]:
    """Sum hours by the period that has them; periods without runs are there, too."""
    found = dict.fromkeys(span.periods(), NOTHING)
    for hour, figures in hours:
        found[span.granularity.floor(hour)] += figures
    return found

"""Reports of figures: of an agent, of all runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from karma.core.clock import Clock
from karma.core.ids import AgentId, UserId
from karma.core.records import Record
from karma.metrics.domain import ALL_RUNS, NOTHING, Figures, Granularity, Series, Span, Totals, by_period
from karma.metrics.ports import MetricStore

_DAY = timedelta(days=1)


class AgentReport(Record):
    """Figures of an agent's runs that ended within a span."""

    agent_id: AgentId
    of_all_accounts: bool
    span: Span
    whole: Figures
    periods: Mapping[datetime, Figures]


class MetricService:
    """Reads figures."""

    def __init__(self, store: MetricStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def span(self, start: datetime | None, end: datetime | None, granularity: Granularity) -> Span:
        """Return the periods that a request asks for; raises as `Span.of` does."""
        return Span.of(start, end, granularity, now=self._clock.now())

    def of_agent(self, agent_id: AgentId, span: Span, *, user_id: UserId | None) -> AgentReport:
        """AgentReport on an agent's runs: those of an account, or, with None, of all."""
        hours = self._store.hours(Series(user_id, agent_id), span.start, span.end)
        return AgentReport(
            agent_id=agent_id,
            of_all_accounts=user_id is None,
            span=span,
            whole=sum((figures for _, figures in hours), NOTHING),
            periods=by_period(span, hours),
        )

    def totals(self) -> Totals:
        """Return what is known of all runs."""
        return self._store.totals()

    def today(self) -> Figures:
        """Return the figures of all runs that ended on this day (UTC)."""
        midnight = Granularity.DAY.floor(self._clock.now())
        return sum((figures for _, figures in self._store.hours(ALL_RUNS, midnight, midnight + _DAY)), NOTHING)

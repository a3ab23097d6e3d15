"""Pays for the calls that summarise a subagent's conversation: of its run, and of its agent's day."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.models.budgets import BudgetExceeded, BudgetName, Spent, bound_of
from karma.models.domain import Target, Usage
from karma.models.ports import ModelRequest
from karma.runs.spending import Share, ShareExceeded, Spending
from karma.runs.subagents.day import AgentDay


class SharePurse:
    """A subagent's share of its run's spending, as `karma.runs.compaction.Purse`."""

    def __init__(self, spending: Spending, share: Share, day: AgentDay, clock: Clock) -> None:
        self._spending = spending
        self._share = share
        self._day = day
        self._clock = clock

    async def admit(self, request: ModelRequest, *, heard: Callable[[], int]) -> ModelRequest:
        """Make sure that the run, its own agent's budgets and that agent's day cover a call; reserve what is missing.

        Raises:
            BudgetExceeded, ShareExceeded: something does not.
            OwnershipLost, Upstream: as `Spending.admit`.
        """
        admitted = await self._spending.admit(request, self._share, heard=heard)
        try:
            afforded = await self._day.reserve(admitted)
        except (ShareExceeded, Upstream, asyncio.CancelledError):
            self._spending.withdrawn(self._share)
            raise
        if afforded.by is not None:
            self._spending.narrow(self._share, afforded)
        return afforded.request

    def failed(self, usage: Usage, by: Target | None = None) -> None:
        """As `Spending.failed`."""
        self._spending.failed(usage, by, self._share)

    def ended(self, usage: Usage, by: Target | None = None) -> None:
        """As `Spending.ended`."""
        self._spending.ended(usage, by, self._share)

    def require_whole(self, wanted: ModelRequest) -> None:
        """As `Spending.require_whole`, of a budget of the run or of its own agent.

        Raises:
            BudgetExceeded, ShareExceeded: one had.
        """
        whole = bound_of(wanted, self._clock.now())
        if (by := self._share.narrowed_by) is not None:
            used = Spent() if by.name is BudgetName.AGENT_DAY else self._share.used
            raise ShareExceeded(BudgetExceeded(by, used, whole))
        if self._share.narrowed_by_run is not None:
            raise BudgetExceeded(self._share.narrowed_by_run, self._spending.used, whole)

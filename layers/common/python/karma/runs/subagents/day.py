"""The day limit of an account with an agent, as calls of that agent within another's run use it up."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from karma.billing.allowances import Adjustment, DayExceeded, DaySpend, Metric, Reservation, period_of
from karma.core.clock import Clock
from karma.core.errors import AppError, Upstream
from karma.core.ids import UserId, new_id
from karma.core.observability import logger
from karma.models.budgets import UNLIMITED, Afforded, BudgetExceeded, BudgetName, NamedBudget, Spent, afford
from karma.models.ports import ModelRequest
from karma.models.prices import estimate
from karma.runs.ports import Runs
from karma.runs.reservations import NARROWINGS
from karma.runs.spending import ShareExceeded, Spending
from karma.runs.subagents.steps import Definition

_UNKNOWN = NamedBudget(name=BudgetName.AGENT_DAY, budget=UNLIMITED, is_counted=False)


class AgentDay:
    """The day of one subagent's agent; it counts in the day in which the run began."""

    def __init__(self, spending: Spending, store: Runs, clock: Clock, *, user_id: UserId, of: Definition) -> None:
        self._spending = spending
        self._store = store
        self._clock = clock
        self._user_id = user_id
        self._definition = of
        self.reserved = 0
        """Micro-dollars that were taken for calls which no step has counted."""
        self._asked: tuple[Reservation, str] | None = None
        """Amount that was asked for and has no answer yet, with the token of the request."""

    async def reserve(self, request: ModelRequest) -> Afforded:
        """Take the most that a call may cost; nothing where the agent has no limit a day.

        Returns:
            The call, with as many tokens for its answer as the day can pay.

        Raises:
            ShareExceeded: the day has less left than the shortest answer may cost.
            Upstream: the database could not be reached.
        """
        day = self._counter(self._definition.day_cost_micros)
        by: NamedBudget | None = None
        if self._definition.day_cost_micros is None or day is None:
            return Afforded(request, by)
        for _ in range(NARROWINGS):
            now = self._clock.now()
            self._asked = replace(day, amount=estimate(request, now)), new_id()
            # Waited for also when the run is stopped meanwhile: its end must know what was taken.
            taking = asyncio.create_task(self._take(*self._asked))
            try:
                await asyncio.shield(taking)
            except DayExceeded as exc:
                by = NamedBudget.of_day(exc.day, exc.taken)
            else:
                return Afforded(request, by)
            finally:
                await asyncio.wait([taking])
            try:
                request, _ = afford(request, [by], Spent(), now)
            except BudgetExceeded as exc:
                raise ShareExceeded(exc) from None
        raise ShareExceeded(BudgetExceeded(by or _UNKNOWN, Spent()))

    async def _take(self, asked: Reservation, token: str) -> None:
        try:
            await asyncio.to_thread(self._store.take, asked, token=token)
        except Upstream:
            raise  # nobody knows whether it was taken
        except AppError:
            self._asked = None
            raise
        self._asked = None
        self.reserved += asked.amount

    async def settle(self) -> None:
        """Ask again for what was asked for without an answer: then it is taken, once, or was refused.

        Raises:
            Upstream: the database could not be reached.
        """
        if self._asked is None:
            return
        try:
            await self._take(*self._asked)
        except Upstream:
            raise
        except AppError as exc:
            logger.info("run.day_not_taken", agent_id=self._definition.agent_id, code=exc.code)

    async def give_back(self) -> None:
        """Give back what a stopped call has taken: who goes on estimates what it has used."""
        day = self._counter(None)
        if day is None:
            return
        try:
            await self.settle()
            reserved, self.reserved = self.reserved, 0
            await asyncio.to_thread(self._store.settle, day.adjusted(-reserved))
        except Upstream as exc:
            logger.warning("run.day_not_given_back", agent_id=self._definition.agent_id, code=exc.code)

    def counted(self, spent: Spent) -> Adjustment | None:
        """Return what the day lacks of what calls have spent, beside what was taken for them; None: no days count."""
        day = self._counter(None)
        reserved, self.reserved = self.reserved, 0
        return None if day is None else day.adjusted(spent.cost_micros - reserved)

    def _counter(self, allowed: int | None) -> Reservation | None:
        day = self._spending.day
        if day is None:
            return None
        return Reservation(
            user_id=self._user_id,
            metric=Metric.MODEL_SPEND,
            amount=0,
            period=period_of(Metric.MODEL_SPEND, self._clock.now()),
            allowed=None,
            plan="",
            days=(DaySpend(day=day, agent_id=self._definition.agent_id, allowed=allowed),),
            of_days_alone=True,
        )

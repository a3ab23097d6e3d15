"""Model spend of one run: reserved before each call, corrected when the run ends (docs/adr/0034).

Its budgets are asked first (docs/adr/0055): they are the run's alone, which one process executes, so they take no call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from karma.billing.allowances import (
    Adjustment,
    Allowance,
    Allowances,
    DayExceeded,
    Metric,
    Reservation,
)
from karma.core.clock import Clock
from karma.core.errors import QuotaExceeded, Upstream
from karma.core.records import Record
from karma.models.budgets import (
    Afforded,
    Budget,
    BudgetExceeded,
    BudgetName,
    NamedBudget,
    Spent,
    afford,
    bound_of,
)
from karma.models.domain import Target, Usage, Usages
from karma.models.ports import Heard, Meter, ModelRequest
from karma.models.prices import MAX_INPUT_TOKENS, cost, estimate, has_documents, input_tokens, stopped_call
from karma.runs.domain import Progress, RunKey
from karma.runs.ports import Runs
from karma.runs.reservations import NARROWINGS, as_now


class _Call(Record):
    """A call that is under way."""

    request: ModelRequest
    at: datetime
    bound: int
    """Upper bound of its cost in micro-dollars."""
    heard: Callable[[], int]
    """Tells how many UTF-8 bytes of its answer have arrived."""

    @property
    def stopped(self) -> tuple[Target, Usage, int]:
        """Return who answers, what it has used if it is stopped now, and the cost of that."""
        meter = self.request.meter
        return stopped_call(self.request, meter.heard(self.heard()), self.at)

    @property
    def most(self) -> Spent:
        """Return the most that it may use."""
        tokens = min(MAX_INPUT_TOKENS, input_tokens(self.request)) + self.request.max_tokens
        return Spent(tokens=tokens, cost_micros=self.bound)


class Share:
    """Spending of one subagent: its part of the run's budgets, and the budgets that are its agent's alone."""

    def __init__(self, name: str, budgets: Sequence[NamedBudget] = (), spent: Spent = Spent()) -> None:  # noqa: B008
        """Begin for a subagent that has used `spent` before."""
        self.name = name
        self.budgets = budgets
        self.used = spent
        self.usages = Usages()
        """Tokens since it was asked for them last (`take`)."""
        self.tokens = 0
        self.cost_micros = 0
        self.narrowed_by: NamedBudget | None = None
        """The budget of its agent that gave its last call fewer tokens than it asked for; None: none did."""
        self.narrowed_by_run: NamedBudget | None = None
        """The same of the run's budgets."""

    def add(self, target: Target, usage: Usage, tokens: int, cost_micros: int) -> None:
        """Count a call."""
        self.usages = self.usages.plus(target, usage)
        self.tokens += tokens
        self.cost_micros += cost_micros
        self.used += Spent(tokens=tokens, cost_micros=cost_micros)

    def take(self) -> tuple[Usages, Spent]:
        """Return what it has used since this was called last."""
        taken = self.usages, Spent(tokens=self.tokens, cost_micros=self.cost_micros)
        self.usages, self.tokens, self.cost_micros = Usages(), 0, 0
        return taken


class ShareExceeded(Exception):
    """A budget of a subagent's own agent does not cover its next call: the run may go on without it."""

    def __init__(self, exceeded: BudgetExceeded) -> None:
        super().__init__(exceeded.message)
        self.exceeded = exceeded


class Spending:
    """Counts what a run has used and spent, against its budgets and against what it has reserved."""

    def __init__(
        self,
        key: RunKey,
        reservation: Reservation,
        *,
        allowances: Allowances,
        store: Runs,
        clock: Clock,
        progress: Progress = Progress(),  # noqa: B008 - immutable
        budgets: Sequence[NamedBudget] = (),
    ) -> None:
        """Begin with the model spend that is reserved for the run, and what it has used and spent before."""
        self._key = key
        self._first = reservation
        self._reserved = reservation.amount
        self._is_reserved_known = True
        """False: an extension has no answer, so that more may be reserved."""
        self._allowances = allowances
        self._store = store
        self._clock = clock
        self._budgets = budgets
        self._counted = [each for each in budgets if each.is_counted]
        """Those of which it knows what is used; of the others a reservation learns it."""
        self._spent = progress.spent_micros
        self.usages = progress.usages
        known = tokens_of(progress.usages.total)
        self._tokens = known if progress.spent_tokens is None else progress.spent_tokens
        self._calls: dict[str, _Call] = {}
        """Calls that are under way, by the name of the subagent's share; "" is the run's own."""
        self._turn = asyncio.Lock()
        self._less = asyncio.Event()
        """Set when a call has ended."""
        self.narrowed_by: NamedBudget | None = None
        """The budget that gave the last call fewer tokens for its answer than it asked for; None: none did."""

    @property
    def day(self) -> str | None:
        """Return the day in which all of the run counts; None: it counts in none."""
        return next((each.day for each in self._first.days), None)

    def begin(self, request: ModelRequest, *, at: datetime, heard: Callable[[], int]) -> None:
        """Note a call whose upper bound by the prices of a moment is what is reserved; `heard` is as in `admit`."""
        self._calls[""] = _Call(request, at, estimate(request, at), heard)

    async def admit(
        self, request: ModelRequest, share: Share | None = None, *, heard: Callable[[], int]
    ) -> ModelRequest:
        """Make sure, before a call, that budgets and the reservation cover it; reserve more if that does not.

        Args:
            request: the call.
            share: the subagent's that makes it; None: the run itself does.
            heard: tells how many UTF-8 bytes of the answer have arrived, should the call be stopped.

        Returns:
            The call, with as many tokens for its answer as the budgets can pay, and with a meter of its own.

        Raises:
            BudgetExceeded: a budget, or the plan, does not cover the call.
            ShareExceeded: a budget of the subagent's own agent does not.
            OwnershipLost: another process has ended the run.
            Upstream: the database could not be reached.
        """
        if has_documents(request, at_hand=True):
            await asyncio.to_thread(input_tokens, request)  # their pages are counted once
        async with self._turn:
            return await self._admit(request, share, heard)

    async def _admit(self, request: ModelRequest, share: Share | None, heard: Callable[[], int]) -> ModelRequest:
        if share is not None:
            try:
                request, share.narrowed_by = afford(request, share.budgets, share.used, self._clock.now())
            except BudgetExceeded as exc:
                raise ShareExceeded(exc) from None
        request, narrowed_by = await self._reserved_beside_others(replace(request, meter=Meter()))
        if share is None:
            self.narrowed_by = narrowed_by
        else:
            share.narrowed_by_run = narrowed_by
        now = self._clock.now()
        self._calls["" if share is None else share.name] = _Call(request, now, estimate(request, now), heard)
        return request

    async def _reserved_beside_others(self, request: ModelRequest) -> tuple[ModelRequest, NamedBudget | None]:
        """Return a call as budgets can pay it, with its bound reserved; where need be once others have ended."""
        while True:
            afforded, others = await self._beside_others(request), len(self._calls)
            try:
                made, by = await self._reserve(afforded.request)
            except BudgetExceeded as exc:
                if not others or exc.named.name is BudgetName.PLAN:
                    raise
            else:
                if by is None or not others:
                    return made, by or afforded.by
            # Those that are under way use less than was reserved for them.
            await self._less.wait()

    async def _reserve(self, request: ModelRequest) -> Afforded:
        """Reserve what a call lacks; one for which a day has less left gets as many tokens as that can pay."""
        now = self._clock.now()
        most = self._most
        if most.cost_micros + estimate(request, now) <= self._reserved:
            return Afforded(request, None)
        # Waited for also when the run is stopped meanwhile: its end must know what was reserved.
        extending = asyncio.create_task(asyncio.to_thread(self._extend, request, most, now))
        try:
            return await asyncio.shield(extending)
        finally:
            await asyncio.wait([extending])

    async def _beside_others(self, request: ModelRequest) -> Afforded:
        """Return a call as budgets can pay it beside the calls that are under way, where need be once those ended.

        What they may use at the most is more than they do: none is refused, or cut short, because of that.
        """
        while True:
            self._less.clear()
            try:
                afforded = afford(request, self._counted, self._most, self._clock.now())
            except BudgetExceeded:
                if not self._calls:
                    raise
            else:
                if afforded.by is None or not self._calls:
                    return afforded
            await self._less.wait()

    @property
    def _most(self) -> Spent:
        """Return the most that calls have used, and those that are under way may."""
        return sum((each.most for each in self._calls.values()), self.used)

    def _extend(self, request: ModelRequest, most: Spent, at: datetime) -> Afforded:
        """Reserve what a call lacks, and for further calls as much as one may cost at the most, where there is room.

        Calls cost a fraction of that, so a run of many steps reserves every few of them, not at each.

        Args:
            request: the call.
            most: the most that those before it have used, or may.
            at: moment whose prices hold.

        Raises:
            BudgetExceeded: a day, or the plan, does not cover the call.
            OwnershipLost: another process has ended the run.
            Upstream: the database could not be reached.
        """
        # The current plan, but the month in which the run began, where all of it is corrected.
        allowance = replace(self._allowances.of(self._first.user_id), at=_month_of(self._first))
        by: NamedBudget | None = None
        ahead = estimate(request, at)
        for _ in range(NARROWINGS):
            missing = most.cost_micros + estimate(request, at) - self._reserved
            if missing <= 0:
                return Afforded(request, by)
            try:
                self._take(allowance, missing + ahead)
            except DayExceeded as exc:
                refused = NamedBudget.of_day(exc.day, exc.taken, own=self._reserved)
                request, by = afford(request, [refused], most, at)
            except QuotaExceeded as exc:
                if not ahead:
                    raise self._beyond_plan(exc, request, at) from None
            else:
                return Afforded(request, by)
            ahead = 0
        raise BudgetExceeded(refused, most)

    def _take(self, allowance: Allowance, amount: int) -> None:
        try:
            reservation = allowance.reserve(Metric.MODEL_SPEND, amount)
            self._store.extend(self._key, replace(reservation, days=as_now(self._first.days, allowance)))
        except QuotaExceeded:
            raise
        except Upstream:
            self._is_reserved_known = False
            raise
        self._reserved += amount

    def _beyond_plan(self, refusal: QuotaExceeded, request: ModelRequest, at: datetime) -> BudgetExceeded:
        """Return what tells that the plan has no room for a call; what it was refused with says what is used of it."""
        details = refusal.details if isinstance(refusal.details, dict) else {}
        used = details.get("used")
        plan = NamedBudget(
            name=BudgetName.PLAN,
            budget=Budget(max_cost_micros=details.get("allowed")),
            before=Spent() if used is None else Spent(cost_micros=used - self._reserved),
            is_counted=used is not None,
        )
        return BudgetExceeded(plan, self.used, None if used is None else bound_of(request, at))

    def narrow(self, share: Share, afforded: Afforded) -> None:
        """Note that a subagent's call gets fewer tokens than were admitted, since its agent's day has less left."""
        call = self._calls[share.name]
        self._calls[share.name] = replace(call, request=afforded.request, bound=estimate(afforded.request, call.at))
        share.narrowed_by = afforded.by or share.narrowed_by
        self._less.set()

    def ended(self, usage: Usage, by: Target | None = None, share: Share | None = None) -> None:
        """Count the usage of a complete call, by the model that answered it; None: the run's own."""
        call = self._calls.pop("" if share is None else share.name, None)
        self._less.set()
        if call is not None:
            target = by or call.request.target
            self._add(target, usage, tokens_of(usage), cost(usage, target, call.at), share)

    def _add(self, target: Target, usage: Usage, tokens: int, cost_micros: int, share: Share | None) -> None:
        self.usages = self.usages.plus(target, usage)
        self._tokens += tokens
        self._spent += cost_micros
        if share is not None:
            share.add(target, usage, tokens, cost_micros)

    def failed(self, usage: Usage, by: Target | None = None, share: Share | None = None) -> None:
        """Count the known usage of a failed call.

        One that failed before its answer began costs nothing; an answer that broke off costs as all tokens that it may
        have.
        """
        name = "" if share is None else share.name
        call = self._calls.get(name)
        if call is not None and usage.input_tokens is not None and usage.output_tokens is None:
            target = by or call.request.target
            most = replace(usage, output_tokens=call.request.max_tokens)
            self._add(target, usage, tokens_of(most), cost(most, target, call.at), share)
            del self._calls[name]
            self._less.set()
            return
        self.ended(usage, by, share)

    def require_whole(self, wanted: ModelRequest) -> None:
        """Refuse the last answer, which its limit has cut, where a budget had left it less than was wanted.

        Raises:
            BudgetExceeded: one had.
        """
        if self.narrowed_by is not None:
            raise BudgetExceeded(self.narrowed_by, self.used, bound_of(wanted, self._clock.now()))

    def stopped(self, share: Share | None = None) -> None:
        """Count the call that was stopped from here, if one is under way, by what its provider and it had said.

        Others may wait for its end.
        """
        call = self._calls.pop("" if share is None else share.name, None)
        self._less.set()
        if call is not None:
            target, usage, cost_micros = call.stopped
            self._add(target, usage, tokens_of(usage), cost_micros, share)

    def withdrawn(self, share: Share) -> None:
        """Forget a call of a subagent that is not made after all; others may wait for its end."""
        self._calls.pop(share.name, None)
        self._less.set()

    def lost(self, request: ModelRequest, heard: Heard, share: Share | None = None) -> None:
        """Count a call of a process that has gone, by what is known of its answer, at the price of now."""
        target, usage, cost_micros = stopped_call(request, heard, self._clock.now())
        self._add(target, usage, tokens_of(usage), cost_micros, share)

    @property
    def under_way(self) -> Mapping[str, Meter]:
        """Return the calls that have no known end: by the names of subagents, and "" for the run's own."""
        return {name: call.request.meter for name, call in self._calls.items()}

    @property
    def spent(self) -> int:
        """Return the cost of all calls; those that are under way count as if they were stopped now."""
        return self._spent + sum(each.stopped[2] for each in self._calls.values())

    @property
    def used(self) -> Spent:
        """Return what complete and broken calls have used; what a broken answer may have had counts."""
        return Spent(tokens=self._tokens, cost_micros=self._spent)

    @property
    def used_in_all(self) -> Spent:
        """Return the same with what the runs had used that this one goes on for."""
        return self._before + self.used

    @property
    def _before(self) -> Spent:
        # A thread's count has its other runs, too.
        own = (each.before for each in self._budgets if each.name in {BudgetName.RUN, BudgetName.AGENT})
        return next(own, Spent())

    async def settle(self) -> None:
        """Learn what is reserved from the run as it is stored, where an extension has no answer.

        Raises:
            Upstream: the database could not be reached.
        """
        if self._is_reserved_known:
            return
        run = await asyncio.to_thread(self._store.run, self._key)
        if run is not None:
            self._reserved = run.reserved_micros
        self._is_reserved_known = True

    def correction(self) -> Adjustment:
        """Return the correction of the reservation at the run's end."""
        return self._first.adjusted(self.spent - self._reserved)


def tokens_of(usage: Usage) -> int:
    """Return the tokens of calls as budgets count them."""
    return (usage.input_tokens or 0) + (usage.output_tokens or 0)


def _month_of(reservation: Reservation) -> datetime:
    """Return a moment in the month in which a reservation counts."""
    return datetime.fromisoformat(f"{reservation.period}-01T00:00:00+00:00")

"""Model spend of one run: reserved before each call, corrected when the run ends (docs/adr/0034)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime

from karma.billing.allowances import Adjustment, Allowance, Allowances, Metric, Reservation, period_of
from karma.core.clock import Clock
from karma.core.errors import QuotaExceeded
from karma.models.domain import Target, Usage
from karma.models.ports import ModelRequest
from karma.models.prices import cost, estimate
from karma.runs.domain import Progress, Run, RunErrorCode, RunFailed, RunKey
from karma.runs.ports import Runs


@dataclass(frozen=True)
class _Call:
    """A call that is under way."""

    request: ModelRequest
    at: datetime
    bound: int
    """Upper bound of its cost in micro-dollars."""


def first_reservations(allowance: Allowance, request: ModelRequest) -> tuple[Reservation, Reservation]:
    """Return the reservations of a run's start: one run, and the upper bound of its first call's cost.

    Raises:
        QuotaExceeded: one of them is more than the whole plan allows.
    """
    return allowance.reserve(Metric.RUNS), allowance.reserve(Metric.MODEL_SPEND, estimate(request, allowance.at))


def reserved_for(run: Run) -> Reservation:
    """Return the reservation of model spend that is stored with a run, whatever its owner's plan allows by now."""
    return Reservation(
        user_id=run.key.user_id,
        metric=Metric.MODEL_SPEND,
        amount=run.reserved_micros,
        period=period_of(Metric.MODEL_SPEND, run.created_at),
        allowed=None,
        plan="",
    )


class Budget:
    """Counts what a run has used and spent, in micro-dollars, against what it has reserved."""

    def __init__(
        self,
        key: RunKey,
        reservation: Reservation,
        *,
        allowances: Allowances,
        store: Runs,
        clock: Clock,
        progress: Progress = Progress(),  # noqa: B008 - immutable
    ) -> None:
        """Begin with the model spend that is reserved for the run, and what it has used and spent before."""
        self._key = key
        self._first = reservation
        self._reserved = reservation.amount
        self._allowances = allowances
        self._store = store
        self._clock = clock
        self._spent = progress.spent_micros
        self.usages = progress.usages
        self._call: _Call | None = None

    def begin(self, request: ModelRequest, *, at: datetime) -> None:
        """Note a call whose upper bound by the prices of a moment is what is reserved."""
        self._call = _Call(request, at, estimate(request, at))

    async def admit(self, request: ModelRequest) -> None:
        """Make sure, before a call, that the reservation covers it; reserve more if it does not.

        Raises:
            RunFailed: QUOTA_EXCEEDED: the plan does not cover the call.
            OwnershipLost: another process has ended the run.
            Upstream: the database could not be reached.
        """
        now = self._clock.now()
        bound = estimate(request, now)
        missing = self._spent + bound - self._reserved
        if missing > 0:
            # Waited for also when the run is stopped meanwhile: its end must know what was reserved.
            extending = asyncio.create_task(asyncio.to_thread(self._extend, missing))
            try:
                await asyncio.shield(extending)
            except QuotaExceeded:
                raise RunFailed(RunErrorCode.QUOTA_EXCEEDED) from None
            finally:
                await asyncio.wait([extending])
        self._call = _Call(request, now, bound)

    def _extend(self, amount: int) -> None:
        # The current plan, but the month in which the run began, where all of it is corrected.
        allowance = replace(self._allowances.of(self._first.user_id), at=_month_of(self._first))
        self._store.extend(self._key, allowance.reserve(Metric.MODEL_SPEND, amount))
        self._reserved += amount

    def ended(self, usage: Usage, by: Target | None = None) -> None:
        """Count the usage of a complete call, by the model that answered it; None: the run's own."""
        call, self._call = self._call, None
        if call is not None:
            target = by or call.request.target
            self.usages = self.usages.plus(target, usage)
            self._spent += cost(usage, target, call.at)

    def failed(self, usage: Usage, by: Target | None = None) -> None:
        """Count the known usage of a failed call.

        One that failed before its answer began costs nothing; an answer that broke off costs as all tokens that it may
        have.
        """
        call = self._call
        if call is not None and usage.input_tokens is not None and usage.output_tokens is None:
            target = by or call.request.target
            self.usages = self.usages.plus(target, usage)
            self._spent += cost(replace(usage, output_tokens=call.request.max_tokens), target, call.at)
            self._call = None
            return
        self.ended(usage, by)

    def lost(self, request: ModelRequest, estimated: Usage) -> None:
        """Count the estimated usage of a call whose process was lost, at the price of now and of the run's own model.

        Nobody knows whether another model had answered in its place.
        """
        self.usages = self.usages.plus(request.target, estimated)
        self._spent += cost(estimated, request.target, self._clock.now())

    @property
    def spent(self) -> int:
        """Return the cost of all calls; a cancelled call has no known usage and counts with its upper bound."""
        return self._spent + (self._call.bound if self._call is not None else 0)

    def correction(self) -> Adjustment:
        """Return the correction of the reservation at the run's end."""
        return self._first.adjusted(self.spent - self._reserved)


def _month_of(reservation: Reservation) -> datetime:
    """Return a moment in the month in which a reservation counts."""
    return datetime.fromisoformat(f"{reservation.period}-01T00:00:00+00:00")

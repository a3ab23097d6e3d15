"""The limit that an account sets for what its calls of models may cost a day (docs/adr/0055)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from karma.audit.domain import AuditEntry, AuditEvent, Source
from karma.core.clock import Clock
from karma.core.errors import StaleVersion
from karma.core.ids import UserId

if TYPE_CHECKING:
    from datetime import datetime

    from karma.billing.allowances import SpentToday
    from karma.billing.ports import DailyBudget

_ROUNDS = 3


class Budgets(Protocol):
    """Stored limits: repository.daily_budgets.DailyBudgetRepository."""

    def get(self, user_id: UserId) -> DailyBudget:
        """Read an account's limit, strongly consistent."""
        ...

    def save(
        self,
        user_id: UserId,
        max_cost_micros: int | None,
        *,
        seen: DailyBudget,
        used: int | None,
        at: datetime,
        entry: AuditEntry,
    ) -> bool:
        """Write a limit on the version seen, with its entry in the audit log; return False when it has changed since.

        `used` is what the count of the day of `at` begins with; None: it goes on as it is.

        Raises:
            AccountGone: the account is deleted.
        """
        ...


class Days(Protocol):
    """Spending by day: repository.usage.UsageRepository."""

    def read_day(self, user_id: UserId, at: datetime) -> SpentToday:
        """Read an account's model spend of the day of a moment, strongly consistent."""
        ...


class DailyBudgets:
    """Use cases of an account with the limit of its day."""

    def __init__(self, *, budgets: Budgets, days: Days, clock: Clock) -> None:
        self._budgets = budgets
        self._days = days
        self._clock = clock

    def get(self, user_id: UserId) -> DailyBudget:
        """Read an account's limit."""
        return self._budgets.get(user_id)

    def change(
        self, user_id: UserId, max_cost_micros: int | None, *, version: int | None, source: Source
    ) -> DailyBudget:
        """Set an account's limit, or take it off (None); a repeat changes nothing.

        Where there was none, the day's count begins with what the day has used, running runs' reservations included.
        What those runs spend less, or reserve more, is not counted: they began without the limit.

        Args:
            user_id: the account.
            max_cost_micros: micro-dollars a day (UTC).
            version: the version that the caller has read; None: any.
            source: origin of the request.

        Raises:
            StaleVersion: the limit was changed since that version, or others change it all the time.
            AccountGone: the account is deleted.
        """
        for _ in range(_ROUNDS):
            seen = self._budgets.get(user_id)
            if version is not None and version != seen.version:
                break
            if seen.max_cost_micros == max_cost_micros:
                return seen
            now = self._clock.now()
            begins = seen.max_cost_micros is None
            entry = AuditEntry(
                user_id=user_id,
                event=AuditEvent.BILLING_BUDGET_CHANGED,
                at=now,
                actor_id=user_id,
                source=source,
                details={"max_cost_micros": "" if max_cost_micros is None else str(max_cost_micros)},
            )
            used = self._days.read_day(user_id, now).total if begins else None
            if self._budgets.save(user_id, max_cost_micros, seen=seen, used=used, at=now, entry=entry):
                return self._budgets.get(user_id)
        raise StaleVersion("The budget was changed at the same moment; read it again")

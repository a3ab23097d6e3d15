"""Limits that accounts set for their day, in the billing table."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from karma.audit.transactional import add_audit_entry
from karma.billing.allowances import day_of
from karma.billing.ports import DailyBudget
from karma.billing.repository.items import DailyBudgetItem
from karma.billing.repository.keys import budget_key
from karma.billing.repository.usage import begin_account_day
from karma.core.clock import iso
from karma.core.dynamo.access import get
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.identity.transactional import require_account

if TYPE_CHECKING:
    from karma.audit.domain import AuditEntry


class DailyBudgetRepository:
    """Limits of days over DynamoDB. SubscriptionRepository reads them for whoever spends, and removes them."""

    def get(self, user_id: UserId) -> DailyBudget:
        """See Budgets; one Get."""
        item = get(DailyBudgetItem, Key(*budget_key(user_id)), consistent=True)
        if item is None:
            return DailyBudget()
        most = item.attribute_values.get("max_cost_micros")
        return DailyBudget(None if most is None else int(most), int(item.version), item.created_at or "")

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
        """See Budgets; one transaction of three items, four where the day's count begins."""
        item = DailyBudgetItem(
            *budget_key(user_id),
            max_cost_micros=max_cost_micros,
            created_at=seen.created_at or iso(at),
            updated_at=iso(at),
        )
        if seen.version:
            item.version = seen.version
        tx = Transaction()
        require_account(tx, user_id)
        tx.put(item)
        if used is not None:
            begin_account_day(tx, user_id, day_of(at), used)
        add_audit_entry(tx, entry)
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

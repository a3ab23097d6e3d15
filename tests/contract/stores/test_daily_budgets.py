"""The limit that an account sets for its day: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.billing.ports import DailyBudget
from karma.billing.repository.daily_budgets import DailyBudgetRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.core.ids import UserId
from tests.fakes.billing import MemoryBilling, MemoryDailyBudgets
from tests.support.accounts import open_account
from tests.support.stores import Store

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ALICE = UserId("01890000-0000-7000-8000-00000000000a")
Stores = tuple[MemoryDailyBudgets | DailyBudgetRepository, MemoryBilling | SubscriptionRepository]


@pytest.fixture
def stores(store: Store) -> Stores:
    if store.in_memory:
        billing = MemoryBilling()
        return billing.budgets, billing
    open_account(ALICE)
    return DailyBudgetRepository(), SubscriptionRepository()


def changed() -> AuditEntry:
    return AuditEntry(event=AuditEvent.BILLING_BUDGET_CHANGED, user_id=ALICE, actor_id=ALICE, at=NOW)


def test_a_limit_is_set_over_what_was_seen_and_read_with_the_subscription(stores: Stores) -> None:
    budgets, subscriptions = stores
    none = budgets.get(ALICE)
    assert (none, subscriptions.limits(ALICE).day_cost_micros) == (DailyBudget(), None)
    assert budgets.save(ALICE, 5, seen=none, used=3, at=NOW, entry=changed())
    assert not budgets.save(ALICE, 7, seen=none, used=None, at=NOW, entry=changed())
    first = budgets.get(ALICE)
    assert (first.max_cost_micros, subscriptions.limits(ALICE).day_cost_micros) == (5, 5)
    assert budgets.save(ALICE, None, seen=first, used=None, at=NOW, entry=changed())
    assert (budgets.get(ALICE).max_cost_micros, subscriptions.limits(ALICE).day_cost_micros) == (None, None)

"""The items that a request for a run reads in one call, beside each of them read alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.billing.allowances import Allowances
from karma.billing.domain import free_subscription
from karma.billing.plans import PlanName
from karma.billing.ports import DailyBudget, Row
from karma.billing.repository.daily_budgets import DailyBudgetRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.subscriptions import SubscriptionService
from karma.identity.domain import Role
from karma.integrations.mcp import McpClient
from karma.mcp.offering import McpTools
from karma.mcp.repository import McpServerRepository
from karma.mcp.secrets import Endpoints
from karma.runs.known import Known, reader
from karma.runs.repository import RunRepository
from tests.contract.stores.test_mcp import NOTHING, server
from tests.contract.stores.test_runs import USER, begin, run
from tests.fakes.mcp import OpenSeal
from tests.fakes.runs import SetClock, caller
from tests.support.accounts import open_account
from tests.support.run_services import known_by
from tests.support.stores import Database

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def both() -> tuple[Known, Known]:
    """Return what is read in one call, and what is read one after another."""
    clock = SetClock(NOW)
    mcp = McpTools(McpServerRepository(), McpClient, lambda: Endpoints(OpenSeal()), clock)
    terms_of = SubscriptionService(subscriptions=SubscriptionRepository(), clock=clock).terms
    alone = known_by(RunRepository(), Allowances(terms_of=terms_of, clock=clock), mcp)
    return reader(mcp, clock)(caller(Role.USER), run().key), alone(caller(Role.USER), run().key)


@pytest.mark.parametrize("has_run", [False, True], ids=["no run", "a run"])
@pytest.mark.parametrize("pays", [False, True], ids=["free", "paid"])
@pytest.mark.parametrize("limit", [None, 5], ids=["no limit", "a limit"])
@pytest.mark.parametrize("has_server", [False, True], ids=["no server", "a server"])
def test_it_is_what_its_parts_are(
    database: Database, has_run: bool, pays: bool, limit: int | None, has_server: bool
) -> None:
    open_account(USER)
    if has_run:
        begin(RunRepository())
    if pays:
        bought = replace(free_subscription(USER, NOW), plan=PlanName.PRO)
        assert SubscriptionRepository().save(USER, bought, seen=Row(), at=NOW)
    if limit:
        entry = AuditEntry(event=AuditEvent.BILLING_BUDGET_CHANGED, user_id=USER, actor_id=USER, at=NOW)
        assert DailyBudgetRepository().save(USER, limit, seen=DailyBudget(), used=None, at=NOW, entry=entry)
    if has_server:
        McpServerRepository().create(server(user=USER), seen=NOTHING, request=None)
    together, alone = both()
    assert (together.before, together.allowance, list(together.servers)) == (
        alone.before,
        alone.allowance,
        list(alone.servers),
    )
    assert (together.before is not None, bool(together.servers)) == (has_run, has_server)
    assert (together.allowance.plan.name is PlanName.PRO, together.allowance.day_cost_micros) == (pays, limit)

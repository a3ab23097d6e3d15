"""Services of plans, subscriptions and Stripe's events."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.billing.allowances import Allowances
    from karma.billing.customers import CustomerLinking
    from karma.billing.daily_budgets import DailyBudgets
    from karma.billing.inbox import InboxService
    from karma.billing.repository.usage import UsageRepository
    from karma.billing.subscriptions import SubscriptionService


@cache
def subscriptions() -> SubscriptionService:
    """Return the service of plans and subscriptions."""
    from karma.billing.repository.subscriptions import SubscriptionRepository
    from karma.billing.subscriptions import SubscriptionService

    return SubscriptionService(subscriptions=SubscriptionRepository(), clock=clock())


@cache
def allowances() -> Allowances:
    """Return the reader of allowances."""
    from karma.billing.allowances import Allowances

    return Allowances(terms_of=subscriptions().terms, clock=clock())


@cache
def usage() -> UsageRepository:
    """Return the reader of usage."""
    from karma.billing.repository.usage import UsageRepository

    return UsageRepository()


@cache
def daily_budgets() -> DailyBudgets:
    """Return the service of accounts for the limit of their day."""
    from karma.billing.daily_budgets import DailyBudgets
    from karma.billing.repository.daily_budgets import DailyBudgetRepository

    return DailyBudgets(budgets=DailyBudgetRepository(), days=usage(), clock=clock())


@cache
def inbox() -> InboxService:
    """Return the service of administrators for Stripe's events."""
    from karma.billing.inbox import InboxService
    from karma.billing.repository.inbox import InboxRepository
    from karma.integrations.sqs import SqsQueue

    return InboxService(inbox=InboxRepository(), queue=SqsQueue(settings().inbox_queue_url), clock=clock())


@cache
def customers() -> CustomerLinking:
    """Return the service of administrators for links of Stripe's customers to accounts."""
    from karma.billing.customers import CustomerLinking
    from karma.billing.repository.customers import CustomerRepository
    from karma.integrations.sqs import SqsQueue

    return CustomerLinking(
        customers=CustomerRepository(),
        queue=SqsQueue(settings().inbox_queue_url),
        clock=clock(),
    )

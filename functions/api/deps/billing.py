"""Plans, subscriptions, Stripe's events."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.deps.process import clock, settings

if TYPE_CHECKING:
    from karma.billing.allowances import Allowances
    from karma.billing.customers import CustomerDesk
    from karma.billing.repository.usage import UsageRepository
    from karma.billing.service import InboxKeeper, SubscriptionService


@cache
def subscriptions() -> SubscriptionService:
    """Show plans and subscriptions."""
    from karma.billing.repository.subscriptions import SubscriptionRepository
    from karma.billing.service import SubscriptionService

    return SubscriptionService(subscriptions=SubscriptionRepository(), clock=clock())


@cache
def allowances() -> Allowances:
    """Tell what accounts may use of their plans."""
    from karma.billing.allowances import Allowances

    return Allowances(plan_of=subscriptions().plan, clock=clock())


@cache
def usage() -> UsageRepository:
    """Show what accounts have taken of their plans."""
    from karma.billing.repository.usage import UsageRepository

    return UsageRepository()


@cache
def inbox() -> InboxKeeper:
    """Show, replay and dismiss Stripe's events, for admins."""
    from karma.billing.repository.inbox import InboxRepository
    from karma.billing.service import InboxKeeper
    from karma.integrations.sqs import SqsQueue

    return InboxKeeper(inbox=InboxRepository(), queue=SqsQueue(settings().inbox_queue_url), clock=clock())


@cache
def customers() -> CustomerDesk:
    """Show and change which account a customer of Stripe pays for, for admins."""
    from karma.billing.customers import CustomerDesk
    from karma.billing.repository.customers import CustomerRepository
    from karma.integrations.sqs import SqsQueue

    return CustomerDesk(
        customers=CustomerRepository(),
        queue=SqsQueue(settings().inbox_queue_url),
        clock=clock(),
    )

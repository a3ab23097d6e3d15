"""What the billing routes answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from karma.billing.allowances import Metric
from karma.billing.domain import EventState, SubscriptionStatus
from karma.billing.plans import PlanName
from karma.core.schemas import Body, Data


class LimitsData(Data):
    """What a plan allows; null is unlimited."""

    devices: int | None
    seats: int | None
    storage_gb: int | None
    runs_per_month: int | None
    model_spend_minor_per_month: int | None


class PriceData(Data):
    """One way to pay for a plan."""

    lookup_key: str
    amount_minor: int
    currency: str
    interval: Literal["day", "week", "month", "year"]


class PlanData(Data):
    """A plan on offer."""

    name: PlanName
    title: str
    limits: LimitsData
    prices: list[PriceData]


class PlanListData(Data):
    """Every plan on offer now."""

    plans: list[PlanData]
    total: int


class PauseData(Data):
    """A collection of payments that is paused at Stripe."""

    behavior: str
    """What becomes of the invoices: keep_as_draft, mark_uncollectible; void, which gives no access meanwhile."""
    resumes_at: str | None


class SubscriptionData(Data):
    """A user's subscription; of several the one that gives most."""

    user_id: str
    plan: PlanName
    status: SubscriptionStatus
    entitled_plan: PlanName
    """The plan whose limits hold now: the largest that gives access, free when none does."""
    current_period_start: str
    current_period_end: str
    cancel_at_period_end: bool
    """The cancellation that is coming falls on the end of the period."""
    cancel_at: str | None
    """When the subscription ends, however the cancellation was asked for; null: it renews."""
    trial_end: str | None
    grace_until: str | None
    """After a failed payment: how long access lasts while Stripe tries again."""
    pause_collection: PauseData | None
    stripe_subscription_id: str | None
    stripe_customer_id: str | None
    limits: LimitsData


class CurrentSubscriptionData(Data):
    """The caller's subscription."""

    subscription: SubscriptionData


class UsageView(Data):
    """How much of one limit of the plan is taken."""

    metric: Metric
    """Bytes of `storage`, micro-dollars of `model_spend_per_month`; else a number."""
    used: int
    """What is reserved counts as used."""
    allowed: int | None
    """Null is unlimited."""
    resets_at: str | None
    """When the count begins anew; null: it is not counted by month."""


class UsageData(Data):
    """What the caller has taken of their plan."""

    usage: list[UsageView]


class InboxEventData(Data):
    """A stored Stripe event, without its body."""

    id: str
    type: str
    status: EventState
    object_id: str | None
    customer_id: str | None
    subscription_id: str | None
    account: str | None
    """The connected account that it happened in; null: our own."""
    livemode: bool
    received_at: str
    handled_at: str | None
    """When it was closed, in whatever way."""
    expires_at: str | None
    """When it is forgotten; null: not while it waits."""
    note: str
    """What it was closed with."""
    attempts: int
    last_error: str
    """Code of the last failed attempt."""


class InboxData(Data):
    """Stored events of one status."""

    events: list[InboxEventData]
    limit: int
    next_cursor: str | None


class EventData(Data):
    """One stored event."""

    event: InboxEventData


class DismissEvent(Body):
    """Why nobody will handle an event."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]


class LinkCustomer(Body):
    """Whom a customer of Stripe pays for."""

    user_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    from_user_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    """The account that has the customer now; absent: nobody has it."""


class CustomerLinkView(Data):
    """Whom a customer of Stripe pays for."""

    customer_id: str
    user_id: str
    livemode: bool | None
    """null: Stripe has not shown the customer yet."""


class CustomerLinkData(Data):
    """A link."""

    link: CustomerLinkView


class ReplayData(Data):
    """What a replay did."""

    event_id: str
    queued: bool

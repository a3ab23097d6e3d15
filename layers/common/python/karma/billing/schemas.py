"""What the billing routes answer, for the OpenAPI document."""

from __future__ import annotations

from karma.core.schemas import Data


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
    interval: str


class PlanData(Data):
    """A plan on offer."""

    name: str
    title: str
    limits: LimitsData
    prices: list[PriceData]


class PlanListData(Data):
    """Every plan on offer now."""

    plans: list[PlanData]
    total: int


class SubscriptionData(Data):
    """A user's subscription."""

    user_id: str
    plan: str
    status: str
    entitled_plan: str
    """The plan whose limits hold now: free once the bought one gives no access."""
    current_period_start: str
    current_period_end: str
    cancel_at_period_end: bool
    cancel_at: str | None
    trial_end: str | None
    stripe_subscription_id: str | None
    stripe_customer_id: str | None
    limits: LimitsData


class CurrentSubscriptionData(Data):
    """The caller's subscription."""

    subscription: SubscriptionData


class InboxEventData(Data):
    """A stored Stripe event, without its body."""

    id: str
    type: str
    received_at: str
    handled_at: str | None
    note: str
    attempts: int
    last_error: str


class InboxData(Data):
    """Stored events that wait, or that were closed without a user."""

    events: list[InboxEventData]
    limit: int
    next_cursor: str | None


class ReplayData(Data):
    """What a replay did."""

    event_id: str
    queued: bool

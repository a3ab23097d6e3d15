"""Subscriptions and the inbox of Stripe's events: pure rules.

Stripe's eight statuses become our four (R-K-19); the row keeps Stripe's word too, since access depends on it:

    Stripe              ours       access
    trialing            trialing   yes
    active              active     yes
    past_due            past_due   for GRACE after the unpaid period began
    unpaid              past_due   no: Stripe has given up collecting
    incomplete          past_due   no: the first payment has not arrived
    paused              past_due   no: the trial ended without a payment method
    incomplete_expired  canceled   no
    canceled            canceled   no
    (deleted: 404)      canceled   no
    (a ninth one)       past_due   no

A user has one row. When Stripe holds several subscriptions of a user, the best one is shown: `preference`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from karma.billing.plans import SMALLEST_PAID, PlanName, PriceHints, plan_named_by
from karma.core.ids import UserId, is_id

GRACE = timedelta(days=7)
"""How long a customer whose renewal failed keeps access, counted from the start of the unpaid period."""
LATE_NEWS = timedelta(days=3)
"""How long after a period's end access goes on when Stripe's word about the next period has not arrived."""


class SubscriptionStatus(StrEnum):
    """Our four statuses (R-K-19)."""

    ACTIVE = "active"
    CANCELED = "canceled"
    PAST_DUE = "past_due"
    TRIALING = "trialing"


_STATUS: Mapping[str, SubscriptionStatus] = {
    "active": SubscriptionStatus.ACTIVE,
    "trialing": SubscriptionStatus.TRIALING,
    "past_due": SubscriptionStatus.PAST_DUE,
    "unpaid": SubscriptionStatus.PAST_DUE,
    "incomplete": SubscriptionStatus.PAST_DUE,
    "paused": SubscriptionStatus.PAST_DUE,
    "incomplete_expired": SubscriptionStatus.CANCELED,
    "canceled": SubscriptionStatus.CANCELED,
}
_RANK: Mapping[str, int] = {
    "active": 5,
    "trialing": 5,
    "past_due": 4,
    "unpaid": 3,
    "paused": 3,
    "incomplete": 2,
    "canceled": 1,
    "incomplete_expired": 1,
}


def status_of(stripe_status: str) -> SubscriptionStatus:
    """Map Stripe's status to ours; one that Stripe invents later gives no access and is visible."""
    return _STATUS.get(stripe_status, SubscriptionStatus.PAST_DUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeSubscription:
    """A subscription as Stripe's API shows it now."""

    id: str
    customer_id: str
    status: str
    created: datetime
    current_period_start: datetime
    current_period_end: datetime
    """Of the item that ends first; of the subscription itself on Stripe's older interface."""
    cancel_at_period_end: bool
    cancel_at: datetime | None
    canceled_at: datetime | None
    trial_end: datetime | None
    price: PriceHints
    user_id: str
    """`user_id` in its metadata, "" when absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCustomer:
    """A customer as Stripe's API shows it now."""

    id: str
    user_id: str
    """`user_id` in its metadata, "" when absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A user's subscription row."""

    user_id: UserId
    plan: PlanName
    status: SubscriptionStatus
    stripe_status: str
    current_period_start: datetime
    current_period_end: datetime
    cancel_at_period_end: bool = False
    cancel_at: datetime | None = None
    canceled_at: datetime | None = None
    trial_end: datetime | None = None
    stripe_subscription_id: str | None = None
    stripe_customer_id: str | None = None
    stripe_created: datetime | None = None
    price_id: str = ""

    def entitled_plan(self, at: datetime) -> PlanName:
        """Return the plan whose limits hold now: the bought one while access lasts, else free."""
        if self.stripe_status in {"active", "trialing"}:
            lasts_until = self.current_period_end + LATE_NEWS
        elif self.stripe_status == "past_due":
            lasts_until = self.current_period_start + GRACE
        else:
            return PlanName.FREE
        return self.plan if at < lasts_until else PlanName.FREE


def project(source: StripeSubscription, *, user_id: UserId) -> Subscription:
    """Compute a user's row from Stripe's object; nothing else goes in, so order and repeats of events cannot matter."""
    return Subscription(
        user_id=user_id,
        plan=plan_named_by(source.price) or SMALLEST_PAID,
        status=status_of(source.status),
        stripe_status=source.status,
        current_period_start=source.current_period_start,
        current_period_end=source.current_period_end,
        cancel_at_period_end=source.cancel_at_period_end,
        cancel_at=source.cancel_at,
        canceled_at=source.canceled_at,
        trial_end=source.trial_end,
        stripe_subscription_id=source.id,
        stripe_customer_id=source.customer_id,
        stripe_created=source.created,
        price_id=source.price.price_id,
    )


def deleted(row: Subscription) -> Subscription:
    """Return the row of a subscription that Stripe no longer has."""
    return replace(row, status=SubscriptionStatus.CANCELED, stripe_status="canceled", cancel_at_period_end=False)


def free_subscription(user_id: UserId, now: datetime) -> Subscription:
    """Return what a user has who never bought anything: the free plan for the calendar month."""
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (start + timedelta(days=32)).replace(day=1)
    return Subscription(
        user_id=user_id,
        plan=PlanName.FREE,
        status=SubscriptionStatus.ACTIVE,
        stripe_status="active",
        current_period_start=start,
        current_period_end=end,
    )


def preference(source: StripeSubscription) -> tuple[int, datetime, str]:
    """Order a user's subscriptions: what gives access first, then the newest; total, so any two sets agree."""
    return _RANK.get(source.status, 2), source.created, source.id


def user_named_by(*texts: str) -> UserId | None:
    """Return the first text that can be a user's id; anything else in metadata is somebody's own."""
    return next((UserId(text) for text in texts if is_id(text)), None)


# Events

_OBJECT_ID = re.compile(r"[A-Za-z0-9_]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEvent:
    """A stored event."""

    id: str
    type: str
    body: str
    received_at: datetime
    handled_at: datetime | None
    note: str
    attempts: int
    last_error: str


class Concern(StrEnum):
    """What an event asks us to look at."""

    SUBSCRIPTION = "subscription"
    CUSTOMER = "customer"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What an event is about. Only ids are taken from it: states are read from Stripe."""

    concern: Concern
    subscription_id: str = ""
    customer_id: str = ""
    user_id: str = ""
    """From `client_reference_id`, which our checkout sets, or from metadata."""


def hint_of(event_type: str, obj: Mapping[str, object]) -> Hint:
    """Read what an event is about; never fails, whatever the object holds.

    Stripe: customer.*, customer.subscription.*, checkout.session.*, invoice.*
    """
    metadata = _mapping(obj.get("metadata"))
    user_id = _text(metadata.get("user_id"))
    if event_type.startswith("customer.subscription."):
        return _about(_id(obj.get("id")), _id(obj.get("customer")), user_id)
    if event_type in {"customer.created", "customer.updated", "customer.deleted"}:
        return _about("", _id(obj.get("id")), user_id)
    if event_type.startswith("checkout.session."):
        reference = _text(obj.get("client_reference_id"))
        return _about(_id(obj.get("subscription")), _id(obj.get("customer")), reference or user_id)
    if event_type.startswith("invoice."):
        details = _mapping(_mapping(obj.get("parent")).get("subscription_details"))
        subscription = _id(details.get("subscription")) or _id(obj.get("subscription"))
        if subscription:
            return _about(subscription, _id(obj.get("customer")), "")
    return Hint(concern=Concern.NOTHING)


def _about(subscription_id: str, customer_id: str, user_id: str) -> Hint:
    concern = Concern.SUBSCRIPTION if subscription_id else Concern.CUSTOMER if customer_id else Concern.NOTHING
    return Hint(concern=concern, subscription_id=subscription_id, customer_id=customer_id, user_id=user_id)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _id(value: object) -> str:
    """Take an id, or the id of an expanded object."""
    text = _text(_mapping(value).get("id")) if isinstance(value, dict) else _text(value)
    return text if _OBJECT_ID.fullmatch(text) else ""

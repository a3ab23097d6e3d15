"""Stored forms of billing; keys in keys.py."""

from __future__ import annotations

from pynamodb.attributes import BinaryAttribute, BooleanAttribute, NumberAttribute, UnicodeAttribute

from karma.billing.repository.keys import EVENT_DISCRIMINATOR
from karma.core.dynamo.items import Gsi1, Item, TableMeta


class BillingItem(Item):
    """Base of the billing table's items."""

    class Meta(TableMeta):
        """Bound to the deployed table by the repositories."""

        table_name = "billing"

    gsi1 = Gsi1()


class EventItem(BillingItem, discriminator=EVENT_DISCRIMINATOR):
    """A Stripe event; first written by arrivals.py."""

    event_type = UnicodeAttribute()
    body = UnicodeAttribute(null=True)
    body_packed = BinaryAttribute(legacy_encoding=False, null=True)
    """zlib; instead of `body` when that is large."""
    handled_at = UnicodeAttribute(null=True)
    """Set once its effect is stored; absent means that it waits."""
    note = UnicodeAttribute(null=True)
    attempts = NumberAttribute(default=0)
    last_error = UnicodeAttribute(null=True)


class SubscriptionItem(BillingItem, discriminator="billing_subscription"):
    """A user's subscription."""

    user_id = UnicodeAttribute()
    plan = UnicodeAttribute()
    status = UnicodeAttribute()
    stripe_status = UnicodeAttribute()
    current_period_start = UnicodeAttribute()
    current_period_end = UnicodeAttribute()
    cancel_at_period_end = BooleanAttribute(default=False)
    cancel_at = UnicodeAttribute(null=True)
    canceled_at = UnicodeAttribute(null=True)
    trial_end = UnicodeAttribute(null=True)
    stripe_subscription_id = UnicodeAttribute(null=True)
    stripe_customer_id = UnicodeAttribute(null=True)
    stripe_created = UnicodeAttribute(null=True)
    price_id = UnicodeAttribute(default="")


class GuardItem(BillingItem, discriminator="subscription_guard"):
    """Keeps a Stripe subscription with one user (R-K-20)."""

    user_id = UnicodeAttribute()


class CustomerItem(BillingItem, discriminator="customer_link"):
    """Whose Stripe customer it is; nobody's any more when the account is deleted."""

    user_id = UnicodeAttribute(null=True)

"""Stored forms of billing; keys in keys.py."""

from __future__ import annotations

from pynamodb.attributes import BinaryAttribute, BooleanAttribute, NumberAttribute, UnicodeAttribute

from karma.billing.repository.keys import EVENT_DISCRIMINATOR
from karma.core.dynamo.items import Gsi1, Item, TableMeta


class BillingItem(Item):
    """Base of the billing table's items."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "billing"

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
    state = UnicodeAttribute(default="unhandled")


class SubscriptionItem(BillingItem, discriminator="billing_subscription"):
    """What a user has; without a plan when nothing was bought, which is known once a customer is linked."""

    user_id = UnicodeAttribute()
    plan = UnicodeAttribute(null=True)
    status = UnicodeAttribute(null=True)
    stripe_status = UnicodeAttribute(null=True)
    current_period_start = UnicodeAttribute(null=True)
    current_period_end = UnicodeAttribute(null=True)
    cancel_at_period_end = BooleanAttribute(null=True)
    cancel_at = UnicodeAttribute(null=True)
    canceled_at = UnicodeAttribute(null=True)
    trial_end = UnicodeAttribute(null=True)
    grace_until = UnicodeAttribute(null=True)
    pause_behavior = UnicodeAttribute(null=True)
    pause_resumes_at = UnicodeAttribute(null=True)
    stripe_subscription_id = UnicodeAttribute(null=True)
    stripe_customer_id = UnicodeAttribute(null=True)
    stripe_created = UnicodeAttribute(null=True)
    price_id = UnicodeAttribute(null=True)
    paid = UnicodeAttribute(null=True)
    """JSON: prices and products that are paid for, those that are unnamed, and since when."""
    others = UnicodeAttribute(null=True)
    """JSON: a list of objects with the attributes above, from `plan` on."""


class CustomerItem(BillingItem, discriminator="customer_link"):
    """Whose Stripe customer it is; nobody's any more when the account is deleted."""

    user_id = UnicodeAttribute(null=True)
    livemode = BooleanAttribute(null=True)
    names = UnicodeAttribute(null=True)
    """JSON: what each price that the customer pays or paid for was last decided to sell, the latest learned last."""
    ending_of = UnicodeAttribute(null=True)
    """The account that is being deleted, until Stripe has stopped charging for it."""


class NamingItem(BillingItem, discriminator="price_naming"):
    """A price or product that an operator named, after which nobody may save what Stripe said of it before."""

    named_at = UnicodeAttribute()


class PayerItem(BillingItem, discriminator="unlinked_payer"):
    """In a price's or product's partition: a customer that is linked to nobody pays for it, and was ignored."""

    event_id = UnicodeAttribute()
    """The latest event that was ignored: it is opened again when the price is named."""


class OwnCustomerItem(BillingItem, discriminator="own_customer"):
    """In a user's partition: a customer that is linked to the user, so that it can be listed consistently."""


class OwnEventItem(BillingItem, discriminator="own_event"):
    """In a user's partition: an event about the user, so that it goes with the account."""

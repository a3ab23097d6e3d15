"""Items of billing; their keys are in keys.py."""

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
    """Body compressed by zlib, in place of `body` when that is large."""
    handled_at = UnicodeAttribute(null=True)
    """Moment at which its effect was stored; null: it waits."""
    note = UnicodeAttribute(null=True)
    attempts = NumberAttribute(default=0)
    last_error = UnicodeAttribute(null=True)
    state = UnicodeAttribute(default="unhandled")


class SubscriptionItem(BillingItem, discriminator="billing_subscription"):
    """A user's row; without a plan when nothing was bought, as it is after a customer was linked."""

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
    told_renewing = NumberAttribute(null=True)
    """Number of subscriptions that renew, as the user was told last."""
    told_plan = UnicodeAttribute(null=True)
    told_status = UnicodeAttribute(null=True)
    """Plan and status that the user was told last; null: nothing yet, or an earlier release wrote the row."""
    paid = UnicodeAttribute(null=True)
    """JSON: ids of prices and products that are paid for, the unnamed ones, and since when."""
    others = UnicodeAttribute(null=True)
    """JSON: a list of objects with the attributes above, from `plan` on."""


class DailyBudgetItem(BillingItem, discriminator="daily_budget"):
    """Limit of a day that a user has set; it stays, without an amount, when the limit is taken off."""

    max_cost_micros = NumberAttribute(null=True)


class CustomerItem(BillingItem, discriminator="customer_link"):
    """Link of a customer of Stripe; without a user once the account is deleted."""

    user_id = UnicodeAttribute(null=True)
    livemode = BooleanAttribute(null=True)
    names = UnicodeAttribute(null=True)
    """JSON: last decision of each price that the customer pays or paid for, the latest decided last."""
    deleted_at = UnicodeAttribute(null=True)
    """Moment at which the account was deleted; null: it was not, or an earlier release took the customer from it."""
    ending_of = UnicodeAttribute(null=True)
    """Account that is being deleted, until Stripe has stopped charging for it; null: none."""


class NamingItem(BillingItem, discriminator="price_naming"):
    """Moment at which a price or product was named; what Stripe said of it before must not be saved any more."""

    named_at = UnicodeAttribute()


class PayerItem(BillingItem, discriminator="unlinked_payer"):
    """Customer without a link whose event was ignored; in the partition of a price or product that it pays for.

    Another one, of the same latest event, is in the customer's own partition.
    """

    event_id = UnicodeAttribute()
    """Latest ignored event, which is opened again when the price is named."""


class OwnCustomerItem(BillingItem, discriminator="own_customer"):
    """Customer that is linked to a user; in the user's partition, so that it can be listed consistently."""


class OwnEventItem(BillingItem, discriminator="own_event"):
    """Event about a user; in the user's partition, so that it is deleted with the account."""

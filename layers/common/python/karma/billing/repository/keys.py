"""Keys of the billing table (docs/adr/0007-billing-inbox.md has the access patterns).

STRIPE_EVT#<event id>                  META                an event, in gsi1 by its state
USER#<user id>                         SUBSCRIPTION        the user's subscriptions
USER#<user id>                         SUBSCRIPTION#BUDGET the limit of a day that the user has set; read with the above
USER#<user id>                         CUSTOMER#<id>       a customer of Stripe that is linked to the user
USER#<user id>                         EVENT#<event id>    an event that was about the user
USER#<user id>                         SEAT#<person>       a person's seat in the user's plan
USER#<user id>                         USAGE#<metric>      amount taken of a limit, with #<month> by month; a month's
                                                           runs stand beside its model spend
USER#<user id>                         USAGE#day#<day>#<agent>  model spend of a day with an agent, "" with none
USER#<user id>                         USAGE#account_day#<day>  all model spend of a day, while the user limits it
CUSTOMER#<Stripe customer id>          USER                the link to an account; without one after a deletion
CUSTOMER#<Stripe customer id>          IGNORED             latest ignored event of a customer without a link that pays
SOLD#<price or product id>             NAMED               moment at which it was last named
SOLD#<price or product id>             CUSTOMER#<id>       a customer without a link that pays for it: its ignored event

gsi1  INBOX#UNHANDLED                  <due, ISO>#<event id>            events that the sweep enqueues again when due
gsi1  INBOX#UNLINKED, #UNNAMED         <customer id>#<closed, ISO>#<event id>
gsi1  INBOX#HANDLED, #IGNORED, #DISMISSED   <closed, ISO>#<event id>
gsi1  SUBSCRIPTIONS                    <due, ISO>#<user id>             moment to ask Stripe though no event came
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from karma.core.clock import iso

UNHANDLED = "INBOX#UNHANDLED"
LOOKS = "SUBSCRIPTIONS"
EVENT_DISCRIMINATOR = "stripe_event"
CUSTOMER_PREFIX = "CUSTOMER#"
EVENT_PREFIX = "EVENT#"
SEAT_PREFIX = "SEAT#"
USAGE_PREFIX = "USAGE#"


class BillingKey(NamedTuple):
    """Primary key; equal in shape to `core.dynamo.items.Key`, which needs PynamoDB."""

    pk: str
    sk: str


def event_key(event_id: str) -> BillingKey:
    """Return the key of an event."""
    return BillingKey(f"STRIPE_EVT#{event_id}", "META")


def event_id_of(pk: str) -> str:
    """Return the id of the event with this partition key."""
    return pk.removeprefix("STRIPE_EVT#")


def subscription_key(user_id: str) -> BillingKey:
    """Return the key of a user's subscription."""
    return BillingKey(f"USER#{user_id}", "SUBSCRIPTION")


def budget_key(user_id: str) -> BillingKey:
    """Return the key of the limit of a day that a user has set."""
    return BillingKey(user_pk(user_id), f"{subscription_key(user_id).sk}#BUDGET")


def user_pk(user_id: str) -> str:
    """Return the partition of a user, in the table and in gsi1."""
    return f"USER#{user_id}"


def inbox_partition(state: str) -> str:
    """Return the partition of the events of a state in gsi1."""
    return f"INBOX#{state.upper()}"


def own_customer_key(user_id: str, stripe_customer_id: str) -> BillingKey:
    """Return the key of a linked customer in its user's partition."""
    return BillingKey(user_pk(user_id), f"{CUSTOMER_PREFIX}{stripe_customer_id}")


def own_event_key(user_id: str, event_id: str) -> BillingKey:
    """Return the key of an event in the partition of the user whom it is about."""
    return BillingKey(user_pk(user_id), f"{EVENT_PREFIX}{event_id}")


def seat_key(user_id: str, member_id: str) -> BillingKey:
    """Return the key of a person's seat in the plan of a user."""
    return BillingKey(user_pk(user_id), f"{SEAT_PREFIX}{member_id}")


def usage_key(user_id: str, metric: str, period: str) -> BillingKey:
    """Return the key of an account's usage of a metric, in a month (`2026-11`) or at one time ("")."""
    return BillingKey(user_pk(user_id), f"{USAGE_PREFIX}{metric}#{period}" if period else f"{USAGE_PREFIX}{metric}")


def day_prefix(day: str) -> str:
    """Return the beginning of the sort keys of a day's model spend; an earlier release kept its total without `#`."""
    return f"{USAGE_PREFIX}day#{day}#"


def day_key(user_id: str, day: str, agent_id: str) -> BillingKey:
    """Return the key of an account's model spend of a day, of an agent or of calls that no agent makes ("")."""
    return BillingKey(user_pk(user_id), f"{day_prefix(day)}{agent_id}")


def account_day_key(user_id: str, day: str) -> BillingKey:
    """Return the key of all of an account's model spend of a day, which is counted while the account limits it."""
    return BillingKey(user_pk(user_id), f"{USAGE_PREFIX}account_day#{day}")


def customer_key(stripe_customer_id: str) -> BillingKey:
    """Return the key of the link of a customer of Stripe."""
    return BillingKey(f"{CUSTOMER_PREFIX}{stripe_customer_id}", "USER")


def naming_key(object_id: str) -> BillingKey:
    """Return the key of the moment at which a price or product was last named."""
    return BillingKey(sold_pk(object_id), "NAMED")


def payer_key(object_id: str, stripe_customer_id: str) -> BillingKey:
    """Return the key of a customer without a link that pays for a price or product."""
    return BillingKey(sold_pk(object_id), f"{CUSTOMER_PREFIX}{stripe_customer_id}")


def sold_pk(object_id: str) -> str:
    """Return the partition of a price or product."""
    return f"SOLD#{object_id}"


def ignored_key(stripe_customer_id: str) -> BillingKey:
    """Return the key of what is noted of the latest ignored event of a customer without a link that pays."""
    return BillingKey(f"{CUSTOMER_PREFIX}{stripe_customer_id}", "IGNORED")


def customer_id_of(text: str) -> str:
    """Return the customer in the partition key of its link, or in the sort key of its item in the user's partition."""
    return text.removeprefix(CUSTOMER_PREFIX)


def inbox_sort_key(moment: datetime, event_id: str) -> str:
    """Return the sort key of an event in gsi1: by time."""
    return f"{iso(moment)}#{event_id}"


def unlinked_sort_key(customer_id: str, moment: datetime, event_id: str) -> str:
    """Return the sort key in gsi1 of an event that waits for a customer's link, or for the name of a price."""
    return f"{customer_id}#{inbox_sort_key(moment, event_id)}"


def look_sort_key(moment: datetime, user_id: str) -> str:
    """Return the sort key in gsi1 of a row about which Stripe is to be asked."""
    return f"{iso(moment)}#{user_id}"

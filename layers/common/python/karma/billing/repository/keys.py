"""Keys of the billing table (docs/adr/0007-billing-inbox.md has the access patterns).

STRIPE_EVT#<event id>                  META           an event; in gsi1 while it waits or needs a person
USER#<user id>                         SUBSCRIPTION   the user's one subscription
UNIQUE#STRIPE_SUBSCRIPTION#<id>        GUARD          who owns a Stripe subscription
CUSTOMER#<Stripe customer id>          USER           whose customer it is; without a user when that account is deleted

gsi1  INBOX#UNHANDLED                  <due, ISO>#<event id>       what the sweep sends again when due
gsi1  INBOX#UNLINKED                   <handled, ISO>#<event id>   handled, but no user was found
gsi1  USER#<user id>                   EVENT#<event id>            handled, and whom it was about
gsi1  USER#<user id>                   CUSTOMER#<id>, GUARD#<id>   the user's items of other partitions
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from karma.core.clock import iso

UNHANDLED = "INBOX#UNHANDLED"
UNLINKED = "INBOX#UNLINKED"
EVENT_DISCRIMINATOR = "stripe_event"
CUSTOMER_PREFIX = "CUSTOMER#"


class BillingKey(NamedTuple):
    """Primary key; equal in shape to `core.dynamo.items.Key`, which needs PynamoDB."""

    pk: str
    sk: str


def event_key(event_id: str) -> BillingKey:
    """Key of an event."""
    return BillingKey(f"STRIPE_EVT#{event_id}", "META")


def event_id_of(pk: str) -> str:
    """Inverse of `event_key`."""
    return pk.removeprefix("STRIPE_EVT#")


def subscription_key(user_id: str) -> BillingKey:
    """Key of a user's subscription."""
    return BillingKey(f"USER#{user_id}", "SUBSCRIPTION")


def user_pk(user_id: str) -> str:
    """Partition of a user, in the table and in gsi1."""
    return f"USER#{user_id}"


def guard_key(stripe_subscription_id: str) -> BillingKey:
    """Key of the guard that keeps a Stripe subscription with one user."""
    return BillingKey(f"UNIQUE#STRIPE_SUBSCRIPTION#{stripe_subscription_id}", "GUARD")


def customer_key(stripe_customer_id: str) -> BillingKey:
    """Key of the link from a Stripe customer to our user."""
    return BillingKey(f"{CUSTOMER_PREFIX}{stripe_customer_id}", "USER")


def customer_id_of(pk: str) -> str:
    """Inverse of `customer_key`."""
    return pk.removeprefix(CUSTOMER_PREFIX)


def inbox_sort_key(moment: datetime, event_id: str) -> str:
    """Sort key in gsi1; in time order."""
    return f"{iso(moment)}#{event_id}"

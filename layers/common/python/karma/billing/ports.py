"""What the services of billing are given; each has an in-memory twin in tests/fakes/billing.py."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, Protocol

from karma.billing.arrival import Arrival, Stored
from karma.billing.domain import InboxEvent, StripeCustomer, StripeSubscription, Subscription
from karma.core.ids import UserId
from karma.notices.domain import Notice


class Arrivals(Protocol):
    """Where the webhook puts events."""

    def store(self, arrival: Arrival, *, received_at: datetime, due_at: datetime) -> Stored:
        """Put the event unless it is there."""
        ...


class Queue(Protocol):
    """The queue of event ids."""

    def send(self, body: str) -> None:
        """Enqueue one body."""
        ...

    def send_many(self, bodies: list[str]) -> None:
        """Enqueue any number of bodies."""
        ...


class Due(NamedTuple):
    """An unhandled event whose time has come."""

    event_id: str
    attempts: int


class InboxPage(NamedTuple):
    """A page of the inbox; `last` is where the next one starts."""

    events: list[InboxEvent]
    last: dict[str, str] | None


class Row(NamedTuple):
    """A subscription row as it was read; all empty when there is none."""

    subscription: Subscription | None = None
    version: int = 0
    created_at: str = ""


class Inbox(Protocol):
    """Stored events."""

    def get(self, event_id: str) -> InboxEvent | None:
        """Read an event, strongly consistent."""
        ...

    def mark_handled(
        self, event_id: str, *, at: datetime, note: str, unlinked: bool, user_id: UserId | None = None
    ) -> bool:
        """Close an event that changes nothing else; False when it was closed already.

        Raises:
            AccountGone: the user whom it is about.
        """
        ...

    def forget(self, event_id: str) -> None:
        """Delete an event: it is about an account that is deleted."""
        ...

    def record_failure(self, event_id: str, *, error: str, at: datetime) -> None:
        """Count a failed attempt of an event that is still open."""
        ...

    def due(self, now: datetime, *, limit: int) -> list[Due]:
        """List open events whose due time has passed, oldest first."""
        ...

    def postpone(self, event_id: str, *, until: datetime) -> bool:
        """Move the due time of an open event and count the attempt; False when it is closed."""
        ...

    def reopen(self, event_id: str, *, at: datetime, due_at: datetime) -> bool:
        """Make an event open again; False when there is none."""
        ...

    def page(self, *, unlinked: bool, limit: int, start: dict[str, str] | None) -> InboxPage:
        """List open events, or closed ones without a user."""
        ...


class Subscriptions(Protocol):
    """Subscription rows and what keeps them unique."""

    def row(self, user_id: UserId) -> Row:
        """Read a user's row, strongly consistent."""
        ...

    def user_of_customer(self, customer_id: str) -> UserId | None:
        """Return whose customer it is.

        Raises:
            AccountGone: that account is deleted.
        """
        ...

    def owner_of(self, stripe_subscription_id: str) -> UserId | None:
        """Return who holds the guard of a Stripe subscription."""
        ...

    def link_customer(self, customer_id: str, user_id: UserId, *, at: datetime) -> bool:
        """Remember whose customer it is; False when another user's.

        Raises:
            AccountGone: the user, or the account whose customer it was.
        """
        ...

    def bury_customer(self, customer_id: str, user_id: UserId, *, at: datetime) -> None:
        """Remember that the account was deleted whose customer it is, or would be; another's stays as it is."""
        ...

    def save_and_close(
        self,
        subscription: Subscription,
        *,
        seen: Row,
        claim: bool,
        event_id: str,
        at: datetime,
        note: str,
        notice: Notice | None = None,
    ) -> bool:
        """Write the row on the version seen, its guard when `claim`, the event's end and a notice, all or nothing.

        False: the row, the guard or the event changed since; nothing was written.

        Raises:
            AccountGone: the user.
        """
        ...


class Payments(Protocol):
    """Stripe's side. Every method raises `PaymentsUnavailable` when there is no answer."""

    def subscription(self, subscription_id: str) -> StripeSubscription | None:
        """Fetch a subscription; None when Stripe has none."""
        ...

    def subscriptions_of(self, customer_id: str) -> list[StripeSubscription]:
        """Fetch a customer's subscriptions of every status."""
        ...

    def customer(self, customer_id: str) -> StripeCustomer | None:
        """Fetch a customer; None when deleted or unknown."""
        ...

    def delete_customer(self, customer_id: str) -> None:
        """Delete a customer, and thereby end its subscriptions; an unknown one is deleted already."""
        ...

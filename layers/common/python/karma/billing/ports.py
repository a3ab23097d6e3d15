"""Ports of billing; each has an in-memory implementation in tests/fakes/billing.py or payments.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from karma.billing.domain import EventState, InboxEvent, StripeSubscription, Subscription, Told
from karma.billing.naming import NOTHING, Paid
from karma.core.ids import UserId

if TYPE_CHECKING:
    from karma.audit.domain import AuditEntry
    from karma.billing.arrival import Arrival, Stored
    from karma.notices.domain import Notice


class Arrivals(Protocol):
    """Store of events for the webhook."""

    def store(self, arrival: Arrival, *, received_at: datetime, due_at: datetime) -> Stored:
        """Store an event unless it is stored already; return which."""
        ...


class Queue(Protocol):
    """The queue of the worker: ids of events, and `refresh_message`s."""

    def send(self, body: str) -> None:
        """Enqueue one body."""
        ...

    def send_many(self, bodies: list[str]) -> None:
        """Enqueue any number of bodies."""
        ...


class DueEvent(NamedTuple):
    """An open event that is due."""

    event_id: str
    attempts: int


class InboxPage(NamedTuple):
    """A page of the inbox; `last` is the position at which the next one starts, None at the end."""

    events: list[InboxEvent]
    last: dict[str, str] | None


class Row(NamedTuple):
    """A subscription row as it was read; version 0: there is no row. Subscription None: nothing was bought."""

    subscription: Subscription | None = None
    version: int = 0
    created_at: str = ""
    paid: Paid = NOTHING
    told: Told | None = None
    """State that the user was told last; None: the user never had a row."""


class OwnLimits(NamedTuple):
    """Subscription of an account, and the limit of a day that it has set itself."""

    subscription: Subscription | None = None
    day_cost_micros: int | None = None


class DailyBudget(NamedTuple):
    """Limit of a day that an account has set itself; version 0: it never has."""

    max_cost_micros: int | None = None
    """Micro-dollars; None: it limits nothing."""
    version: int = 0
    created_at: str = ""


class CustomerLink(NamedTuple):
    """Link of a customer of Stripe to the account that it pays for. Made by us alone, never by an event or metadata."""

    customer_id: str
    user_id: UserId | None
    """Account that the customer pays for; None: it was deleted, or is being deleted."""
    livemode: bool | None
    """Mode in which the customer exists; None: Stripe has not shown it yet."""
    version: int
    deleted_at: datetime | None = None
    """Moment at which the account was deleted; None: it was not."""
    ending: bool = False
    """True: Stripe has not been told yet to end what the deleted account bought."""
    decisions: Mapping[str, str] = MappingProxyType({})
    """Last decision of each price that the customer pays or paid for; naming.py."""


class Payers(NamedTuple):
    """A page of users who pay for something; `last` is the position at which the next one starts, None at the end."""

    user_ids: list[UserId]
    last: dict[str, str] | None


class Look(NamedTuple):
    """A user about whom Stripe is to be asked, though no event came; `due` as it is stored."""

    user_id: UserId
    due: str


class Inbox(Protocol):
    """Stored events."""

    def get(self, event_id: str) -> InboxEvent | None:
        """Read an event, strongly consistent."""
        ...

    def close(
        self,
        event_id: str,
        *,
        at: datetime,
        note: str,
        state: EventState = EventState.HANDLED,
        user_id: UserId | None = None,
    ) -> bool:
        """Close an open event and change nothing else; return False when it was closed already.

        Raises:
            AccountGone: the account of `user_id` is deleted.
        """
        ...

    def close_unlinked(self, event_id: str, customer_id: str, *, at: datetime, note: str) -> bool:
        """Close an event until its customer is linked; return False if it was closed or the customer linked already.

        A customer whose account was deleted is linked to nobody.

        The customer's earlier events that wait for the link are closed as ignored: an event only says at which customer
        to look, so the latest says all that they did.
        """
        ...

    def ignore_payer(
        self, event_id: str, customer_id: str, object_ids: Sequence[str], *, asked_at: datetime, at: datetime, note: str
    ) -> bool:
        """Close an event of a customer without a link as ignored, until one of what the customer pays for is named.

        Args:
            event_id: the event.
            customer_id: its customer.
            object_ids: prices and products that the customer pays for, at most `naming.MAX_NOTED`.
            asked_at: a moment before Stripe was asked what they sell.
            at: now.
            note: reason for which it is ignored.

        The customer's earlier event that waited for one of the objects is kept no longer than any closed one.

        Returns:
            False: the event was closed already, the customer is linked, another event of the customer was ignored
            meanwhile, or an object was named since Stripe was asked.
        """
        ...

    def reopen_payers_of(self, object_id: str, *, at: datetime) -> int:
        """Reopen events that `ignore_payer` closed, of customers that pay for what was just named; return how many."""
        ...

    def waiting_of(self, customer_id: str, state: EventState) -> list[str]:
        """List the ids of a customer's events that wait in a state, up to 100, eventually consistent."""
        ...

    def dismiss(self, event_id: str, *, at: datetime, note: str, entry: AuditEntry | None) -> bool:
        """Close an event that is open, or waits for an operator, as dismissed; return False if it does neither."""
        ...

    def forget(self, event_id: str) -> None:
        """Delete an event about a deleted account."""
        ...

    def record_failure(self, event_id: str, *, error: str, at: datetime) -> None:
        """Count a failed attempt of an event that is still open."""
        ...

    def due(self, now: datetime, *, limit: int) -> list[DueEvent]:
        """List open events whose due time has passed, oldest first."""
        ...

    def postpone(self, event_id: str, *, until: datetime) -> bool:
        """Move the due time of an open event and count the attempt; return False when it is closed."""
        ...

    def reopen(self, event_id: str, *, at: datetime, due_at: datetime) -> bool:
        """Open an event again; return False when there is none."""
        ...

    def page(self, state: EventState, *, limit: int, start: dict[str, str] | None) -> InboxPage:
        """List events of a state: unhandled by due time, unlinked and unnamed by customer, others newest first."""
        ...


class Subscriptions(Protocol):
    """Subscription rows."""

    def row(self, user_id: UserId) -> Row:
        """Read a user's row, strongly consistent."""
        ...

    def limits(self, user_id: UserId) -> OwnLimits:
        """Read a user's subscription with the limit that the user has set, strongly consistent: one call."""
        ...

    def save(
        self,
        user_id: UserId,
        subscription: Subscription | None,
        *,
        seen: Row,
        at: datetime,
        event_id: str = "",
        note: str = "",
        notice: Notice | None = None,
        shown: Collection[str] = (),
        livemode: bool = False,
        paid: Paid = NOTHING,
        decisions: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        waits_of: str = "",
    ) -> bool:
        """Write the row on the version seen, the end of an event, and a notice, all or nothing.

        Args:
            user_id: owner of the row.
            subscription: the user's row; None: nothing was bought.
            seen: the row as it was read.
            at: now.
            event_id: the event that this handles; "": none.
            note: note with which the event is closed.
            notice: for the user; None: none.
            shown: customers whose mode was unknown until Stripe showed them in `livemode`.
            livemode: their mode.
            paid: prices that the user pays for.
            decisions: by customer, the decisions about its prices to store; customers without a change are left out.
            waits_of: the customer whose event waits as unnamed, in place of earlier ones; "": the event is handled.

        Returns:
            False: the row or the event changed since; nothing was written.

        Raises:
            AccountGone: the user's account is deleted.
        """
        ...

    def due_looks(self, now: datetime, *, limit: int) -> list[Look]:
        """List users about whom Stripe is to be asked, the longest overdue first."""
        ...

    def postpone_look(self, look: Look, *, until: datetime) -> bool:
        """Move the time of a question to Stripe; return False when another moved or answered it since it was listed."""
        ...

    def payers_of(self, object_id: str, *, but_at: datetime, start: dict[str, str] | None) -> Payers:
        """List the users who pay for a price or product, 100 rows a page, eventually consistent.

        Users whose question is due at `but_at` to the millisecond are left out: `hasten_look` has moved theirs before.
        """
        ...

    def hasten_look(self, user_id: UserId, *, at: datetime) -> bool:
        """Make the question about a user due now, even if one is under way; return False when all has ended."""
        ...


class Customers(Protocol):
    """Links between Stripe's customers and accounts."""

    def link_of(self, customer_id: str) -> CustomerLink | None:
        """Read a customer's link, strongly consistent."""
        ...

    def links_of(self, user_id: UserId) -> list[CustomerLink]:
        """Read the links of a user's customers, strongly consistent; also those that are being ended."""
        ...

    def link(
        self,
        customer_id: str,
        user_id: UserId,
        *,
        seen: CustomerLink | None,
        at: datetime,
        livemode: bool | None = None,
        entries: Sequence[AuditEntry] = (),
    ) -> bool:
        """Link a customer to a user, taking it from whoever has it, and make both users' rows due for a look.

        The customer's subscriptions leave the other's row in the same transaction. Return False when the link or a row
        changed since it was read; nothing was written.

        Raises:
            AccountGone: there is no such user.
        """
        ...

    def begin_ending(self, customer_id: str, user_id: UserId, *, at: datetime, deleted_at: datetime) -> bool:
        """Take a customer from an account that was deleted at a moment; return False when another has it.

        Until `end`, nobody is linked to it.
        """
        ...

    def end(self, customer_id: str, user_id: UserId, *, at: datetime) -> None:
        """Remove a link of a deleted account; that there was one is stored while the customer's events may come."""
        ...


class Payments(Protocol):
    """Stripe. Every method raises `PaymentsUnavailable` when it does not answer."""

    @property
    def livemode(self) -> bool:
        """Tell whether the key is of live mode."""
        ...

    def subscriptions_of(self, customer_id: str, *, livemode: bool | None) -> list[StripeSubscription] | None:
        """Fetch all subscriptions of a customer, of every status; an empty list when Stripe has no such customer.

        None: the key cannot tell, because the customer is of the other mode, or because its mode is not known and
        Stripe shows no such customer in the key's.
        """
        ...

    def cancel(self, subscription_id: str) -> None:
        """End a subscription of the key's mode at once; do nothing if it has ended or is unknown."""
        ...

    def buys_else(self, customer_id: str, subscription_ids: Collection[str]) -> bool:
        """Tell whether a customer was ever charged, or sent an invoice, for anything but these subscriptions.

        True as well when Stripe cannot tell.
        """
        ...

    def delete_customer(self, customer_id: str) -> None:
        """Delete a customer of the key's mode; do nothing if it is unknown."""
        ...

"""What the services of billing are given; each has an in-memory twin in tests/fakes/billing.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple, Protocol

from karma.audit.domain import AuditEntry
from karma.billing.arrival import Arrival, Stored
from karma.billing.domain import EventState, InboxEvent, StripeSubscription, Subscription
from karma.billing.naming import NOTHING, Paid
from karma.core.ids import UserId
from karma.notices.domain import Notice


class Arrivals(Protocol):
    """Where the webhook puts events."""

    def store(self, arrival: Arrival, *, received_at: datetime, due_at: datetime) -> Stored:
        """Put the event unless it is there."""
        ...


class Queue(Protocol):
    """The queue of the worker: ids of events, and `refresh_message`s."""

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
    """A subscription row as it was read; version 0 when there is none, no subscription when nothing was bought."""

    subscription: Subscription | None = None
    version: int = 0
    created_at: str = ""
    paid: Paid = NOTHING
    written_at: datetime | None = None


class CustomerLink(NamedTuple):
    """Which account a customer of Stripe pays for. Made by us alone: nothing in an event or in metadata makes one."""

    customer_id: str
    user_id: UserId | None
    """None: the account was deleted, or is being deleted."""
    livemode: bool | None
    """The mode in which the customer exists; None until Stripe has shown it."""
    version: int
    names: Mapping[str, str] = MappingProxyType({})
    """What each price that the customer pays or paid for was last decided to sell; naming.py."""


class Payers(NamedTuple):
    """A page of those who pay for something; `last` is where the next one starts."""

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

    def mark_handled(
        self,
        event_id: str,
        *,
        at: datetime,
        note: str,
        state: EventState = EventState.HANDLED,
        user_id: UserId | None = None,
    ) -> bool:
        """Close an event that changes nothing else; False when it was closed already.

        Raises:
            AccountGone: the user whom it is about.
        """
        ...

    def mark_unlinked(self, event_id: str, customer_id: str, *, at: datetime, note: str) -> bool:
        """Close an event until its customer is linked; False when it was closed already, or the customer is linked."""
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
            note: why it is ignored.

        Returns:
            False: it was closed already, the customer is linked, or one was named since Stripe was asked.
        """
        ...

    def open_payers_of(self, object_id: str, *, at: datetime) -> int:
        """Open what `ignore_payer` closed of customers that pay for what was just named; return how many events."""
        ...

    def waiting_of(self, customer_id: str, state: EventState) -> list[str]:
        """List a customer's unlinked or unnamed events, up to 100, eventually consistent."""
        ...

    def dismiss(self, event_id: str, *, at: datetime, note: str, entry: AuditEntry | None) -> bool:
        """Close an event that waits, for the worker or an operator, and tell the audit log; False when it does not."""
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

    def page(self, state: EventState, *, limit: int, start: dict[str, str] | None) -> InboxPage:
        """List events of a state: unhandled by due time, unlinked and unnamed by customer, others newest first."""
        ...


class Subscriptions(Protocol):
    """Subscription rows."""

    def row(self, user_id: UserId) -> Row:
        """Read a user's row, strongly consistent."""
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
        names: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        waits_of: str = "",
    ) -> bool:
        """Write the row on the version seen, the end of an event, and a notice, all or nothing.

        Args:
            user_id: whose row it is.
            subscription: what the user has; None when nothing was bought.
            seen: the row as it was read.
            at: now.
            event_id: the event that is handled thereby, "" for none.
            note: what the event was closed with.
            notice: what the user is told.
            shown: customers whose mode was not known, and that Stripe has shown in `livemode`.
            livemode: their mode.
            paid: what the user pays for.
            names: by customer, what is to be remembered of its prices; left out where nothing changed.
            waits_of: the customer whose event waits as unnamed; "": it is handled.

        Returns:
            False: the row or the event changed since; nothing was written.

        Raises:
            AccountGone: the user.
        """
        ...

    def due_looks(self, now: datetime, *, limit: int) -> list[Look]:
        """List users about whom Stripe is to be asked, the longest overdue first."""
        ...

    def postpone_look(self, look: Look, *, until: datetime) -> bool:
        """Move the time of a look; False when somebody has looked, or moved it, since it was listed."""
        ...

    def payers_of(self, object_id: str, *, but_at: datetime, start: dict[str, str] | None) -> Payers:
        """List those who pay for a price or product, 100 rows a page, eventually consistent.

        Those whose look is at `but_at` to the millisecond are left out: they were hastened before.
        """
        ...

    def hasten_look(self, user_id: UserId, *, at: datetime) -> bool:
        """Have Stripe asked about a user now, whoever is at it; False when there is nothing more to ask."""
        ...


class Customers(Protocol):
    """Links between Stripe's customers and accounts."""

    def link_of(self, customer_id: str) -> CustomerLink | None:
        """Read a customer's link, strongly consistent."""
        ...

    def links_of(self, user_id: UserId) -> list[CustomerLink]:
        """Read the links of a user's customers, strongly consistent; also those whose end has begun."""
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

        What the customer pays for leaves the other's row in the same transaction. False: the link or a row changed
        since it was read; nothing was written.

        Raises:
            AccountGone: there is no such user.
        """
        ...

    def begin_ending(self, customer_id: str, user_id: UserId, *, at: datetime) -> bool:
        """Take a customer from an account that is deleted, so that nobody can be linked to it; False: another's."""
        ...

    def end(self, customer_id: str, user_id: UserId, *, at: datetime) -> None:
        """Forget whose customer it was; that it was somebody's is remembered while its events may come."""
        ...


class Payments(Protocol):
    """Stripe's side. Every method raises `PaymentsUnavailable` when there is no answer."""

    @property
    def livemode(self) -> bool:
        """Tell whether the key is for real money."""
        ...

    def subscriptions_of(self, customer_id: str, *, livemode: bool | None) -> list[StripeSubscription] | None:
        """Fetch all subscriptions of a customer, of every status; none when Stripe has no such customer.

        None: the key cannot tell, because the customer is of the other mode, or because its mode is not known and
        Stripe shows no such customer in the key's.
        """
        ...

    def cancel(self, subscription_id: str) -> None:
        """End a subscription of the key's mode at once; one that is over or unknown is ended already."""
        ...

    def delete_customer(self, customer_id: str) -> None:
        """Delete a customer of the key's mode; an unknown one is deleted already."""
        ...

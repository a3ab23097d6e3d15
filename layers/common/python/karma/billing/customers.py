"""Links of Stripe's customers to the accounts that they pay for; made only by our checkout and by administrators.

A link is one item with a version; the subscription rows of both accounts change in its transaction. So two accounts
never have what one customer pays for, and after each change Stripe is asked, because of a message or by the sweep.
"""

from __future__ import annotations

from datetime import timedelta

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent, Source
from karma.billing.domain import is_object_id
from karma.billing.ports import CustomerLink, Customers, Look, Queue, Subscriptions
from karma.core.clock import Clock
from karma.core.errors import Conflict, NotFound, Upstream, ValidationFailed
from karma.core.ids import UserId, is_id
from karma.core.observability import count, logger

_REFRESH = "refresh:"
_ROUNDS = 3
LOOKS_A_RUN = 100
"""Largest number of users about whom one run of the sweep has Stripe asked; each costs the worker one to three calls.
"""
_LOOK_AGAIN = timedelta(hours=1)
"""Time after which a message that asks Stripe about a user, and may be lost, is sent again."""


class CustomerLinked(Conflict):
    """The customer is linked to another account than the request expects."""

    code = "CUSTOMER_LINKED"


def refresh_message(user_id: UserId) -> str:
    """Return the message that makes the worker ask Stripe about a user; no event has such an id."""
    return _REFRESH + user_id


def user_of_message(body: str) -> UserId | None:
    """Return the user of a `refresh_message`; None: the text is something else."""
    user_id = body.removeprefix(_REFRESH)
    return UserId(user_id) if user_id != body and is_id(user_id) else None


class CustomerLinking:
    """Use cases of links between customers and accounts."""

    def __init__(self, *, customers: Customers, queue: Queue, clock: Clock) -> None:
        self._customers = customers
        self._queue = queue
        self._clock = clock

    def link_of(self, customer_id: str) -> CustomerLink:
        """Return a customer's link.

        Raises:
            NotFound: the customer has no link.
        """
        found = self._customers.link_of(customer_id) if is_object_id(customer_id) else None
        if found is None or found.user_id is None:
            raise NotFound("No account is linked to the customer")
        return found

    def opened(self, customer_id: str, user_id: UserId, *, livemode: bool) -> bool:
        """Link a customer that was just made for an account, as a checkout does before it shows a page.

        Return False when it is linked to another account, and leave that. May be repeated.

        Raises:
            AccountGone: there is no such user.
        """
        seen = self._customers.link_of(customer_id)
        if seen is None:
            now = self._clock.now()
            if self._customers.link(customer_id, user_id, seen=None, at=now, livemode=livemode):
                return True
            seen = self._customers.link_of(customer_id)
        return seen is not None and seen.user_id == user_id

    def relink(
        self,
        customer_id: str,
        user_id: UserId,
        *,
        from_user_id: str | None,
        actor_id: UserId | None,
        source: Source = NOWHERE,
    ) -> CustomerLink:
        """Link a customer to an account for an administrator, and enqueue that Stripe is asked.

        Args:
            customer_id: Stripe's id of the customer; the worker finds out whether it exists.
            user_id: account that gets what the customer pays for.
            from_user_id: account that the customer is linked to now; None: none.
            actor_id: the administrator; None: an operator at the command line.
            source: source of the request.

        Raises:
            ValidationFailed: `customer_id` or `user_id` is no id.
            CustomerLinked: the customer is linked to another account than `from_user_id`, or to one whose deletion has
                not ended yet what it pays for.
            AccountGone: there is no such user.
        """
        ValidationFailed.together(lambda: _require_customer_id(customer_id), lambda: _require_user_id(user_id))
        for _ in range(_ROUNDS):
            seen = self._customers.link_of(customer_id)
            if seen is not None and seen.user_id == user_id:
                self._look([user_id])
                return seen
            _require(seen, from_user_id)
            now = self._clock.now()
            entries = _entries(customer_id, seen, user_id, actor_id=actor_id, source=source, clock=self._clock)
            mode = seen.livemode if seen else None
            if self._customers.link(customer_id, user_id, seen=seen, at=now, livemode=mode, entries=entries):
                self._look([each for each in (user_id, seen.user_id if seen else None) if each is not None])
                return self.link_of(customer_id)
        raise CustomerLinked("The customer's link keeps changing; try again")

    def _look(self, user_ids: list[UserId]) -> None:
        try:
            self._queue.send_many([refresh_message(user_id) for user_id in user_ids])
        except Upstream:
            # The rows are due: the sweep sends the messages within a minute.
            logger.warning("billing.look_not_sent")


class RenewalCheck:
    """Has Stripe asked about subscriptions of whose renewal, payment or end no event came in time."""

    def __init__(self, *, subscriptions: Subscriptions, queue: Queue, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._queue = queue
        self._clock = clock

    def send_due(self) -> int:
        """Enqueue up to `LOOKS_A_RUN` due questions; their due time moves first, so a crash costs an hour."""
        from karma.core.sweeping import sweep_each  # local: those who do no sweep do without

        now = self._clock.now()
        due = self._subscriptions.due_looks(now, limit=LOOKS_A_RUN)
        moved: list[Look] = []

        def move(look: Look) -> int:
            if self._subscriptions.postpone_look(look, until=now + _LOOK_AGAIN):
                moved.append(look)
            return 0

        sweep_each("subscriptions", due, move, name=lambda look: look.user_id, clock=self._clock)
        self._queue.send_many([refresh_message(look.user_id) for look in moved])
        if moved:
            count("BillingLooks", len(moved))
        return len(moved)


def _require(seen: CustomerLink | None, from_user_id: str | None) -> None:
    if seen is not None and seen.ending:
        raise CustomerLinked(
            "The account that had the customer is being deleted, and its subscriptions are ended first"
        )
    has = seen.user_id if seen else None
    if has != from_user_id:
        raise CustomerLinked(
            "The customer is linked to another account: name it in from_user_id"
            if has is not None
            else "Nobody has the customer: leave out from_user_id"
        )


def _entries(
    customer_id: str,
    seen: CustomerLink | None,
    user_id: UserId,
    *,
    actor_id: UserId | None,
    source: Source,
    clock: Clock,
) -> list[AuditEntry]:
    told = [(AuditEvent.BILLING_CUSTOMER_LINKED, user_id)]
    if seen is not None and seen.user_id is not None:
        told.append((AuditEvent.BILLING_CUSTOMER_UNLINKED, seen.user_id))
    return [
        AuditEntry(
            user_id=whose,
            event=event,
            at=clock.now(),
            actor_id=actor_id,
            source=source,
            details={"customer_id": customer_id},
        )
        for event, whose in told
    ]


def _require_customer_id(text: str) -> None:
    if not is_object_id(text):
        raise ValidationFailed.of("customer_id", "is not the id of a customer")


def _require_user_id(text: str) -> None:
    if not is_id(text):
        raise ValidationFailed.of("user_id", "is not an id")

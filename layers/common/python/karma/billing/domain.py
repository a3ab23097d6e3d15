"""Subscriptions and the inbox of Stripe's events: pure rules.

Terms: a *customer* is Stripe's; a *link* (ports.py) says which account it pays for, and is made only by us. A *row* is
the subscription of an account: a function of all subscriptions, at Stripe, of all its customers. Subscriptions whose
prices name no plan of ours give nothing.

An event is *open* (`unhandled`) until the worker or an administrator has closed it; a *closed* one has the moment,
`handled_at`, and a state. One that is closed as `unlinked` or `unnamed` *waits*: it is reopened once an operator has
linked its customer or named the price.

Stripe's eight statuses become our four (R-K-19); the row keeps Stripe's word too, since access depends on it:

    Stripe              ours       access
    trialing            trialing   until the period's end, and LATE_NEWS more
    active              active     until the period's end, and LATE_NEWS more
    past_due            past_due   until the retries of the oldest unpaid invoice are over
    unpaid              past_due   none: Stripe has given up collecting
    incomplete          past_due   none: the first payment has not arrived
    paused              past_due   none: paused on request, or the trial ended without a payment method
    incomplete_expired  canceled   none
    canceled            canceled   none
    (a ninth one)       past_due   none

Access never lasts beyond a cancellation that is coming. A collection that is paused with `void` gives no access while
the pause lasts: by Stripe's documentation the service cannot be given then. Its other two behaviours, `keep_as_draft`
and `mark_uncollectible`, give the service for nothing, and change no access.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

import orjson

from karma.billing.plans import METADATA_KEY, PlanName, PriceHints, decision_of, plan_named_by, rank
from karma.core.ids import UserId
from karma.core.records import Record

RETRIES = timedelta(days=14)
"""Time for which Stripe retries a failed payment, unless `PAYMENT_RETRY_DAYS` says otherwise; Stripe's own default."""
LATE_NEWS = timedelta(days=3)
"""Time for which access goes on when Stripe's news is late: of the next period, or of the end of the retries."""
_LOOK_AFTER = timedelta(hours=1)
"""Time after a period's end at which Stripe is asked: it renews at once, and tells within seconds."""
_LOOK_BEFORE = timedelta(days=1)
"""Time before the end of the retries at which Stripe is asked, so that an unheard payment is found before access ends.
"""
_SHORTEST_PAUSE, _LONGEST_PAUSE = timedelta(hours=6), timedelta(days=7)


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
_UNKNOWN_RANK = 2
VOID = "void"
_CHARGED = frozenset({"active", "trialing", "past_due"})


def status_of(stripe_status: str) -> SubscriptionStatus:
    """Return our status for Stripe's; one that Stripe invents later gives no access."""
    return _STATUS.get(stripe_status, SubscriptionStatus.PAST_DUE)


class Pause(Record, kw_only=True):
    """Pause of a subscription's collection of payments; the status does not change."""

    behavior: str
    """Stripe's word for the treatment of the invoices: keep_as_draft, mark_uncollectible or void."""
    resumes_at: datetime | None

    def withholds(self, at: datetime) -> bool:
        """Tell whether the pause ends access at a moment."""
        return self.behavior == VOID and (self.resumes_at is None or at < self.resumes_at)


class StripeSubscription(Record, kw_only=True):
    """A subscription as Stripe's API shows it now."""

    id: str
    customer_id: str
    status: str
    created: datetime
    current_period_start: datetime
    current_period_end: datetime
    """End of the item that ends first; of the subscription itself on Stripe's older interface."""
    cancel_at_period_end: bool
    cancel_at: datetime | None
    canceled_at: datetime | None
    trial_end: datetime | None
    prices: tuple[PriceHints, ...]
    """Prices of every item that is bought at least once, in Stripe's order."""
    pause: Pause | None = None
    unpaid_since: datetime | None = None
    """Moment at which the oldest open invoice failed; read only while `past_due`. None: not read, or none is open."""


class Subscription(Record, kw_only=True):
    """A user's row: the subscription that is shown, and the user's other ones that may give access."""

    user_id: UserId
    plan: PlanName
    status: SubscriptionStatus
    stripe_status: str
    current_period_start: datetime
    current_period_end: datetime
    cancel_at_period_end: bool = False
    cancel_at: datetime | None = None
    """Moment at which Stripe ends it, however the cancellation was asked for; None: it renews."""
    canceled_at: datetime | None = None
    trial_end: datetime | None = None
    grace_until: datetime | None = None
    """While `past_due`: moment at which access ends; None: not `past_due`."""
    pause: Pause | None = None
    stripe_subscription_id: str | None = None
    stripe_customer_id: str | None = None
    stripe_created: datetime | None = None
    price_id: str = ""
    others: tuple[Subscription, ...] = ()
    """Other subscriptions, best first, themselves without others."""

    @property
    def all(self) -> tuple[Subscription, ...]:
        """Return this subscription and the others."""
        return (replace(self, others=()), *self.others)

    @property
    def over(self) -> bool:
        """Tell whether it has ended for good, so that Stripe changes it no more."""
        return self.status is SubscriptionStatus.CANCELED

    @property
    def renews(self) -> bool:
        """Tell whether Stripe goes on charging for it: no end of it is coming, and its collection is not paused."""
        return self.stripe_status in _CHARGED and self.cancel_at is None and self.pause is None

    def gives_access(self, at: datetime) -> bool:
        """Tell whether this subscription, apart from the others, gives its plan at a moment."""
        if self.pause is not None and self.pause.withholds(at):
            return False
        if self.cancel_at is not None and at >= self.cancel_at:
            return False
        if self.stripe_status in {"active", "trialing"}:
            return at < self.current_period_end + LATE_NEWS
        return self.stripe_status == "past_due" and self.grace_until is not None and at < self.grace_until

    def entitled_plan(self, at: datetime) -> PlanName:
        """Return the plan whose limits hold now: the largest that gives access, else free."""
        given = [each.plan for each in self.all if each.gives_access(at)]
        return max(given, key=rank, default=PlanName.FREE)

    def look_at(self, now: datetime) -> datetime | None:
        """Return the moment to ask Stripe though no event came: before access ends, then ever more rarely.

        None: all subscriptions have ended.
        """
        return min((each.own_look_at(now) for each in self.all if not each.over), default=None)

    def own_look_at(self, now: datetime) -> datetime:
        """Return the same moment for this subscription, apart from the others."""
        wanted = (self.cancel_at or self.current_period_end) + _LOOK_AFTER
        if self.grace_until is not None:
            wanted = min(wanted, self.grace_until - _LOOK_BEFORE)
        if wanted > now:
            return wanted
        return now + min(max(now - wanted, _SHORTEST_PAUSE), _LONGEST_PAUSE)


class Told(NamedTuple):
    """Subscriptions as an account was told of them last: by a notice, or by its first row."""

    plan: PlanName
    """The plan that holds."""
    status: SubscriptionStatus
    renewing: int = 0
    """Number of subscriptions for which Stripe goes on charging."""


def told_of(subscription: Subscription | None, at: datetime) -> Told:
    """Return what an account is to know of its subscriptions at a moment; the free plan is active."""
    if subscription is None:
        return Told(PlanName.FREE, SubscriptionStatus.ACTIVE)
    renewing = sum(each.renews for each in subscription.all)
    return Told(subscription.entitled_plan(at), subscription.status, renewing)


def plan_of(source: StripeSubscription) -> PlanName | None:
    """Return the largest plan that an item of a subscription sells; None: it sells nothing of ours."""
    named = [plan for plan in map(plan_named_by, source.prices) if plan is not None]
    return max(named, key=rank, default=None)


def project(source: StripeSubscription, *, user_id: UserId, retries: timedelta = RETRIES) -> Subscription:
    """Compute the row of one subscription, which sells a plan of ours, from Stripe's object alone."""
    failed = source.unpaid_since or source.current_period_start
    ends = source.cancel_at or (source.current_period_end if source.cancel_at_period_end else None)
    status = status_of(source.status)
    over = status is SubscriptionStatus.CANCELED
    return Subscription(
        user_id=user_id,
        plan=plan_of(source) or PlanName.FREE,
        status=status,
        stripe_status=source.status,
        current_period_start=source.current_period_start,
        current_period_end=source.current_period_end,
        cancel_at_period_end=not over and ends is not None and ends == source.current_period_end,
        cancel_at=None if over else ends,
        canceled_at=source.canceled_at,
        trial_end=source.trial_end,
        grace_until=failed + retries + LATE_NEWS if source.status == "past_due" else None,
        pause=source.pause,
        stripe_subscription_id=source.id,
        stripe_customer_id=source.customer_id,
        stripe_created=source.created,
        price_id=_price_of(source),
    )


def projection(
    sources: Iterable[StripeSubscription],
    *,
    user_id: UserId,
    retries: timedelta = RETRIES,
    kept: Iterable[Subscription] = (),
) -> Subscription | None:
    """Compute a user's row from every subscription of the user's customers, whatever their order.

    `kept` are subscriptions of the row about which Stripe cannot be asked. None: nothing of ours was ever bought.
    """
    ours = [project(each, user_id=user_id, retries=retries) for each in sources if plan_of(each) is not None]
    return together([*ours, *kept])


def together(subscriptions: Sequence[Subscription]) -> Subscription | None:
    """Combine a user's subscriptions: the best is shown; an ended one is shown only when all have ended.

    None: no subscription.
    """
    found = sorted(subscriptions, key=_preference, reverse=True)
    if not found:
        return None
    return replace(found[0], others=tuple(each for each in found[1:] if not each.over))


def free_subscription(user_id: UserId, now: datetime) -> Subscription:
    """Return the subscription of a user who never bought anything: the free plan for the calendar month."""
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


def _preference(row: Subscription) -> tuple[int, int, datetime, str]:
    """Return the sort key of a user's subscriptions: access, the largest plan, the newest; no two are equal."""
    withheld = row.pause is not None and row.pause.behavior == VOID
    status = min(_RANK.get(row.stripe_status, _UNKNOWN_RANK), 3 if withheld else 5)
    return status, rank(row.plan), row.stripe_created or row.current_period_start, row.stripe_subscription_id or ""


def _price_of(source: StripeSubscription) -> str:
    plan = plan_of(source)
    return next((price.price_id for price in source.prices if plan_named_by(price) is plan), "")


# Events

_OBJECT_ID = re.compile(r"[A-Za-z0-9_]{1,200}")


def is_object_id(text: str) -> bool:
    """Tell whether a text can be the id of one of Stripe's objects, and thereby part of a key."""
    return _OBJECT_ID.fullmatch(text) is not None


class EventState(StrEnum):
    """State of a stored event; the values are what administrators filter by."""

    UNHANDLED = "unhandled"
    """It is open: the worker has not handled it yet, or will try again."""
    UNLINKED = "unlinked"
    """Its customer buys something of ours, and no account is known for it: an administrator links it."""
    UNNAMED = "unnamed"
    """Its customer pays for a price that names no plan: it is opened again once an operator has named the price."""
    HANDLED = "handled"
    IGNORED = "ignored"
    """Irrelevant for us; the note says why."""
    DISMISSED = "dismissed"
    """An administrator closed it; the note has their reason."""


class InboxEvent(Record, kw_only=True):
    """A stored event."""

    id: str
    type: str
    body: str
    received_at: datetime
    handled_at: datetime | None
    note: str
    attempts: int
    last_error: str
    state: EventState = EventState.UNHANDLED
    expires_at: datetime | None = None
    """Moment at which it is deleted; None: it is open, and is not."""


class Hint(Record, kw_only=True):
    """Subject of an event. Only ids are taken from it: states are read from Stripe."""

    object_id: str = ""
    customer_id: str = ""
    subscription_id: str = ""
    account: str = ""
    """Connected account that it happened in; "": our own."""
    livemode: bool = False
    named: str = ""
    """Price or product that was just named; "": none."""
    concerns_us: bool = False
    """True: it may have changed what a customer has."""


_CONCERNED = ("customer.", "checkout.session.", "invoice.")
_NAMING = frozenset({"product.updated", "price.updated", "plan.updated"})
"""Types of events that may name a price; new prices are left out, since nobody has bought them yet."""


def hint_of(event_type: str, event: Mapping[str, object]) -> Hint:
    """Read the subject of an event; never fails.

    Stripe: customer.created, .updated, .deleted, customer.subscription.*, checkout.session.*, invoice.*,
    and product.updated, price.updated, plan.updated, where these say what the product or price sells.
    """
    obj = _mapping(_mapping(event.get("data")).get("object"))
    object_id, customer_id = _id(obj.get("id")), _id(obj.get("customer"))
    details = _mapping(_mapping(obj.get("parent")).get("subscription_details"))
    subscription_id = _id(details.get("subscription")) or _id(obj.get("subscription"))
    if event_type.startswith("customer.subscription."):
        subscription_id = object_id
    elif event_type in {"customer.created", "customer.updated", "customer.deleted"}:
        customer_id = object_id
    named = object_id if event_type in _NAMING and _is_named(event) else ""
    return Hint(
        object_id=object_id,
        named=named,
        customer_id=customer_id,
        subscription_id=subscription_id,
        account=_id(event.get("account")) or _id(event.get("context")),
        livemode=event.get("livemode") is True,
        concerns_us=bool(named) or (bool(customer_id) and event_type.startswith(_CONCERNED)),
    )


def _is_named(event: Mapping[str, object]) -> bool:
    """Tell whether a changed price or product says what it sells, and may not have said it before."""
    data = _mapping(event.get("data"))
    obj, before = _mapping(data.get("object")), data.get("previous_attributes")
    if isinstance(before, dict) and not before.keys() & {"metadata", "lookup_key"}:
        return False
    said, key = _mapping(obj.get("metadata")).get(METADATA_KEY), obj.get("lookup_key")
    hints = PriceHints(
        metadata_plan=said if isinstance(said, str) else "", lookup_key=key if isinstance(key, str) else ""
    )
    return bool(decision_of(hints))


def read_hint(event: InboxEvent) -> Hint:
    """Read the subject of a stored event; an empty hint when the event cannot be read."""
    try:
        body = orjson.loads(event.body)
    except orjson.JSONDecodeError:
        return Hint()
    return hint_of(event.type, _mapping(body))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _id(value: object) -> str:
    """Return an id, or the id of an expanded object; "": it is neither."""
    text = _mapping(value).get("id") if isinstance(value, dict) else value
    return text if isinstance(text, str) and is_object_id(text) else ""

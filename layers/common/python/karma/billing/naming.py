"""Decisions about prices over time: one made after the sale takes effect for buyers, a removed one takes nothing away.

A price is *decided* when it names a plan, or says `none`: not ours. The last decision about a price is stored with
the link of each customer that pays it, and holds while the price says nothing: to raise a price at Stripe its lookup
key is transferred to a new one, and whoever bought the old price goes on paying it for years. It is stored also while
the customer pays for something else, and may come back. An operator ends it by another decision.

A price that is paid for and was never decided is *unnamed*. It gives nothing, and the row holds since when: Stripe is
asked about it after a few minutes, then ever more rarely, at least once a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from karma.billing.domain import StripeSubscription, Subscription, plan_of
from karma.billing.plans import METADATA_KEY, NOT_OURS, SOLD, PriceHints, decision_of
from karma.core.records import Record

_SOONEST, _LATEST = timedelta(minutes=5), timedelta(days=1)
_RARELY = timedelta(days=7)
_PAYING = frozenset({"active", "trialing", "past_due"})
_OVER = frozenset({"canceled", "incomplete_expired"})
_SHOWN = 5
MAX_DECISIONS = 100
"""Largest number of decisions that are stored of prices that a customer does not pay for now; those paid for are all
stored."""

MAX_NOTED = 40
"""Largest number of prices and products noted for a customer without a link, whose events reopen when one is named."""


class Paid(Record, kw_only=True):
    """Prices that a user's subscriptions pay for, apart from what they give."""

    ids: tuple[str, ...] = ()
    """Ids of prices and products of every subscription that has not ended: a change of one concerns this user."""
    unnamed: tuple[str, ...] = ()
    """Prices of subscriptions that are paid for and sell nothing known to us."""
    unnamed_since: datetime | None = None

    def look_at(self, now: datetime) -> datetime | None:
        """Return the moment to ask Stripe whether a price was named meanwhile; None: all are named."""
        if self.unnamed_since is None:
            return None
        return now + min(max(now - self.unnamed_since, _SOONEST), _LATEST)


NOTHING = Paid()


def look_at(subscription: Subscription | None, paid: Paid, now: datetime) -> datetime | None:
    """Return the moment to ask Stripe about a row though no event came; None: only after an event or a change."""
    wanted = (subscription.look_at(now) if subscription else None, paid.look_at(now))
    # What is decided not to be ours is looked at rarely, and found when an operator decides again.
    rarely = now + _RARELY if paid.ids else None
    return min((each for each in wanted if each is not None), default=rarely)


def remembering(sources: Iterable[StripeSubscription], decisions: Mapping[str, str]) -> list[StripeSubscription]:
    """Return the subscriptions with undecided prices replaced by what was last decided about them."""
    return [replace(each, prices=tuple(_remembered(price, decisions) for price in each.prices)) for each in sources]


def decisions_in(sources: Iterable[StripeSubscription]) -> dict[str, str]:
    """Return the decision of each price: the name of a plan, or that it is not ours."""
    prices = [price for each in sources for price in each.prices]
    found = {price.price_id: decision_of(price) for price in prices if price.price_id}
    return {price_id: decision for price_id, decision in found.items() if decision}


def decisions_kept(before: Mapping[str, str], sources: Iterable[StripeSubscription]) -> dict[str, str]:
    """Return the decisions to store from now on, also of prices no longer paid for, the latest decided last.

    Args:
        before: the decisions stored until now.
        sources: subscriptions, as `remembering` returned them.
    """
    now = decisions_in(sources)
    left = [(price_id, decision) for price_id, decision in before.items() if price_id not in now]
    return {**dict(left[max(0, len(left) + len(now) - MAX_DECISIONS) :]), **now}


def unnamed_in(source: StripeSubscription) -> frozenset[str]:
    """Return the unnamed prices of a subscription, from `remembering`, that is paid for and sells nothing of ours."""
    if source.status not in _PAYING or plan_of(source) is not None:
        return frozenset()
    return frozenset(price.price_id for price in source.prices if price.price_id and not decision_of(price))


def paid_for(sources: Iterable[StripeSubscription], *, before: Paid, at: datetime, unseen: bool = False) -> Paid:
    """Return the prices that are paid for now.

    Args:
        sources: subscriptions, as `remembering` returned them.
        before: the row's value until now.
        at: moment of the question.
        unseen: Stripe cannot be asked about some subscriptions, whose part of `before` is kept.
    """
    ids: set[str] = set(before.ids if unseen else ())
    unnamed: set[str] = set(before.unnamed if unseen else ())
    for each in sources:
        if each.status in _OVER:
            continue
        ids |= {known for price in each.prices for known in (price.price_id, price.product_id) if known}
        unnamed |= unnamed_in(each)
    since = (before.unnamed_since if set(before.unnamed) >= unnamed else None) or at
    return Paid(ids=tuple(sorted(ids)), unnamed=tuple(sorted(unnamed)), unnamed_since=since if unnamed else None)


def advice(unnamed: tuple[str, ...]) -> str:
    """Return the advice to an operator about prices that are paid for and give nothing."""
    shown = ", ".join(unnamed[:_SHOWN]) + (f" and {len(unnamed) - _SHOWN} more" if len(unnamed) > _SHOWN else "")
    return (
        f"paid for, and names no plan: {shown}. Set {METADATA_KEY} in the metadata of the price or its product to "
        f"{', '.join(sorted(SOLD))}, or to {NOT_OURS} when it sells something else"
    )


def _remembered(price: PriceHints, decisions: Mapping[str, str]) -> PriceHints:
    if decision_of(price) or price.price_id not in decisions:
        return price
    return replace(price, metadata_plan=decisions[price.price_id])

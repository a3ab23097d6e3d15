"""The names of prices over time: a name that comes after the sale reaches who bought, one that goes takes nothing away.

A price is *decided* when it names a plan, or says `none`: not ours. What a customer's price was last decided to be is
remembered with the customer's link, and holds while a price says nothing: transferring a lookup key is how Stripe has
a price raised, and whoever bought the old price goes on paying it for years. It is remembered also while the customer
pays for something else, and may come back. An operator ends it by a decision.

What is paid for and was never decided is *unnamed*. It gives nothing, and the row knows since when: Stripe is asked
about it after a few minutes, then ever more rarely, at least once a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from karma.billing.domain import StripeSubscription, Subscription, plan_of
from karma.billing.plans import METADATA_KEY, NOT_OURS, SOLD, PriceHints, decision_of

_SOONEST, _LATEST = timedelta(minutes=5), timedelta(days=1)
_RARELY = timedelta(days=7)
_PAYING = frozenset({"active", "trialing", "past_due"})
_OVER = frozenset({"canceled", "incomplete_expired"})
_SHOWN = 5
MAX_NAMES = 100
"""Of a customer's prices whose meaning is remembered; those that are paid for now are, however many."""

MAX_NOTED = 40
"""Of what a customer without a link pays for: by so many of it, the customer is heard of when it is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """What the prices of a user's subscriptions are, apart from what they give."""

    ids: tuple[str, ...] = ()
    """Of prices, and of their products, of every subscription that is not over: whom a change of one concerns."""
    unnamed: tuple[str, ...] = ()
    """Prices of subscriptions that are paid for and sell nothing that we know of."""
    unnamed_since: datetime | None = None

    def look_at(self, now: datetime) -> datetime | None:
        """Return when to ask Stripe whether a price was named meanwhile; None: all are."""
        if self.unnamed_since is None:
            return None
        return now + min(max(now - self.unnamed_since, _SOONEST), _LATEST)


NOTHING = Paid()


def look_at(subscription: Subscription | None, paid: Paid, now: datetime) -> datetime | None:
    """Return when to ask Stripe about a row though no event came; None: not by itself."""
    wanted = (subscription.look_at(now) if subscription else None, paid.look_at(now))
    # What is decided not to be ours is looked at rarely, and found when an operator decides again.
    rarely = now + _RARELY if paid.ids else None
    return min((each for each in wanted if each is not None), default=rarely)


def remembering(sources: Iterable[StripeSubscription], names: Mapping[str, str]) -> list[StripeSubscription]:
    """Return subscriptions whose undecided prices say what they said when they were last decided."""
    return [replace(each, prices=tuple(_remembered(price, names) for price in each.prices)) for each in sources]


def names_in(sources: Iterable[StripeSubscription]) -> dict[str, str]:
    """Return what is to be remembered of each price: a plan, or that it is not ours."""
    prices = [price for each in sources for price in each.prices]
    found = {price.price_id: decision_of(price) for price in prices if price.price_id}
    return {price_id: decision for price_id, decision in found.items() if decision}


def names_kept(before: Mapping[str, str], sources: Iterable[StripeSubscription]) -> dict[str, str]:
    """Return what is to be remembered from now on: of prices that are left as well, the latest learned last.

    Args:
        before: what was remembered.
        sources: as remembered.
    """
    now = names_in(sources)
    left = [(price_id, name) for price_id, name in before.items() if price_id not in now]
    return {**dict(left[max(0, len(left) + len(now) - MAX_NAMES) :]), **now}


def unnamed_in(source: StripeSubscription) -> frozenset[str]:
    """Return the unnamed prices of a subscription, as remembered, that is paid for and sells nothing of ours."""
    if source.status not in _PAYING or plan_of(source) is not None:
        return frozenset()
    return frozenset(price.price_id for price in source.prices if price.price_id and not decision_of(price))


def paid_for(sources: Iterable[StripeSubscription], *, before: Paid, at: datetime, unseen: bool = False) -> Paid:
    """Say what is paid for now.

    Args:
        sources: as remembered.
        before: as the row had it.
        at: now.
        unseen: some of it cannot be asked about, and stays as it was.
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
    """Tell an operator what to do about prices that are paid for and give nothing."""
    shown = ", ".join(unnamed[:_SHOWN]) + (f" and {len(unnamed) - _SHOWN} more" if len(unnamed) > _SHOWN else "")
    return (
        f"paid for, and names no plan: {shown}. Set {METADATA_KEY} in the metadata of the price or its product to "
        f"{', '.join(sorted(SOLD))}, or to {NOT_OURS} when it sells something else"
    )


def _remembered(price: PriceHints, names: Mapping[str, str]) -> PriceHints:
    if decision_of(price) or price.price_id not in names:
        return price
    return replace(price, metadata_plan=names[price.price_id])

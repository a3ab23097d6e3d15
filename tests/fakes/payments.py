"""Stripe in memory, as the port `Payments` of billing shows it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import timedelta

from karma.billing.domain import StripeSubscription
from karma.core.errors import Upstream


@dataclass
class MemoryStripe:
    """Stripe's objects as they are now, in two modes, of which the key sees one.

    `on_fetch` runs before each answer, for what happens meanwhile.
    """

    subscriptions: dict[str, StripeSubscription] = field(default_factory=dict)
    customers: set[str] = field(default_factory=set)
    """Customers of the key's mode; those with subscriptions count without being listed here."""
    deleted: set[str] = field(default_factory=set)
    bought_once: set[str] = field(default_factory=set)
    """Customers that bought something of another product that is no subscription."""
    livemode: bool = False
    others: set[str] = field(default_factory=set)
    """Customers of the other mode, whose subscriptions the key does not see."""
    down: bool = False
    fetches: int = 0
    on_fetch: Callable[[], None] = lambda: None
    after_read: Callable[[], None] = lambda: None
    """Called once Stripe has read its objects, before we get them: the answer is then already old."""

    def subscriptions_of(self, customer_id: str, *, livemode: bool | None) -> list[StripeSubscription] | None:
        self._fetch()
        if livemode is not None and livemode is not self.livemode:
            return None
        found = [] if customer_id in self.others else self._of(customer_id)
        self.after_read()
        missing = not found and customer_id not in self.customers - self.deleted - self.others
        return None if missing and livemode is None else found

    def cancel(self, subscription_id: str) -> None:
        self._fetch()
        held = self.subscriptions.get(subscription_id)
        if held is not None and held.customer_id not in self.others:
            self.subscriptions[subscription_id] = replace(held, status="canceled")

    def buys_else(self, customer_id: str, subscription_ids: Collection[str]) -> bool:
        self._fetch()
        return customer_id in self.bought_once or any(each.id not in subscription_ids for each in self._of(customer_id))

    def delete_customer(self, customer_id: str) -> None:
        self._fetch()
        if customer_id in self.others:
            return  # missing to this key
        self.deleted.add(customer_id)
        for each in self._of(customer_id):
            self.subscriptions[each.id] = replace(each, status="canceled")

    def renew(self, subscription_id: str, *, days: int = 30) -> None:
        """Begin the next period, as a payment does."""
        held = self.subscriptions[subscription_id]
        end = held.current_period_end
        self.subscriptions[subscription_id] = replace(
            held, current_period_start=end, current_period_end=end + timedelta(days=days)
        )

    def _of(self, customer_id: str) -> list[StripeSubscription]:
        return [each for each in self.subscriptions.values() if each.customer_id == customer_id]

    def _fetch(self) -> None:
        if self.down:
            raise Upstream("Stripe did not answer; try again")
        self.fetches += 1
        self.on_fetch()

"""Objects of Stripe's API as its answers show them, of this version and, for compatible servers, of older ones."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator


class Vendor(BaseModel):
    """An object of Stripe's, of which only what is used is read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Price(Vendor):
    """A price, or a plan of the older API."""

    id: str = ""
    lookup_key: str | None = None
    product: str | dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class Item(Vendor):
    """An item of a subscription."""

    current_period_start: int | None = None
    current_period_end: int | None = None
    quantity: int | None = None
    price: Price | None = None
    plan: Price | None = None
    """Used in place of `price` by Stripe's older API."""


class Items(Vendor):
    """First items of a subscription."""

    data: list[Item] = Field(default_factory=list)
    has_more: bool = False


class Pause(Vendor):
    """Pause of a subscription's collection."""

    behavior: str = ""
    resumes_at: int | None = None


class Subscription(Vendor):
    """A subscription."""

    id: str
    customer: str
    status: str
    created: int
    current_period_start: int | None = None
    current_period_end: int | None = None
    cancel_at_period_end: bool = False
    cancel_at: int | None = None
    canceled_at: int | None = None
    trial_end: int | None = None
    pause_collection: Pause | None = None
    items: Items = Field(default_factory=Items)
    plan: Price | None = None

    @field_validator("customer", mode="before")
    @classmethod
    def _collapse(cls, value: object) -> object:
        return value.get("id") if isinstance(value, dict) else value


class Transitions(Vendor):
    """Moments of an invoice's life."""

    finalized_at: int | None = None


class Invoice(Vendor):
    """An invoice of a subscription, as far as it tells since when payments fail."""

    status: str | None = None
    created: int | None = None
    date: int | None = None
    """Used in place of `created` by Stripe's older API."""
    due_date: int | None = None
    attempted: bool = True
    total: int | None = None
    """Total before the customer's credit balance is applied, in the currency's smallest unit."""
    billing_reason: str | None = None
    status_transitions: Transitions | None = None

    @property
    def made_at(self) -> int:
        """Return the time of creation in epoch seconds, by which Stripe orders invoices."""
        return self.created or self.date or 0

    @property
    def is_settled(self) -> bool:
        """Tell whether it settles all unpaid invoices: if the latest one does, the subscription is active.

        It is paid (also by credit, or outside of Stripe) or uncollectible, which Stripe treats alike. An invoice over
        zero settles nothing, unless it renews the subscription: a free period. Void invoices and drafts do not count.
        """
        if self.status == "uncollectible":
            return True
        return self.status == "paid" and (
            self.total is None or self.total > 0 or self.billing_reason == "subscription_cycle"
        )

    @property
    def failed_at(self) -> int | None:
        """Return when it was due or first tried, in epoch seconds; None: neither yet."""
        if self.due_date is not None:
            return self.due_date
        finalized_at = self.status_transitions.finalized_at if self.status_transitions else None
        return (finalized_at or self.created or self.date) if self.attempted else None


def _collapsed(value: object) -> object:
    return value.get("id") if isinstance(value, dict) else value


_Reference = Annotated[str | None, BeforeValidator(_collapsed)]
"""Id of an object, which Stripe may show whole in its place."""


class Payment(Vendor):
    """Charge or payment intent that pays an invoice."""

    payment_intent: _Reference = None
    charge: _Reference = None


class InvoicePayment(Vendor):
    """Payment of an invoice."""

    payment: Payment = Field(default_factory=Payment)


class InvoicePayments(Vendor):
    """First payments of an invoice."""

    data: list[InvoicePayment] = Field(default_factory=list)


class SubscriptionDetails(Vendor):
    """Subscription that an invoice is for."""

    subscription: _Reference = None


class Parent(Vendor):
    """Object that an invoice is for."""

    subscription_details: SubscriptionDetails | None = None


class Bill(Vendor):
    """An invoice, as far as it tells what it is for, and which payments are for it."""

    parent: Parent | None = None
    payments: InvoicePayments | None = None
    subscription: _Reference = None
    """Used in place of `parent` by Stripe's older API."""
    payment_intent: _Reference = None
    charge: _Reference = None
    """Used with `payment_intent` in place of `payments` by Stripe's older API."""

    @property
    def subscription_id(self) -> str | None:
        """Return the subscription that it is for; None: it is for something else."""
        details = self.parent.subscription_details if self.parent else None
        return (details.subscription if details else None) or self.subscription

    @property
    def paid_by(self) -> set[str]:
        """Return the ids of the charges and payment intents that are for it."""
        payments = [each.payment for each in self.payments.data] if self.payments else []
        found = {self.payment_intent, self.charge, *(each.payment_intent for each in payments)}
        return {each for each in (*found, *(payment.charge for payment in payments)) if each}


class Charge(Vendor):
    """A charge of a customer."""

    id: str
    payment_intent: _Reference = None

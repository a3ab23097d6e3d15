"""Stripe's API: the only importer of `stripe`, and only when a client is built (it costs .7 of a boto3 client's start).

The version is pinned here, so that an upgrade of the library changes nothing until this line and its contract test do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from karma.billing.domain import StripeCustomer, StripeSubscription
from karma.billing.plans import PriceHints
from karma.core.errors import Upstream

if TYPE_CHECKING:
    from stripe import StripeClient

API_VERSION = "2026-10-28.endive"
_TIMEOUT_S = (2, 8)
"""Connect and read; with two retries and their pauses below the worker's 60 s."""
_RETRIES = 2
_PAGE = 100


class PaymentsUnavailable(Upstream):
    """Stripe did not answer, or asked us to slow down."""

    status = 503
    code = "PAYMENTS_UNAVAILABLE"
    retry_after_s = 2


class PaymentsUnreadable(Upstream):
    """Stripe answered what cannot be; the event waits in the inbox with this code."""

    code = "PAYMENTS_UNREADABLE"


class PaymentsDisabled(Upstream):
    """No API key is set."""

    status = 503
    code = "PAYMENTS_DISABLED"


class _Vendor(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Price(_Vendor):
    id: str = ""
    lookup_key: str | None = None
    nickname: str | None = None
    product: str | dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class _Item(_Vendor):
    current_period_start: int | None = None
    current_period_end: int | None = None
    price: _Price | None = None
    plan: _Price | None = None
    """Instead of `price` on Stripe's older interface."""


class _Items(_Vendor):
    data: list[_Item] = Field(default_factory=list)


class _Subscription(_Vendor):
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
    items: _Items = Field(default_factory=_Items)
    plan: _Price | None = None
    metadata: dict[str, Any] | None = None

    @field_validator("customer", mode="before")
    @classmethod
    def _collapse(cls, value: object) -> object:
        return value.get("id") if isinstance(value, dict) else value


class _Customer(_Vendor):
    id: str
    deleted: bool = False
    metadata: dict[str, Any] | None = None


class StripeGateway:
    """Reads Stripe's objects, and deletes customers."""

    def __init__(self, *, api_key: Callable[[], str], api_base: str = "") -> None:
        """`api_key` is asked when the client is built; `api_base` is for a Stripe-compatible peer."""
        self._api_key = api_key
        self._api_base = api_base
        self._client: StripeClient | None = None

    def subscription(self, subscription_id: str) -> StripeSubscription | None:
        """Fetch a subscription; None when Stripe has none.

        Raises:
            PaymentsUnavailable, PaymentsDisabled: not known.
        """
        client = self._built()
        try:
            with _stripe_errors():
                found = client.v1.subscriptions.retrieve(subscription_id)
        except _Missing:
            return None
        return _read(found.to_dict())

    def subscriptions_of(self, customer_id: str) -> list[StripeSubscription]:
        """Fetch a customer's subscriptions of every status, newest first, up to 100.

        Raises:
            PaymentsUnavailable, PaymentsDisabled: not known.
        """
        client = self._built()
        try:
            with _stripe_errors():
                found = client.v1.subscriptions.list(params={"customer": customer_id, "status": "all", "limit": _PAGE})
        except _Missing:
            return []
        return [_read(each.to_dict()) for each in found.data]

    def customer(self, customer_id: str) -> StripeCustomer | None:
        """Fetch a customer; None when deleted or unknown.

        Raises:
            PaymentsUnavailable, PaymentsDisabled: not known.
        """
        client = self._built()
        try:
            with _stripe_errors():
                answer = client.v1.customers.retrieve(customer_id)
        except _Missing:
            return None
        found = _Customer.model_validate(answer.to_dict())
        return None if found.deleted else StripeCustomer(id=found.id, user_id=_text(found.metadata, "user_id"))

    def delete_customer(self, customer_id: str) -> None:
        """Delete a customer, which cancels its subscriptions at once; an unknown one is deleted already.

        Raises:
            PaymentsUnavailable, PaymentsDisabled: not known.
        """
        client = self._built()
        with suppress(_Missing), _stripe_errors():
            client.v1.customers.delete(customer_id)

    def _built(self) -> StripeClient:
        if self._client is None:
            import stripe

            key = self._api_key()
            if not key:
                raise PaymentsDisabled("No Stripe key is set")
            self._client = stripe.StripeClient(
                key,
                stripe_version=API_VERSION,
                http_client=stripe.RequestsClient(timeout=_TIMEOUT_S),
                max_network_retries=_RETRIES,
                base_addresses={"api": self._api_base} if self._api_base else None,
            )
        return self._client


class _Missing(Exception):
    """Stripe has no such object."""


@contextmanager
def _stripe_errors() -> Iterator[None]:
    import stripe

    try:
        yield
    except stripe.InvalidRequestError as exc:
        if exc.http_status == 404 or exc.code == "resource_missing":
            raise _Missing from exc
        raise
    except (stripe.RateLimitError, stripe.APIConnectionError) as exc:
        raise PaymentsUnavailable("Stripe did not answer; try again") from exc
    except stripe.APIError as exc:
        raise PaymentsUnavailable("Stripe failed; try again") from exc


def _read(raw: dict[str, Any]) -> StripeSubscription:
    found = _Subscription.model_validate(raw)
    items = found.items.data
    starts = [item.current_period_start for item in items if item.current_period_start is not None]
    ends = [item.current_period_end for item in items if item.current_period_end is not None]
    start = max(starts) if starts else found.current_period_start
    end = min(ends) if ends else found.current_period_end
    price = next((item.price or item.plan for item in items if item.price or item.plan), found.plan) or _Price()
    return StripeSubscription(
        id=found.id,
        customer_id=found.customer,
        status=found.status,
        created=_moment(found.created),
        current_period_start=_moment(found.created if start is None else start),
        current_period_end=_moment(found.created if end is None else end),
        cancel_at_period_end=found.cancel_at_period_end,
        cancel_at=_optional(found.cancel_at),
        canceled_at=_optional(found.canceled_at),
        trial_end=_optional(found.trial_end),
        price=PriceHints(
            price_id=price.id,
            lookup_key=price.lookup_key or "",
            nickname=price.nickname or "",
            product_id=price.product if isinstance(price.product, str) else "",
            metadata_plan=_text(price.metadata, "plan") or _text(found.metadata, "plan"),
        ),
        user_id=_text(found.metadata, "user_id"),
    )


def _text(metadata: dict[str, Any] | None, name: str) -> str:
    value = (metadata or {}).get(name)
    return value if isinstance(value, str) else ""


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise PaymentsUnreadable("Stripe names a time that no calendar has") from exc


def _optional(seconds: int | None) -> datetime | None:
    return None if seconds is None else _moment(seconds)

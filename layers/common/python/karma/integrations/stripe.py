"""Stripe's API: the only importer of `stripe`, and only when a client is built (it costs .7 of a boto3 client's start).

The version is pinned here, so that an upgrade of the library changes nothing until this line and its contract test do.

| the library raises | meaning | becomes |
| --- | --- | --- |
| InvalidRequestError with 404 or `resource_missing` | no such object in the key's mode | what the caller says of it |
| RateLimitError, APIConnectionError, APIError, any with 409, 429 or 5xx | passes | PaymentsUnavailable, Retry-After |
| AuthenticationError, PermissionError | our key is wrong | PaymentsUnavailable, not to be repeated |
| every other StripeError | Stripe refuses what we sent: a bug | PaymentsRefused, not to be repeated |

The last two are logged as errors and counted as `UnhandledError`, which raises the alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from karma.billing.domain import Pause, StripeSubscription
from karma.billing.plans import METADATA_KEY, PriceHints, decision_of
from karma.core.errors import Upstream
from karma.core.observability import count, logger
from karma.integrations import stripe_objects as objects

if TYPE_CHECKING:
    from stripe import StripeClient, StripeError

API_VERSION = "2026-10-28.endive"
_TIMEOUT_S = (2, 8)
"""Seconds to connect and to read; with two retries and their pauses below the worker's 60 s."""
_RETRIES = 2
_PAGE = 100
_LAST_YEAR = 9998
"""Last year of times that are accepted; later ones would overflow when grace periods are added to them."""


class PaymentsUnavailable(Upstream):
    """Stripe did not answer, or is throttling requests."""

    status = 503
    code = "PAYMENTS_UNAVAILABLE"
    retry_after_s = 2


class PaymentsUnreadable(Upstream):
    """Stripe's answer cannot be read; the event waits in the inbox with this code."""

    code = "PAYMENTS_UNREADABLE"


class PaymentsRefused(Upstream):
    """Stripe refused the request; the same one will be refused again."""

    code = "PAYMENTS_REFUSED"
    retryable = False


class PaymentsDisabled(Upstream):
    """No API key is set."""

    status = 503
    code = "PAYMENTS_DISABLED"
    retryable = False


_V = TypeVar("_V", bound=objects.Vendor)


class StripeGateway:
    """Reads Stripe's subscriptions, cancels them, and deletes customers.

    A key sees one mode, `test` or `live`; the other mode's objects are missing to it, though they exist. So a missing
    object is known to be deleted only when its mode is the key's.
    """

    def __init__(self, *, api_key: Callable[[], str], api_base: str = "") -> None:
        """Make a gateway; `api_key` is called when the client is built, `api_base` names a Stripe-compatible server."""
        self._api_key = api_key
        self._api_base = api_base
        self._client: StripeClient | None = None
        self._livemode = False

    @property
    def livemode(self) -> bool:
        """Tell whether the key is for real money.

        Raises:
            PaymentsDisabled: there is no key, or its mode cannot be read.
        """
        self._built()
        return self._livemode

    def subscriptions_of(self, customer_id: str, *, livemode: bool | None) -> list[StripeSubscription] | None:
        """Return all subscriptions of a customer, of every status; [] when the customer is deleted.

        Returns None when the key cannot tell: the customer is of the other mode, or its mode is not known and
        the key's mode has no such customer.

        Raises:
            PaymentsUnavailable, PaymentsDisabled: Stripe did not answer, or there is no key.
        """
        client = self._built()
        if livemode is not None and livemode is not self._livemode:
            return None
        params: Any = {"customer": customer_id, "status": "all", "limit": _PAGE}
        try:
            with _stripe_errors():
                raw = [each.to_dict() for each in client.v1.subscriptions.list(params=params).auto_paging_iter()]
                if not raw and livemode is None:
                    client.v1.customers.retrieve(customer_id)
        except _Missing:
            return None if livemode is None else []
        products: dict[str, str] = {}
        return [self._read(each, products) for each in raw]

    def cancel(self, subscription_id: str) -> None:
        """Cancel a subscription of the key's mode at once, without refund; an absent one counts as cancelled.

        Raises:
            PaymentsUnavailable, PaymentsDisabled: Stripe did not answer, or there is no key.
        """
        client = self._built()
        with suppress(_Missing), _stripe_errors():
            client.v1.subscriptions.cancel(subscription_id)

    def buys_else(self, customer_id: str, subscription_ids: Collection[str]) -> bool:
        """Tell whether a customer has an invoice or a charge of anything but these subscriptions.

        True as well when there is no such customer, or when Stripe refuses to tell what was paid by what. A charge
        counts unless an invoice of theirs names it: attempts that failed count, too.

        Raises:
            PaymentsUnavailable, PaymentsDisabled: Stripe did not answer, or there is no key.
        """
        client = self._built()
        params: Any = {"customer": customer_id, "limit": _PAGE}
        try:
            with _stripe_errors():
                raw = [each.to_dict() for each in client.v1.charges.list(params=params).auto_paging_iter()]
                charges = [_readable(objects.Charge, each) for each in raw]
                bills = self._bills(params)
        except _Missing:
            return True
        if any(bill.subscription_id not in subscription_ids for bill in bills):
            return True
        if charges and not any(bill.paid_by for bill in bills):
            try:
                with _stripe_errors():
                    bills = self._bills({**params, "expand": ["data.payments"]})
            except (_Missing, PaymentsRefused):
                # Stripe's older API names payments unasked, and refuses to be asked. Which were for these
                # subscriptions is not known then, and a customer who may have bought else is kept.
                return True
            if any(bill.subscription_id not in subscription_ids for bill in bills):  # sent in between
                return True
        known = {payment for bill in bills for payment in bill.paid_by}
        return any(each.id not in known and each.payment_intent not in known for each in charges)

    def _bills(self, params: Any) -> list[objects.Bill]:
        found = self._built().v1.invoices.list(params=params).auto_paging_iter()
        return [_readable(objects.Bill, each.to_dict()) for each in found]

    def delete_customer(self, customer_id: str) -> None:
        """Delete a customer of the key's mode and cancel its subscriptions at once; an absent one counts as deleted.

        Raises:
            PaymentsUnavailable, PaymentsDisabled: Stripe did not answer, or there is no key.
        """
        client = self._built()
        with suppress(_Missing), _stripe_errors():
            client.v1.customers.delete(customer_id)

    def _read(self, raw: dict[str, Any], products: dict[str, str]) -> StripeSubscription:
        found = _readable(objects.Subscription, raw)
        items = found.items.data
        if found.items.has_more:
            items = self._all_items(found.id)
        starts = [item.current_period_start for item in items if item.current_period_start is not None]
        ends = [item.current_period_end for item in items if item.current_period_end is not None]
        start = max(starts) if starts else found.current_period_start
        end = min(ends) if ends else found.current_period_end
        prices = [item.price or item.plan for item in items if item.quantity != 0] or [found.plan]
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
            prices=tuple(self._hints(price, products) for price in prices if price is not None),
            pause=_pause(found.pause_collection),
            unpaid_since=self._unpaid_since(found.id) if found.status == "past_due" else None,
        )

    def _hints(self, price: objects.Price, products: dict[str, str]) -> PriceHints:
        """Read the plan that a price names; its product is fetched only when the price names none."""
        hints = PriceHints(
            price_id=price.id,
            product_id=_text(price.product, "id") if isinstance(price.product, dict) else price.product or "",
            lookup_key=price.lookup_key or "",
            metadata_plan=_text(price.metadata, METADATA_KEY),
        )
        if decision_of(hints) or not price.product:
            return hints
        if isinstance(price.product, dict):
            return replace(hints, metadata_plan=_text(price.product.get("metadata"), METADATA_KEY))
        if price.product not in products:
            products[price.product] = self._plan_of_product(price.product)
        return replace(hints, metadata_plan=products[price.product])

    def _plan_of_product(self, product_id: str) -> str:
        try:
            with _stripe_errors():
                answer = self._built().v1.products.retrieve(product_id)
        except _Missing:
            return ""
        return _text(answer.to_dict().get("metadata"), METADATA_KEY)

    def _all_items(self, subscription_id: str) -> list[objects.Item]:
        params: Any = {"subscription": subscription_id, "limit": _PAGE}
        with _stripe_errors():
            found = self._built().v1.subscription_items.list(params=params).auto_paging_iter()
            return [_readable(objects.Item, each.to_dict()) for each in found]

    def _unpaid_since(self, subscription_id: str) -> datetime | None:
        """Return when the first open invoice after the latest settled one failed; None: nothing is unpaid.

        A newer one that fails as well begins no new grace period. An open one older than a settled one does not count:
        Stripe leaves it open for ever when its retries end, while the subscription goes on with later payments.
        """
        params: Any = {"subscription": subscription_id, "limit": _PAGE}
        with _stripe_errors():
            found = self._built().v1.invoices.list(params=params).auto_paging_iter()
            invoices = [_readable(objects.Invoice, each.to_dict()) for each in found]
        # Stripe lists the newest first; a compatible server may not. Within one second the server's order stays.
        invoices.sort(key=lambda invoice: invoice.made_at, reverse=True)
        run = takewhile(lambda invoice: not invoice.is_settled, invoices)
        failed = [each.failed_at for each in run if each.status == "open"]
        return _optional(min((each for each in failed if each is not None), default=None))

    def _built(self) -> StripeClient:
        if self._client is None:
            import stripe

            key = self._api_key()
            if not key:
                raise PaymentsDisabled("No Stripe key is set")
            self._livemode = _mode_of(key)
            with _stripe_errors():
                self._client = stripe.StripeClient(
                    key,
                    stripe_version=API_VERSION,
                    http_client=stripe.RequestsClient(timeout=_TIMEOUT_S),
                    max_network_retries=_RETRIES,
                    base_addresses={"api": self._api_base} if self._api_base else None,
                )
        return self._client


class _Missing(PaymentsUnavailable):
    """Stripe has no such object. Where it is not handled, the object was deleted while we read: try again."""


@contextmanager
def _stripe_errors() -> Iterator[None]:
    import stripe

    try:
        yield
    except stripe.StripeError as exc:
        raise _public(exc) from exc


def _public(exc: StripeError) -> Upstream:
    """Map an exception of the library by the table of this module."""
    import stripe

    status = exc.http_status or 0
    if isinstance(exc, stripe.InvalidRequestError) and (status == 404 or exc.code == "resource_missing"):
        return _Missing("Stripe's objects changed; try again")
    if isinstance(exc, stripe.RateLimitError) or status == 429:
        return PaymentsUnavailable("Stripe is busy; try again")
    if isinstance(exc, stripe.APIConnectionError | stripe.APIError) or status == 409 or status >= 500:
        return PaymentsUnavailable("Stripe did not answer; try again")
    logger.error("stripe.refused", cause=type(exc).__name__, stripe_code=exc.code, status=status)
    count("UnhandledError")
    if isinstance(exc, stripe.AuthenticationError | stripe.PermissionError):
        return PaymentsUnavailable("Stripe refuses the key", repeatable=False)
    return PaymentsRefused("Stripe refuses the request")


def _readable(kind: type[_V], raw: dict[str, Any]) -> _V:
    try:
        return kind.model_validate(raw)
    except ValidationError as exc:
        raise PaymentsUnreadable("Stripe answered what cannot be read") from exc


def _mode_of(key: str) -> bool:
    """Return whether a key is for real money: `sk_test_...`, `rk_live_...`.

    Raises:
        PaymentsDisabled: the key names no mode.
    """
    words = key.split("_")[:-1]
    if ("live" in words) is ("test" in words):
        raise PaymentsDisabled("The Stripe key names no mode")
    return "live" in words


def _pause(found: objects.Pause | None) -> Pause | None:
    return None if found is None else Pause(behavior=found.behavior, resumes_at=_optional(found.resumes_at))


def _text(metadata: object, name: str) -> str:
    value = metadata.get(name) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else ""


def _moment(seconds: int) -> datetime:
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise PaymentsUnreadable("Stripe names a time that no calendar has") from exc
    if moment.year > _LAST_YEAR:
        raise PaymentsUnreadable("Stripe names a time at the end of the calendar")
    return moment


def _optional(seconds: int | None) -> datetime | None:
    return None if seconds is None else _moment(seconds)

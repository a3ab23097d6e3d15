"""A small Stripe server for the gateway's tests, which refuses what Stripe refuses.

Its rules: a key sees the objects of its mode, the other mode's are missing (404, `resource_missing`); a list has at
most 100 objects a page, ten unless asked, and leaves canceled subscriptions out unless `status=all`; a subscription
shows its first ten items; an invoice shows its payments where that is asked for; an unknown parameter is an error; what
is canceled cannot be canceled again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Object = dict[str, Any]
_OVER = ("canceled", "incomplete_expired")
_PARAMS = {
    "subscriptions": {"customer", "status", "limit", "starting_after"},
    "subscription_items": {"subscription", "limit", "starting_after"},
    "invoices": {"customer", "subscription", "limit", "starting_after", "expand[0]"},
    "charges": {"customer", "limit", "starting_after"},
}
_SHOWN_ITEMS = 10


class Refused(Exception):
    """Stripe's answer to a request that it refuses."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass
class StripeServer:
    """Objects of a Stripe account in both modes: each carries `livemode`."""

    url: str = ""
    customers: dict[str, Object] = field(default_factory=dict)
    subscriptions: list[Object] = field(default_factory=list)
    items: dict[str, list[Object]] = field(default_factory=dict)
    products: dict[str, Object] = field(default_factory=dict)
    invoices: list[Object] = field(default_factory=list)
    charges: list[Object] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    names_payments: bool = True
    """Whether invoices can be asked for their payments; Stripe's older API refuses that."""
    expanded: int = 0
    """Number of requests that asked for the payments of invoices."""
    failing: int = 0
    """Status of every answer; 0: the right answer."""

    def customer(self, customer_id: str = "cus_1", *, livemode: bool = False) -> None:
        self.customers[customer_id] = {"id": customer_id, "object": "customer", "livemode": livemode}

    def subscription(self, subscription_id: str = "sub_1", **changes: Any) -> None:
        """Sell something; `items` are prices, or whole items with a `price`."""
        items = changes.pop("items", [{"lookup_key": "karma_team_month"}])
        whole = [item if "price" in item else {"price": item} for item in items]
        for number, item in enumerate(whole):
            item.setdefault("id", f"si_{subscription_id}_{number}")
            item["price"] = {"id": f"price_{number}", "product": "prod_other", **item["price"]}
        self.items[subscription_id] = whole
        self.subscriptions.insert(
            0,
            {
                "id": subscription_id,
                "object": "subscription",
                "customer": "cus_1",
                "status": "active",
                "created": 1_000,
                "livemode": False,
                **changes,
            },
        )

    def answer(self, method: str, path: str, query: dict[str, str], *, livemode: bool) -> Object:
        if self.failing:
            raise Refused(self.failing, "failing")
        kind, _, object_id = path.removeprefix("/v1/").partition("/")
        match method, kind, object_id:
            case "GET", "subscriptions", "":
                _mine(self.customers.get(query.get("customer", "")), livemode=livemode)
                found = [each for each in self.subscriptions if each["customer"] == query["customer"]]
                every = query.get("status") == "all"
                return _page(kind, [self._shown(each) for each in found if every or each["status"] not in _OVER], query)
            case "GET", "subscription_items", "":
                return _page(kind, self.items[query["subscription"]], query)
            case "GET", "invoices", "":
                return _page(kind, self._invoices(query, livemode=livemode), query)
            case "GET", "charges", "":
                _mine(self.customers.get(query["customer"]), livemode=livemode)
                return _page(kind, self.charges, query)
            case "GET", "products", _:
                return _mine(self.products.get(object_id), livemode=livemode)
            case "GET", "customers", _:
                return _mine(self.customers.get(object_id), livemode=livemode)
            case "DELETE", "customers", _:
                _mine(self.customers.get(object_id), livemode=livemode)
                del self.customers[object_id]
                return {"id": object_id, "object": "customer", "deleted": True}
            case "DELETE", "subscriptions", _:
                found = [each for each in self.subscriptions if each["id"] == object_id]
                held = _mine(found[0] if found else None, livemode=livemode)
                if held["status"] in _OVER:
                    raise Refused(404, "resource_missing")
                held["status"] = "canceled"
                return self._shown(held)
        raise Refused(404, "unknown_route")

    def _invoices(self, query: dict[str, str], *, livemode: bool) -> list[Object]:
        """Return the invoices of a subscription or customer; payments are shown when they are asked for."""
        if "subscription" in query:
            return [each for each in self.invoices if each["of"] == query["subscription"]]
        _mine(self.customers.get(query["customer"]), livemode=livemode)
        if query.get("expand[0]") == "data.payments":
            self.expanded += 1
            if not self.names_payments:
                raise Refused(400, "property_not_expandable")
            return self.invoices
        return [{name: value for name, value in each.items() if name != "payments"} for each in self.invoices]

    def _shown(self, subscription: Object) -> Object:
        items = self.items[subscription["id"]]
        first = {"object": "list", "data": items[:_SHOWN_ITEMS], "has_more": len(items) > _SHOWN_ITEMS}
        return {**subscription, "items": {**first, "url": "/v1/subscription_items"}}


def _mine(found: Object | None, *, livemode: bool) -> Object:
    if found is None or found["livemode"] is not livemode:
        raise Refused(404, "resource_missing")
    return found


def _page(kind: str, found: list[Object], query: dict[str, str]) -> Object:
    limit = int(query.get("limit", 10))
    if not 1 <= limit <= 100 or query.keys() - _PARAMS[kind]:
        raise Refused(400, "parameter_unknown")
    after = query.get("starting_after")
    first = next(index for index, each in enumerate(found) if each["id"] == after) + 1 if after else 0
    shown = found[first : first + limit]
    return {"object": "list", "data": shown, "has_more": first + limit < len(found), "url": f"/v1/{kind}"}


@contextmanager
def serving() -> Iterator[StripeServer]:
    """Serve on a free port of loopback."""
    stripe = StripeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._carry_out("GET")

        def do_DELETE(self) -> None:
            self._carry_out("DELETE")

        def _carry_out(self, method: str) -> None:
            target = urlsplit(self.path)
            stripe.requests.append(f"{method} {target.path}")
            livemode = "_live_" in self.headers["authorization"]
            try:
                status, body = 200, stripe.answer(method, target.path, dict(parse_qsl(target.query)), livemode=livemode)
            except Refused as refused:
                status, body = refused.status, {"error": {"type": "invalid_request_error", "code": refused.code}}
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.send_header("stripe-should-retry", "false")
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's name
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stripe.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stripe
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)

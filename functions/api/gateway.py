"""Reads the events of an HTTP API, payload 2.0: all that invokes this function.

In place of Mangum's own reader: that one fails on a `Host` whose port is no number, and tries four kinds of events.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from mangum.handlers import HTTPGateway
from mangum.types import LambdaConfig, LambdaContext, LambdaEvent, Scope


class HttpApiEvent(HTTPGateway):
    """An event as an ASGI scope."""

    @classmethod
    def infer(cls, _event: LambdaEvent, _context: LambdaContext, _config: LambdaConfig) -> bool:
        """Take every event."""
        return True

    @property
    def scope(self) -> Scope:
        """Describe the request; text that is not Unicode is replaced, as in a URL."""
        event: dict[str, Any] = self.event
        request = event["requestContext"]["http"]
        headers = [[_raw(name.lower()), _raw(value)] for name, value in (event.get("headers") or {}).items()]
        if event.get("cookies"):
            headers.append([b"cookie", _raw("; ".join(event["cookies"]))])
        return {
            "type": "http",
            "method": request["method"],
            "http_version": "1.1",
            "headers": headers,
            "path": unquote(request["path"]) or "/",
            "raw_path": None,
            "root_path": "",
            "scheme": "https",
            "query_string": _raw(event.get("rawQueryString", "")),
            "server": (event["requestContext"].get("domainName", ""), 443),
            "client": (request["sourceIp"], 0),
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "aws.event": event,
            "aws.context": self.context,
        }


def _raw(text: str) -> bytes:
    return text.encode(errors="replace")

"""Failures of a client of runs."""

from __future__ import annotations

from typing import Any

import httpx


class RunRefused(Exception):
    """The server refused a request: there is no such run, or the request is wrong. Nothing was changed by it."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        """HTTP status."""
        self.code = ""
        """`code` of the error; "" where the answer has none."""
        self.details: Any = None
        """`details` of the error, as docs/api.md describes them for its code."""
        self.retry_after_s = _seconds(response.headers.get("retry-after", ""))
        """Seconds after which the server wants to be asked again; None: it did not say."""
        message = response.reason_phrase
        try:
            error = response.json()["error"]
            self.code, message, self.details = str(error["code"]), str(error["message"]), error.get("details")
        except (ValueError, KeyError, TypeError):
            pass
        super().__init__(f"{self.status} {self.code} {message}".replace("  ", " "))


class RunUnreachable(Exception):
    """A run could not be followed any more; it goes on at the server, and `AgentClient.join` shows the rest."""


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None

"""Failures of a client of runs."""

from __future__ import annotations

from typing import Any, Final

import httpx

SERVER_FAILED: Final = 500
"""The first of the statuses by which a server or a proxy says that it has failed."""


class RunRefused(Exception):
    """A request was refused: there is no such run, the request is wrong, or is to be sent again in more than a minute.

    Nothing was changed by it, unless `is_unknown`: then the answer may be a proxy's, or of a process that failed.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        """HTTP status."""
        self.is_unknown = self.status in {408, 425} or self.status >= SERVER_FAILED
        """Nobody can tell by the answer whether the request had an effect."""
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
    """A run could not be followed any more; once begun it goes on at the server, and `AgentClient.join` shows the rest.

    Where not even its first event came, nobody can tell whether it has begun: the same request again, with its id, is
    the same run.
    """


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None

"""Waiting by polling, with a deadline."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def until(attempt: Callable[[], _T | None], *, deadline_s: float, what: str, pause_s: float = 0.05) -> _T:
    """Return the first answer that is neither None nor False.

    Raises:
        TimeoutError: there was none within `deadline_s`; the message says `what` was awaited.
    """
    end = time.monotonic() + deadline_s
    while True:
        answer = attempt()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() >= end:
            raise TimeoutError(f"{what}: nothing after {deadline_s:g} s")
        time.sleep(pause_s)


def http_status(url: str, *, timeout_s: float = 2) -> int | None:
    """Return the status of a GET, None when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 -- our own loopback URL
            return int(response.status)
    except urllib.error.HTTPError as answered:
        return answered.code
    except (OSError, http.client.HTTPException):
        return None

"""Waiting by polling, with a deadline."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_USUAL_ANSWER_S = 0.1
"""Seconds; more than the engine needs for its smallest answer when two other programs run beside it (5-50 ms)."""
_MOST_TIMES = 20.0


class Pace:
    """Measures how slow the machine is, by the time that the engine's smallest answer takes.

    Deadlines are for machines as they usually are. On one that is ten times slower everything takes ten times as long,
    that answer too, so a deadline that has passed is extended by as much, and a line says what is waited for.
    """

    def __init__(self, probe: Callable[[], object], say: Callable[[str], None] = lambda _: None) -> None:
        self._probe = probe
        self._say = say

    def stretched(self, deadline_s: float, *, what: str) -> float:
        """Measure one answer now; return the deadline extended for a machine that is so slow."""
        began = time.monotonic()
        self._probe()
        took = time.monotonic() - began
        factor = min(max(took / _USUAL_ANSWER_S, 1.0), _MOST_TIMES)
        if factor > 1:
            longest = deadline_s * factor
            self._say(f"waiting for {what}, up to {longest:.0f} s: this machine is busy, one answer took {took:.1f} s")
        return deadline_s * factor


def until(
    attempt: Callable[[], _T | None],
    *,
    deadline_s: float,
    what: str,
    pause_s: float = 0.05,
    pace: Pace | None = None,
) -> _T:
    """Return the first answer that is neither None nor False.

    Raises:
        TimeoutError: there was none within `deadline_s`, stretched by `pace` where one is given; the message says
            `what` was awaited.
    """
    began = time.monotonic()
    allowed_s = deadline_s
    while True:
        answer = attempt()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() - began >= allowed_s:
            allowed_s = max(allowed_s, pace.stretched(deadline_s, what=what)) if pace is not None else deadline_s
            if time.monotonic() - began >= allowed_s:
                raise TimeoutError(f"{what}: nothing after {allowed_s:.3g} s")
        time.sleep(pause_s)


def http_status(url: str, *, timeout_s: float = 30) -> int | None:
    """Return the status of a GET; None: there was no answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 -- our own loopback URL
            return int(response.status)
    except urllib.error.HTTPError as answered:
        return answered.code
    except (OSError, http.client.HTTPException):
        return None

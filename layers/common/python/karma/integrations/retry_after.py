"""Reads from a model provider's answer whether, and after how many seconds, the same call may be repeated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from karma.core.clock import SystemClock

_TRANSIENT = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same call may succeed; all from 500 on may, too."""
_CLOCK = SystemClock()


def asks_to_repeat(status: int, headers: Mapping[str, str]) -> bool:
    """Tell whether an error may pass: by `x-should-retry`, which Anthropic's API sends, else by the status."""
    told = headers.get("x-should-retry")
    if told in {"true", "false"}:
        return told == "true"
    return status in _TRANSIENT or status >= 500


def pause_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `retry-after-ms` or `retry-after` (seconds, or a date) asks to wait; None: neither."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after")
    seconds = _number(told)
    if seconds is not None or not told:
        return seconds
    try:
        at = parsedate_to_datetime(told)
        return max(0.0, (at - _CLOCK.now()).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date, or one without a time zone
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None

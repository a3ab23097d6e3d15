"""The one source of time. Services take a `Clock`, so that tests decide what time it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Clock(Protocol):
    """Tells the time as an aware UTC datetime."""

    def now(self) -> datetime:
        """Return the current moment."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current moment."""
        return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """Format as ISO 8601 UTC with milliseconds and `Z`; sorts as text in time order."""
    # Not strftime: it writes years before 1000 without their zeros.
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def in_utc(moment: datetime) -> datetime:
    """Convert an aware moment to UTC.

    Raises:
        ValueError: there it is before the year 1 or after 9999, as 9999-12-31T23:59:59-14:00 is.
    """
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it must be in the years 1 to 9999") from None


def parse_iso(text: str) -> datetime:
    """Read what `iso` wrote, or any ISO 8601 text with an offset.

    Raises:
        ValueError: not ISO 8601, without an offset, or outside the years 1 to 9999 in UTC.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no offset from UTC")
    return in_utc(moment)


def epoch_ms(moment: datetime) -> int:
    """Milliseconds since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _MILLISECOND


def from_epoch_ms(milliseconds: int) -> datetime:
    """Inverse of `epoch_ms`.

    Raises:
        ValueError: outside the years 1 to 9999.
    """
    try:
        return _EPOCH + milliseconds * _MILLISECOND
    except OverflowError as exc:
        raise ValueError(f"{milliseconds} ms is not a date") from exc


def monotonic() -> float:
    """Seconds on a clock that never goes back; only differences mean anything."""
    return time.monotonic()

"""The only source of time. Services take a `Clock`, so that tests decide the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Clock(Protocol):
    """A source of the current time as an aware UTC datetime."""

    def now(self) -> datetime:
        """Return the current moment."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current moment."""
        return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """Format a moment as ISO 8601 UTC with milliseconds and `Z`; such texts sort in time order."""
    # Not strftime: it writes years before 1000 without their zeros.
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def in_utc(moment: datetime) -> datetime:
    """Convert an aware moment to UTC.

    Raises:
        ValueError: in UTC the moment is before the year 1 or after 9999, as 9999-12-31T23:59:59-14:00 is.
    """
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it must be in the years 1 to 9999") from None


def parse_iso(text: str) -> datetime:
    """Parse ISO 8601 text with an offset, such as `iso` writes.

    Raises:
        ValueError: the text is not ISO 8601, has no offset, or is outside the years 1 to 9999 in UTC.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no offset from UTC")
    return in_utc(moment)


def epoch_ms(moment: datetime) -> int:
    """Return the milliseconds since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _MILLISECOND


def from_epoch_ms(milliseconds: int) -> datetime:
    """Return the moment of milliseconds since 1970-01-01 UTC.

    Raises:
        ValueError: the moment is outside the years 1 to 9999.
    """
    try:
        return _EPOCH + milliseconds * _MILLISECOND
    except OverflowError as exc:
        raise ValueError(f"{milliseconds} ms is not a date") from exc


def monotonic() -> float:
    """Return seconds on a clock that never goes back; only differences have a meaning."""
    return time.monotonic()

"""The device's clock, and the steps by which it is set while the program runs.

A device without a battery for its clock begins in 1970, or where it was switched off, until NTP sets the time. What it
recorded before is as wrong as its clock was; a clock that nobody sets tells by how much.
"""

import time
from collections.abc import Callable

MAX_AGE_MS = 29 * 24 * 3_600_000
MAX_AHEAD_MS = 5 * 60_000
_STEP_MS = 60_000
"""Smallest difference that is a step: less is drift, or a clock that is being slewed."""


def steady_ms() -> int:
    """Return ms since the start of the machine, its sleep included where the system tells that."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    return time.monotonic_ns() // 1_000_000


def is_possible(ts: int, *, now_ms: int) -> bool:
    """Tell whether the service takes a sample of this time."""
    return now_ms - MAX_AGE_MS <= ts <= now_ms + MAX_AHEAD_MS


class SteppedClock:
    """Notices steps of a clock. Not thread-safe."""

    def __init__(self, clock_ms: Callable[[], int], steady: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._steady = steady
        self._offset = clock_ms() - steady()

    def step(self) -> tuple[int, int]:
        """Return the time, and by how many ms the clock was set since the last call; 0: it was not."""
        now = self._clock_ms()
        offset = now - self._steady()
        by, self._offset = offset - self._offset, offset
        return (now, by) if abs(by) >= _STEP_MS else (now, 0)

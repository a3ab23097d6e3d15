"""The device's clock, and the steps by which it is set while the program runs.

A device without a battery for its clock begins in 1970, or where it was switched off, until NTP sets the time. What it
recorded before is as wrong as its clock was; a clock that nobody sets tells by how much.
"""

import sys
import time
from collections.abc import Callable, Mapping

MAX_AGE_MS = 29 * 24 * 3_600_000
MAX_AHEAD_MS = 5 * 60_000
_STEP_MS = 60_000
"""Smallest difference that is a step: less is drift, or a clock that is being slewed."""


def steady_clock(platform: str, clocks: Mapping[str, object]) -> int | None:
    """Choose the system's clock that nobody sets and that goes on while the machine sleeps.

    Waking would otherwise look as if the clock had been set by the length of the sleep. macOS has no CLOCK_BOOTTIME,
    and Python's monotonic clock stops there in sleep; CLOCK_MONOTONIC_RAW does not, which on Linux stops.

    Args:
        platform: `sys.platform`.
        clocks: the names of module `time`.

    Returns:
        The clock's id; None: the system has none, and Python's monotonic clock is the best.
    """
    wanted = "CLOCK_MONOTONIC_RAW" if platform in ("darwin", "ios") else "CLOCK_BOOTTIME"
    found = clocks.get(wanted)
    return found if isinstance(found, int) else None


_CLOCK = steady_clock(sys.platform, vars(time))


def steady_ms() -> int:
    """Return ms since the start of the machine, its sleep included where the system tells that."""
    return (time.monotonic_ns() if _CLOCK is None else time.clock_gettime_ns(_CLOCK)) // 1_000_000


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

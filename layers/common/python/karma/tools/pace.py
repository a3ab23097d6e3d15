"""Shows clients how far a call is, now and then: whoever tells of it may do so as often as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from karma.conversations.domain import Json

SHOWN_EVERY_S: Final = 0.5
"""Seconds between two that are shown of one call: one in between is replaced by what follows it."""


@contextmanager
def paced(show: Callable[[Json], None], *, every_s: float = SHOWN_EVERY_S) -> Iterator[Callable[[Json], None]]:
    """Yield what shows the first at once, then the latest every `every_s`, and the last one at the end.

    Where the call fails, the last one may stay unseen. Raises as `show`.
    """
    pace = _Pace(show, every_s)
    try:
        yield pace.show
        pace.flush()
    finally:
        pace.close()


class _Pace:
    def __init__(self, show: Callable[[Json], None], every_s: float) -> None:
        self._show = show
        self._every_s = every_s
        self._waiting: Json | None = None
        self._timer: asyncio.TimerHandle | None = None

    def show(self, content: Json) -> None:
        self._waiting = content
        if self._timer is None:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self.close()
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._show_latest)
            self._show(waiting)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _show_latest(self) -> None:
        self._timer = None
        with suppress(Exception):  # a run whose log cannot be written meets that at its next step
            self.flush()

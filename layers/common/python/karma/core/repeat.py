"""Repeats a read and the write based on it when another write came between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from karma.core.observability import logger

_ATTEMPTS = 6
_PAUSE_S = 0.02
_T = TypeVar("_T")


def repeat(write: Callable[[], _T], *, on: tuple[type[Exception], ...]) -> _T:
    """Call `write` up to six times within .6 s, as long as it raises one of `on`; the last error is raised."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return write()
        except on as exc:
            logger.debug("write.repeated", cause=type(exc).__name__)
            time.sleep(_PAUSE_S * 2**attempt)
    return write()

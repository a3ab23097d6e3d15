"""A write that met another one is made again on what is stored now."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from karma.core.observability import logger
from karma.projects.domain import ProjectChanged

_ATTEMPTS = 6
_PAUSE_S = 0.01
_T = TypeVar("_T")


def again(write: Callable[[], _T]) -> _T:
    """Call `write`, which reads, decides and writes, until nothing came between; six times at the most.

    Raises:
        ProjectChanged: something came between each time.
    """
    for attempt in range(_ATTEMPTS - 1):
        try:
            return write()
        except ProjectChanged:
            logger.debug("project.write_repeated")
            time.sleep(_PAUSE_S * 2**attempt)
    return write()

"""Actions that several threads begin at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from karma.core.errors import AppError


def at_once(*actions: Callable[[], object]) -> list[str]:
    """Run actions at the same moment; return for each "done", or the name of the error that refused it."""
    start = Barrier(len(actions))

    def run(action: Callable[[], object]) -> str:
        start.wait(10)
        try:
            action()
        except AppError as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))

"""Output at the terminal: one line a step, with its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Prints steps as they end; safe from several threads."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Print one line."""
        if not self._quiet:
            with self._lock:
                print(f"  {text}", flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and print it when it ended well."""
        began = time.monotonic()
        yield
        self.say(f"{name:<44} {time.monotonic() - began:5.1f} s")

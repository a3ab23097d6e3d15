"""Memory of a process that serves one request after the other."""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")
_LARGE_BYTES: Final = 140 * 1024 * 1024
"""Resident bytes above which a request has left something large; without any a process has 120 MB."""


def relieve() -> None:
    """Free what a large request has left in cycles, before the next one needs as much.

    The collector counts objects and not their bytes: a few texts of 20 MB would wait until a thousand small requests
    came. What the process has imported is frozen, so that this takes some milliseconds.
    """
    with suppress(OSError):  # no Linux
        if int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > _LARGE_BYTES:
            gc.collect()

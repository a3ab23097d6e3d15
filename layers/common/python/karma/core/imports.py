"""Imports without unneeded packages, for a faster cold start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(*optional: str) -> Iterator[None]:
    """Hide packages from imports in this context, for libraries that work without them.

    Libraries import what they might use (`try: import cryptography`), at tens of milliseconds each. A package that was
    imported before stays visible; afterwards all of them can be imported again.
    """
    hidden = [name for name in optional if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's own mark for "not there"
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)

"""Watches that nothing blocks the event loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockbuster import blockbuster_ctx


@contextmanager
def nothing_blocks() -> Iterator[None]:
    """Fail whatever blocks the event loop; files of /proc answer from memory."""
    with blockbuster_ctx() as watched:
        watched.functions["io.TextIOWrapper.read"].can_block_in("core/runtime/memory.py", "relieve")
        yield

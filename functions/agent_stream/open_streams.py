"""Counts the answers that an account has open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Final, TypeVar

from agent_stream import services
from karma.core.leases import Lease
from karma.identity.domain import Caller

T = TypeVar("T")

_CHEAP_BYTES: Final = 64 * 1024
"""Bytes of a body that is read before its stream is counted: a few milliseconds."""
_COSTLY: Final = (b"JVBER", b"\\u00")
"""A body has one of these if it contains a PDF: the file's first bytes in base64, or letters of it in an escape."""


@asynccontextmanager
async def counted(caller: Caller, *, until: datetime | None) -> AsyncIterator[None]:
    """Count a stream as open while the block runs, and at the longest until `until`.

    Its lease is short, and renewed while the block runs. No renewal that fails or comes late ends the block.

    Raises:
        RateLimited: the account has as many streams open as it may.
    """
    streams, over = services.open_streams(), asyncio.Event()

    async def renewed(lease: Lease) -> Lease:
        while until is None or lease.until < until:
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), streams.renew_in_s(lease))
            if over.is_set():
                break
            lease = await asyncio.to_thread(streams.renew, lease, until=until)
        return lease

    lease = await asyncio.to_thread(streams.open, caller.user_id, until=until)
    renewing = asyncio.create_task(renewed(lease))
    try:
        yield
    finally:
        over.set()
        await asyncio.to_thread(streams.close, await renewing)


@asynccontextmanager
async def counted_reading(
    caller: Caller, read: Callable[[bytes], T], body: bytes, *, until: datetime | None
) -> AsyncIterator[T]:
    """Read a body in a thread and count its stream, as `counted`; yields what was read.

    Whoever has too many streams open is refused before a body is read that takes long. Any other is read first, so
    that its refusal takes no place, and no call of the database. All files of a body have one allowance, from here to
    the end of its run.

    Raises:
        RateLimited: as `counted`.
        AppError: whatever `read` raises; the stream counts no more.
    """
    if len(body) <= _CHEAP_BYTES and not any(mark in body for mark in _COSTLY):
        asked = await asyncio.to_thread(read, body)
        async with counted(caller, until=until):
            yield asked
        return
    from karma.core.foreign import one_allowance  # of few requests

    with one_allowance():
        async with counted(caller, until=until):
            yield await asyncio.to_thread(read, body)

"""Counts the answers that an account has open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, TypeVar

from agent_stream import services
from karma.core.ids import new_id
from karma.identity.domain import Caller

T = TypeVar("T")

_CHEAP_BYTES: Final = 64 * 1024
"""Bytes of a body that is read before its stream is counted: a few milliseconds."""
_COSTLY: Final = (b"JVBER", b"\\u00")
"""A body has one of these if it contains a PDF: the file's first bytes in base64, or letters of it in an escape."""


@asynccontextmanager
async def counted(caller: Caller, *, until: datetime | None) -> AsyncIterator[str]:
    """Count a stream as open while the block runs, and at the longest until `until`; yields the lease's token.

    A run that begins in the block has the token as its writer, so that the stream is closed by who takes that over.

    Raises:
        RateLimited: the account has as many streams open as it may.
    """
    lease = await asyncio.to_thread(services.open_streams().open, caller.user_id, until=until, token=new_id())
    try:
        yield lease.token
    finally:
        await asyncio.to_thread(services.open_streams().close, lease)


@asynccontextmanager
async def counted_reading(
    caller: Caller, read: Callable[[bytes], T], body: bytes, *, until: datetime | None
) -> AsyncIterator[tuple[T, str]]:
    """Read a body in a thread and count its stream, as `counted`; yields what was read and the lease's token.

    Whoever has too many streams open is refused before a body is read that takes long. Any other is read first, so
    that its refusal takes no place, and no call of the database. All files of a body have one allowance, from here to
    the end of its run.

    Raises:
        RateLimited: as `counted`.
        AppError: whatever `read` raises; the stream counts no more.
    """
    if len(body) <= _CHEAP_BYTES and not any(mark in body for mark in _COSTLY):
        asked = await asyncio.to_thread(read, body)
        async with counted(caller, until=until) as token:
            yield asked, token
        return
    from karma.core.foreign import one_allowance  # of few requests

    with one_allowance():
        async with counted(caller, until=until) as token:
            yield await asyncio.to_thread(read, body), token

"""Counts the answers that an account has open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

from agent_stream import services
from karma.core.leases import Lease
from karma.identity.domain import Caller

if TYPE_CHECKING:
    from karma.runs.recording import Admission

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
    async with _counting(caller, until=until) as counted_in:
        await counted_in()
        yield


@asynccontextmanager
async def counted_reading(
    caller: Caller, read: Callable[[bytes], T], body: bytes, *, until: datetime | None
) -> AsyncIterator[tuple[T, Admission]]:
    """Read a body in a thread and count its stream; yields what was read, and its admission.

    The block awaits that one before it stores or answers anything; meanwhile it may read. Whoever has too many
    streams open is refused before a body is read that takes long. Any other is read first, so that its refusal takes
    no place, and no call of the database. All files of a body have one allowance, from here to the end of its run.

    Raises:
        RateLimited: as `counted`; for a body that is read first, when the block awaits the admission.
        AppError: as `read`.
    """
    if len(body) <= _CHEAP_BYTES and not any(mark in body for mark in _COSTLY):
        asked = await asyncio.to_thread(read, body)
        async with _counting(caller, until=until) as counted_in:
            yield asked, counted_in
        return
    from karma.core.foreign import one_allowance  # of few requests

    with one_allowance():
        async with _counting(caller, until=until) as counted_in:
            await counted_in()
            yield await asyncio.to_thread(read, body), counted_in


@asynccontextmanager
async def _counting(caller: Caller, *, until: datetime | None) -> AsyncIterator[Admission]:
    """Take a stream's place and renew it while the block runs, and give it back at its end, however it ends."""
    streams, over = services.open_streams(), asyncio.Event()
    taking = asyncio.create_task(asyncio.to_thread(streams.open, caller.user_id, until=until))

    async def renewed() -> Lease:
        lease = await taking
        while until is None or lease.until < until:
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), streams.renew_in_s(lease))
            if over.is_set():
                break
            lease = await asyncio.to_thread(streams.renew, lease, until=until)
        return lease

    async def counted_in() -> None:
        # A block that is cancelled while it waits leaves a place that is being taken, which is given back below.
        await asyncio.shield(taking)

    renewing = asyncio.create_task(renewed())
    try:
        yield counted_in
    finally:
        over.set()
        await asyncio.wait([renewing])
        if renewing.exception() is None:
            await asyncio.to_thread(streams.close, renewing.result())

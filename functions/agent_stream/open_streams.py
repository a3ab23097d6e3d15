"""Counts the answers that an account has open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from agent_stream import services
from karma.identity.domain import Caller


@asynccontextmanager
async def counted(caller: Caller, *, until: datetime | None) -> AsyncIterator[None]:
    """Count a stream as open while the block runs, and at the longest until `until`.

    Raises:
        RateLimited: the account has as many streams open as it may.
    """
    lease = await asyncio.to_thread(services.open_streams().open, caller.user_id, until=until)
    try:
        yield
    finally:
        await asyncio.to_thread(services.open_streams().close, lease)

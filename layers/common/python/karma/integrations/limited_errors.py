"""Bounds what is read of the body of an error: an answer that never ends is no error that must be understood."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from karma.core.clock import monotonic

if TYPE_CHECKING:
    import httpx2

MAX_ERROR_BYTES: Final = 64 * 1024
ERROR_S: Final = 10.0
"""Seconds for which the body of an error is read."""


async def limit_error(response: httpx2.Response) -> None:
    """Let at most the beginning of an error's body be read, of a compressed one nothing; a hook of httpx2's client."""
    if response.status_code < 400:
        return
    import httpx2

    whole = response.stream
    is_plain = response.headers.get("content-encoding", "identity") == "identity"

    class Beginning(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            left, until = MAX_ERROR_BYTES if is_plain else 0, monotonic() + ERROR_S
            if left and isinstance(whole, httpx2.AsyncByteStream):
                async for chunk in whole:
                    yield chunk[:left]
                    left -= len(chunk)
                    if left <= 0 or monotonic() > until:
                        return

        async def aclose(self) -> None:
            if isinstance(whole, httpx2.AsyncByteStream):
                await whole.aclose()

    response.headers.pop("content-encoding", None)
    response.stream = Beginning()

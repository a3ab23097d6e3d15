"""Answers what a server from before 2026-07-28 asks within the stream of an answer, while that is read on.

`ping` is answered as the protocol demands: a server that is left without an answer may end the session. All else
belongs to capabilities that are not declared (roots, sampling, elicitation): error -32601, of which a server makes what
it answers the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import orjson

from karma.core import surrogates
from karma.integrations.guarded_http import AddressRefused

if TYPE_CHECKING:
    from types import TracebackType

    import httpcore2

MAX_REPLIES: Final = 1_000
"""Requests that are answered within one stream; what is asked beyond them is passed over."""
_AT_ONCE: Final = 4
_REPLY_S: Final = 5.0
"""Seconds for which an answer may be on its way."""
_MAX_ID_CHARS: Final = 512
_NOT_FOUND: Final = -32601
_IDS: Final = range(-(2**63), 2**64)
"""Numbers that can be written back as they came."""


def reply_to(request: Mapping[str, Any]) -> bytes | None:
    """Return the answer to a request of a server; None: it has no id that could be given back."""
    request_id = request.get("id")
    is_text = isinstance(request_id, str) and len(request_id) <= _MAX_ID_CHARS
    if not is_text and not (type(request_id) is int and request_id in _IDS):
        return None
    if isinstance(request_id, str):
        request_id = surrogates.whole(request_id)
    missing = {"code": _NOT_FOUND, "message": "The client has no such capability"}
    told = {"result": {}} if request.get("method") == "ping" else {"error": missing}
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, **told})


class Replies:
    """The answers to requests of one stream, each posted apart; whatever becomes of them, the call goes on."""

    def __init__(
        self,
        pool: httpcore2.AsyncConnectionPool,
        url: str,
        headers: Mapping[str, str],
        extensions: dict[str, Any],
        under_way: set[asyncio.Task[None]],
    ) -> None:
        """Make them for a server; `headers` are those of its session, and `under_way` holds replies of all streams."""
        self._pool = pool
        self._url = url
        self._headers = list(headers.items())
        self._extensions = extensions
        self._left = MAX_REPLIES
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._under_way = under_way
        self._own: set[asyncio.Task[None]] = set()

    def take(self, request: Mapping[str, Any]) -> None:
        """Answer a request, without waiting for that."""
        body = reply_to(request)
        if body is None or not self._left:
            return
        self._left -= 1
        posting = asyncio.get_running_loop().create_task(self._post(body))
        for tasks in (self._own, self._under_way):
            tasks.add(posting)
            posting.add_done_callback(tasks.discard)

    async def _post(self, body: bytes) -> None:
        import httpcore2

        failures = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, AddressRefused)
        with suppress(*failures, httpcore2.UnsupportedProtocol, OSError, TimeoutError):
            async with (
                self._free,
                asyncio.timeout(_REPLY_S),
                self._pool.stream("POST", self._url, headers=self._headers, content=body, extensions=self._extensions),
            ):
                pass  # whatever it says to that

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End; the result of a call does not wait for replies, and they go with a call that is given up."""
        if exc is not None:
            await end(self._own)


async def end(replies: set[asyncio.Task[None]]) -> None:
    """End replies that are under way."""
    under_way = list(replies)
    for each in under_way:
        each.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)

"""The events of one run, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

import httpx

from karma_agent.continuity import Continuity, Event
from karma_agent.errors import RunRefused, RunUnreachable
from karma_agent.sse import Frame, FrameReader, FrameTooLarge, FrameTorn

_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0
_LONGEST_WAIT_S: Final = 60.0
"""Longest pause that a server may ask for; its caller is told of a longer one, and may come back then."""
_CUT: Final = (httpx.TransportError, FrameTooLarge, FrameTorn)
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 530)})
"""Statuses of requests that may be repeated: a run is named by its id, so that none is done twice. Those from 520 on
are of proxies that could not reach the server, or got no answer from it."""

Connect = Callable[[int | None], AsyncGenerator[bytes]]
"""Opens a connection and yields what its answer has: the log behind a position; None: the request that starts the run.

It raises RunRefused, and httpx.TransportError where the connection fails.
"""


class RunStream:
    """The events of one run, as an asynchronous iterator that ends with the run, or when it is paused.

    It may be iterated once. `run_id` and `position` are what `AgentClient.join` needs to go on elsewhere.
    """

    def __init__(
        self, connect: Connect, *, run_id: str, thread_id: str = "", position: int | None = None, patience: int
    ) -> None:
        """Build the stream of a run; `position` None: it is started by the first connection."""
        self.run_id = run_id
        self.thread_id = thread_id
        """Thread of the run; "" in one that was joined, until its first event names it."""
        self._connect = connect
        self._has_begun = position is not None
        self._patience = patience
        self._continuity = Continuity(position or 0)

    @property
    def position(self) -> int:
        """Return the number of the last segment of the log that was handed on whole."""
        return self._continuity.position

    async def __aiter__(self) -> AsyncIterator[Event]:
        failures = 0
        while True:
            before, pause_s = self.position, None
            cause: Exception | None = None
            try:
                async with aclosing(self._connection()) as events:
                    async for event in events:
                        yield event
            except _CUT as exc:
                cause = exc
            except RunRefused as exc:
                if exc.status not in _TRY_AGAIN or (exc.retry_after_s or 0) > _LONGEST_WAIT_S:
                    raise
                cause, pause_s = exc, exc.retry_after_s
            # Also where the connection was cut behind the last event: the server would tell the end again.
            if self._continuity.is_over or self._continuity.is_paused:
                return
            failures = 0 if self.position > before else failures + 1
            if failures > self._patience:
                reason = str(cause or "connections end at once") or repr(cause)
                raise RunUnreachable(f"run {self.run_id} cannot be followed: {reason}") from cause
            if failures:
                await asyncio.sleep(_pause_s(failures) if pause_s is None else pause_s)
            self._continuity.reconnect()

    async def _connection(self) -> AsyncGenerator[Event]:
        """Yield what one connection brings. Until the first event the run may not be stored: it is started again."""
        reader = FrameReader()
        async with aclosing(self._connect(self.position if self._has_begun else None)) as chunks:
            async for chunk in chunks:
                for frame in reader.feed(chunk):
                    event, position = _read(frame)
                    for each in self._continuity.take(event, position=position):
                        self._has_begun = True
                        self.thread_id = self.thread_id or str(each.get("threadId", ""))
                        yield each


def _read(frame: Frame) -> tuple[Event | None, int | None]:
    """Return the event and the position of a frame, None for what it has not.

    Raises:
        FrameTorn: it is none of the server's.
    """
    try:
        event = json.loads(frame.data) if frame.data else None
        position = None if frame.id is None else int(frame.id)
    except ValueError as exc:
        raise FrameTorn(f"a frame cannot be read: {exc}") from exc
    if event is not None and not isinstance(event, dict):
        raise FrameTorn("a frame holds no event")
    return event, position


def _pause_s(failures: int) -> float:
    """Return a random pause before another try, so that clients that lost one server do not come back together."""
    return random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**failures))  # noqa: S311 - no secret

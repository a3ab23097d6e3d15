"""Asks a model again when a call failed before its answer began: with growing random pauses, for a bounded time.

Nothing of such a call was shown, and nothing of it is paid, so that asking again changes nothing but the time. A call
that has reported usage or given a piece of its answer is never repeated here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from karma.core.clock import monotonic
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.models.domain import Target, Usage
from karma.models.ports import Model, ModelEvent, ModelFailed, ModelRequest

_NOTHING: Final = Usage()
_SPREAD: Final = 0.25
"""Share of a pause that the provider asks for, up to which it is made longer at random."""


class RetryPolicy(Record, kw_only=True):
    """Bounds on repeats of a call: their number, and the time that they take."""

    attempts: int = 5
    """Calls at the most, the first one included."""
    base_s: float = 0.5
    """Longest first pause, in seconds; each further one may be twice as long."""
    cap_s: float = 8.0
    """Longest pause of our own choice, in seconds."""
    longest_asked_s: float = 30.0
    """Longest pause that a provider may ask for, in seconds; for a longer one nobody waits, and the call has failed."""

    def pause_s(self, failure: ModelFailed, *, tried: int, left_s: float, draw: Callable[[], float]) -> float | None:
        """Return the seconds to wait before the next attempt; None: there is none.

        Args:
            failure: the failure of the last attempt.
            tried: number of attempts so far.
            left_s: seconds within which the next attempt must begin.
            draw: returns a random number from 0 to 1.
        """
        if not failure.is_transient or failure.usage != _NOTHING or tried >= self.attempts:
            return None
        asked_s, drawn = failure.retry_after_s, draw()
        # Full jitter: callers that failed together come back apart.
        pause_s = drawn * min(self.cap_s, self.base_s * 2 ** (tried - 1))
        if asked_s is not None and asked_s > self.longest_asked_s:
            return None
        if asked_s is not None:
            # Our own is the least: some ask to wait for no time, or until a moment that is over.
            pause_s = max(pause_s, asked_s * (1 + _SPREAD * drawn))
        return pause_s if pause_s <= left_s else None


class RetryingModel:
    """A model that is asked again after transient failures, as a `RetryPolicy` says."""

    def __init__(self, model: Model, policy: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008  # immutable
        self._model = model
        self._policy = policy
        # Of the system, since processes that are restored from one snapshot would draw the same numbers.
        self._draw = random.SystemRandom().random

    def prepare(self, target: Target) -> None:
        """See `karma.models.ports.Model`."""
        self._model.prepare(target)

    def preload(self, target: Target) -> None:
        """See `karma.models.ports.Model`."""
        self._model.preload(target)

    async def close(self) -> None:
        """See `karma.models.ports.Model`."""
        await self._model.close()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        """See `karma.models.ports.Model`; the failure that is raised is the last attempt's."""
        until = monotonic() + request.patience_s
        tried = 0
        while True:
            tried += 1
            has_begun = False
            try:
                async with aclosing(self._model.stream(request)) as batches:
                    async for batch in batches:
                        has_begun = True
                        yield batch
                return
            except ModelFailed as exc:
                left_s = until - monotonic()
                pause_s = None if has_begun else self._policy.pause_s(exc, tried=tried, left_s=left_s, draw=self._draw)
                if pause_s is None:
                    raise
                code = exc.code.value
            logger.warning(
                "model.retried",
                **request.log_keys,
                provider=request.target.provider,
                model=request.target.model,
                code=code,
                attempt=tried,
                pause_s=round(pause_s, 3),
            )
            count("ModelRetried", code=code)
            await asyncio.sleep(pause_s)

"""The workers of a function: as many as there are invocations at once, up to a limit, as Lambda scales environments."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from local.streamhost.invocation import Invocation
from local.streamhost.worker import FunctionSpec, Worker

logger = logging.getLogger("local.streamhost")

_TURNAROUND_S = 0.1


class Throttled(Exception):
    """As many invocations are running as the limit allows."""


class WorkerPool:
    """Keeps `prewarm` workers ready and starts more on demand, never over `limit`."""

    def __init__(self, spec: FunctionSpec, *, prewarm: int, limit: int) -> None:
        self._spec = spec
        self._prewarm = min(prewarm, limit)
        self._limit = limit
        self._workers: set[Worker] = set()
        self._idle: deque[Worker] = deque()
        self._busy: dict[Worker, Invocation] = {}
        self._old: set[Worker] = set()
        self._returned = asyncio.Event()
        self._replacing: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def size(self) -> int:
        """Return the number of live workers, idle or not."""
        return len(self._workers)

    async def start(self) -> None:
        """Start the pre-warmed workers.

        Raises:
            OSError: the bootstrap cannot be executed.
        """
        self._idle.extend(await asyncio.gather(*(self._spawn() for _ in range(self._prewarm))))

    async def lease(self) -> Worker:
        """Take a worker, the most recently used first; it may still be starting.

        Raises:
            Throttled: the limit is reached.
            OSError: the bootstrap cannot be executed.
        """
        if not self._idle:
            await self._wait_for_one_that_has_answered()
        if self._idle:
            return self._idle.pop()
        if len(self._workers) >= self._limit:
            raise Throttled
        return await self._spawn()

    async def run(self, worker: Worker, invocation: Invocation) -> None:
        """Run an invocation on a leased worker and take the worker back; a dead one has been replaced already."""
        self._busy[worker] = invocation
        try:
            await worker.run(invocation)
        finally:
            del self._busy[worker]
            await self._take_back(worker)
            self._returned.set()

    async def _take_back(self, worker: Worker) -> None:
        if worker in self._old:
            await worker.stop()
        elif not worker.dead:
            self._idle.append(worker)

    async def _wait_for_one_that_has_answered(self) -> None:
        """Wait briefly for a worker that has just answered, so that a client's next call starts no second process."""
        try:
            async with asyncio.timeout(_TURNAROUND_S):
                while not self._idle and any(busy.answered.is_set() for busy in self._busy.values()):
                    self._returned.clear()
                    await self._returned.wait()
        except TimeoutError:
            logger.debug("a worker is still busy behind its answer")

    async def renew(self) -> None:
        """End every worker, since its code has changed; a busy one ends after its answer."""
        idle = tuple(self._idle)
        self._idle.clear()
        self._old = self._workers.difference(idle)
        await asyncio.gather(*(worker.stop() for worker in idle))

    async def close(self) -> None:
        """Stop every worker."""
        self._closing = True
        replacing = tuple(self._replacing)
        for task in replacing:
            task.cancel()
        await asyncio.gather(*replacing, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in tuple(self._workers)))

    async def _spawn(self) -> Worker:
        worker = Worker(self._spec, self._forget)
        self._workers.add(worker)
        try:
            await worker.start()
        except BaseException:
            self._workers.discard(worker)
            raise
        return worker

    def _forget(self, worker: Worker) -> None:
        self._workers.discard(worker)
        self._old.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        # One that never came up would fail again at once: the next request tries instead.
        if (worker.was_ready or worker.was_stopped) and not self._closing and len(self._workers) < self._prewarm:
            task = asyncio.create_task(self._replace())
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _replace(self) -> None:
        try:
            await self._take_back(await self._spawn())
        except OSError:
            logger.exception("a worker could not be replaced")

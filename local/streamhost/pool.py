"""The workers of a function: as many as there are invocations at once, up to a limit, as Lambda scales environments."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from local.streamhost.worker import FunctionSpec, Worker

logger = logging.getLogger("local.streamhost")


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
        self._replacing: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def size(self) -> int:
        """Workers alive, idle or not."""
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
        if self._idle:
            return self._idle.pop()
        if len(self._workers) >= self._limit:
            raise Throttled
        return await self._spawn()

    def give_back(self, worker: Worker) -> None:
        """Return a worker after its invocation; a dead one has been replaced already."""
        if not worker.dead:
            self._idle.append(worker)

    async def close(self) -> None:
        """Stop every worker."""
        self._closing = True
        for task in self._replacing:
            task.cancel()
        await asyncio.gather(*(worker.stop() for worker in tuple(self._workers)))

    async def _spawn(self) -> Worker:
        worker = Worker(self._spec, self._forget)
        self._workers.add(worker)
        try:
            await worker.start()
        except OSError:
            self._workers.discard(worker)
            raise
        return worker

    def _forget(self, worker: Worker) -> None:
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        # One that never came up would fail again at once: the next request tries instead.
        if worker.was_ready and not self._closing and len(self._workers) < self._prewarm:
            task = asyncio.create_task(self._replace())
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _replace(self) -> None:
        try:
            self._idle.append(await self._spawn())
        except OSError:
            logger.exception("a worker could not be replaced")

"""Ends of runs in whose place another one begins.

the intent     is noted in the thread before the run is asked to end, and names it: from then on those that wait for
               their turn leave the thread to the request, until it has begun, or for `KEPT_FOR` if it has died
the end        is its process's, which reads the wish twice a second; of a run whose process is lost, the request's
what comes     in between is not meant: a run whose turn has come all the same goes on, and the request is refused
"""

from __future__ import annotations

import asyncio
from functools import partial

from karma.agents.domain import MultitaskStrategy
from karma.conversations.domain import Thread, ThreadChanged
from karma.core.clock import Clock
from karma.runs.asking import Asking
from karma.runs.domain import RunKey, ThreadBusy
from karma.runs.ports import Runs
from karma.runs.watchdog import Inspector
from karma.runs.wishes import Needs, Wish

_END_POLL_S = 0.25
_END_POLLS = 16
"""Polls for the end of a run that was asked to end; it reads the wish twice a second."""


class Replacement:
    """Has threads' active runs end, so that requests can begin theirs."""

    def __init__(self, store: Runs, inspector: Inspector, clock: Clock) -> None:
        """Build it; `inspector` ends runs whose processes are lost."""
        self._store = store
        self._inspector = inspector
        self._clock = clock

    async def require_meant(self, asking: Asking) -> None:
        """Refuse a request that does not mean the active run of its thread.

        Raises:
            ThreadBusy: it does not.
        """
        run_id = asking.thread.active_run_id
        if run_id is None:
            return
        if not await asyncio.to_thread(asking.may_end, self._store, RunKey(asking.thread.key.user_id, run_id)):
            raise ThreadBusy(run_id)

    async def make_way(self, asking: Asking, needs: Needs) -> None:
        """End the active run of a request's thread for it, unless the account lacks what its run `needs`.

        Raises:
            ThreadBusy: the run goes on, though it was asked to end.
            ThreadChanged: the run has ended; read the thread again.
            RunExists, QuotaExceeded, AccountGone: as `Ways.make_way`; the run goes on.
        """
        thread, run_id = asking.thread, asking.thread.active_run_id
        if run_id is None:
            return
        key, at = RunKey(thread.key.user_id, run_id), self._clock.now()
        if not await asyncio.to_thread(self._store.make_way, thread.key, run_id, at=at, needs=needs):
            raise ThreadChanged
        asking.begin_anew()
        if asking.strategy is MultitaskStrategy.ROLLBACK:
            asking.rolls_back.append(key)
        is_over = partial(self._inspector.is_over, is_cancelled=asking.ends_active)
        if not await asyncio.to_thread(is_over, key):
            await asyncio.to_thread(self._store.wish, key, Wish.MOVED_ON, at=self._clock.now())
            if not await self._ends(key):
                raise ThreadBusy(run_id)
        raise ThreadChanged

    async def ask_for_turn(self, thread: Thread, *, answers: bool = False) -> None:
        """End the thread's active run if its process is lost, else ask its writer to end it if its client has left.

        One that `answers` questions waits for that run also where nobody listens to it.

        Raises:
            ThreadBusy: the run goes on.
            ThreadChanged: the run has ended; read the thread again.
        """
        run_id = thread.active_run_id
        if run_id is None:
            return
        key = RunKey(thread.key.user_id, run_id)
        if not await asyncio.to_thread(self._inspector.has_ended, key):
            if not answers:
                await asyncio.to_thread(self._store.wish, key, Wish.NEXT, at=self._clock.now())
            raise ThreadBusy(run_id)
        raise ThreadChanged

    async def _ends(self, key: RunKey) -> bool:
        """Wait for a run that was asked to end; False: it goes on."""
        for _ in range(_END_POLLS):
            await asyncio.sleep(_END_POLL_S)
            tail = await asyncio.to_thread(self._store.tail, key)
            if tail is None or tail.terminal:
                return True
        return False

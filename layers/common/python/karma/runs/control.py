"""Controls runs that have not ended: requests of their owner cancel, pause and resume them.

Nobody but the process that executes a run writes to its log while its lease lasts. A request so leaves a wish beside
the log, which that process reads twice a second. Where the lease is over (the process is lost, or has handed the run
over and no other has begun), the request writes the end or the pause itself, behind the last segment and on condition
that nobody else did. Whichever process takes the run over reads the wishes first:

    request    1. wish    2. read the last segment    3. lease over: write the end, unless another process wrote first
    process    1. take over by the next segment       2. read the wishes, at once and twice a second

Whatever their order, one of the two sees the other. A run that ends by itself before its wish is heard stays as it
ended. The transaction that pauses a run takes the wish back, on condition that it is there and that nobody cancels the
run: so a request that resumes it first, or cancels it, is never overtaken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from karma.conversations.domain import ThreadKey
from karma.core.clock import Clock
from karma.core.errors import NotFound
from karma.core.ids import AgentId, RunId, UserId
from karma.runs.domain import ACTIVE, ENGINE_SCHEMA, OwnershipLost, Run, RunHasEnded, RunKey, RunStatus, Segment
from karma.runs.ending import cancel_lost, end_expired, pause_lost, resume_paused
from karma.runs.holdings import free_place
from karma.runs.ports import ActivePage, Executions, Runs, Watchdog
from karma.runs.reading import RunReader
from karma.runs.turns import RunIsQueued, wake_next
from karma.runs.watchdog import FIRST_LOOK
from karma.runs.wishes import AgentStop, Wish, WishesChanged
from karma.runs.withdrawing import withdraw_questions

if TYPE_CHECKING:
    from karma.agents.service import Catalogue

_TRIES = 5
_POLL_S = 0.25
_PAGE = 100
_AT_ONCE = 16
"""Runs that are cancelled at the same time."""


class Stopped(NamedTuple):
    """Runs and calls of an agent that were stopped."""

    runs: Sequence[Run]
    """Its runs, as they are then."""
    within: Sequence[Run]
    """Runs of other agents in which it was at work."""
    questions: Sequence[str]
    """Ids of open questions about its calls, which were cancelled."""


def _all_of(list_page: Callable[..., ActivePage]) -> list[RunKey]:
    """Return all runs of a list, each once."""
    keys: list[RunKey] = []
    start: dict[str, str] | None = None
    while True:
        page = list_page(limit=_PAGE, start=start)
        keys += page.keys
        start = page.last
        if start is None:
            return list(dict.fromkeys(keys))


class RunControl:
    """Controls the runs of one owner at a time."""

    def __init__(
        self, store: Runs, *, executions: Executions, watchdog: Watchdog, clock: Clock, agents: Catalogue
    ) -> None:
        """Build the control; `agents` tell what they allow by now the runs that are resumed."""
        self._store = store
        self._agents = agents
        self._reader = RunReader(store)
        self._executions = executions
        self._watchdog = watchdog
        self._clock = clock

    def cancel(self, user_id: UserId, run_id: RunId, *, reason: str = "") -> Run:
        """Cancel a run, and return it as it is then: cancelled, or still running while its process stops it.

        A repeat changes nothing, and the first reason stays.

        Raises:
            NotFound: the user has no such run.
            RunHasEnded: the run has ended otherwise.
        """
        for _ in range(_TRIES):
            run = self._active(user_id, run_id, unless=RunStatus.CANCELLED)
            if run.status is RunStatus.CANCELLED:
                return run
            now = self._clock.now()
            if run.status is RunStatus.RUNNING and not self._store.wish(run.key, Wish.CANCEL, at=now, reason=reason):
                continue
            tail = self._tail_of_nobody(run, now)
            if tail is None:
                return self._active(user_id, run_id, unless=RunStatus.CANCELLED)
            first = self._store.wishes(run.key).get(Wish.CANCEL, reason)
            try:
                cancel_lost(self._store, tail, run, now, reason=first)
            except OwnershipLost:
                continue  # another process wrote first: it ended, paused or resumed the run, or takes it over
            free_place(self._store, self._executions, tail, at=now)
            wake_next(self._store, self._executions, ThreadKey(user_id, run.thread_id))
        return self._active(user_id, run_id, unless=RunStatus.CANCELLED)

    def pause(self, user_id: UserId, run_id: RunId) -> Run:
        """Pause a run, and return it as it is then: paused, or still running while its process stops it.

        A repeat changes nothing.

        Raises:
            NotFound: the user has no such run.
            RunHasEnded: the run has ended.
            RunIsQueued: the run waits for its turn.
        """
        for _ in range(_TRIES):
            run = self._active(user_id, run_id)
            now = self._clock.now()
            if run.status is RunStatus.QUEUED:
                raise RunIsQueued(run)
            if run.status is RunStatus.PAUSED:
                return run
            if not self._store.wish(run.key, Wish.PAUSE, at=now):
                continue
            tail = self._tail_of_nobody(run, now)
            if tail is None:
                return self._active(user_id, run_id)
            try:
                pause_lost(self._store, tail, run, now)
                free_place(self._store, self._executions, tail, at=now)
            except WishesChanged:
                if Wish.CANCEL in self._store.wishes(run.key):
                    self.cancel(user_id, run_id)
            except OwnershipLost:
                continue
        return self._active(user_id, run_id)

    def resume(self, user_id: UserId, run_id: RunId) -> Run:
        """Let a paused run go on in another process, or take back the wish to pause it, and return it, running.

        A repeat changes nothing.

        Raises:
            NotFound: the user has no such run.
            RunHasEnded: the run has ended, or was paused for too long and so is ended here.
        """
        for _ in range(_TRIES):
            run = self._active(user_id, run_id)
            if run.status is RunStatus.QUEUED:
                return run
            if run.status is RunStatus.PAUSED:
                if self._resume(run):
                    return self._active(user_id, run_id)
                continue
            self._store.withdraw(run.key, Wish.PAUSE)
            run = self._active(user_id, run_id)
            if run.status is RunStatus.RUNNING:
                if self._tail_of_nobody(run, self._clock.now()) is not None:
                    # Perhaps a request has resumed it that died before it asked for a process.
                    self._executions.request(run.key)
                return run
        return self._active(user_id, run_id)

    def stop_agent(self, user_id: UserId, agent_id: AgentId, *, reason: str = "") -> Stopped:
        """Stop an agent wherever it works for the user: its runs, its work within runs of others, and its questions.

        Of what began less than a second ago some may be missed, but for what the answer to a question began: the lists
        are eventually consistent. A run that ends by itself meanwhile is not returned.
        """
        own = _all_of(partial(self._store.active, user_id, agent_id))
        others = [key for key in _all_of(partial(self._store.with_work_of, user_id, agent_id)) if key not in own]
        now = self._clock.now()
        just_ended: list[RunKey] = []

        def end(key: RunKey) -> Run | None:
            try:
                return self.cancel(user_id, key.run_id, reason=reason)
            except (NotFound, RunHasEnded):
                just_ended.append(key)
                return None

        def tell(key: RunKey) -> Run | None:
            return self._store.run(key) if self._store.wish(key, AgentStop(agent_id), at=now, reason=reason) else None

        # Together, since each takes a few round trips of its own, and all of them must have heard within two seconds.
        with ThreadPoolExecutor(max(1, min(_AT_ONCE, len(own) + len(others)))) as threads:
            told, ended = threads.map(tell, others), threads.map(end, own)
            cancelled, within = (tuple(run for run in runs if run is not None) for runs in (ended, told))
        questions, begun = withdraw_questions(self._store, user_id, agent_id, just_ended=just_ended, at=now)
        for key in sorted(set(begun) - {*own, *others}):
            run = self._store.run(key)
            if run is not None and run.agent_id == agent_id:
                cancelled += tuple(each for each in [end(key)] if each is not None)
            else:
                within += tuple(each for each in [tell(key)] if each is not None)
        for thread in {each.thread for each in questions}:
            wake_next(self._store, self._executions, thread)  # a run of another agent that waited for an answer
        return Stopped(cancelled, within, [each.id for each in questions])

    def settled(self, run: Run, *, within_s: float) -> Run:
        """Wait, blocking, while a run runs; return it as it is when it does not any more, or after that time."""
        left_s = within_s
        while run.status in {RunStatus.QUEUED, RunStatus.RUNNING} and left_s > 0:
            time.sleep(_POLL_S)
            left_s -= _POLL_S
            run = self._reader.get(run.key.user_id, run.key.run_id)
        return run

    def _active(self, user_id: UserId, run_id: RunId, *, unless: RunStatus | None = None) -> Run:
        """Read a run that has not ended, or has ended with the status `unless`.

        Raises:
            NotFound, RunHasEnded: as `cancel`.
        """
        run = self._reader.get(user_id, run_id)
        if run.status not in ACTIVE and run.status is not unless:
            raise RunHasEnded(run)
        return run

    def _tail_of_nobody(self, run: Run, now: datetime) -> Segment | None:
        """Return the last segment of a run that no process executes; None: one does, or a newer release began it."""
        tail = self._store.tail(run.key)
        if tail is None or tail.terminal or run.engine_schema > ENGINE_SCHEMA:
            return None
        return tail if run.status is RunStatus.PAUSED or tail.is_expired(now) else None

    def _resume(self, run: Run) -> bool:
        """Resume a paused run, or end it when its time is over; False: another request was first, or it is ended."""
        now = self._clock.now()
        if end_expired(self._store, run, now):
            wake_next(self._store, self._executions, ThreadKey(run.key.user_id, run.thread_id))
            return False
        tail = self._store.tail(run.key)
        if tail is None:
            return False
        # Armed before the run runs: from then on it cannot be forgotten.
        self._watchdog.arm(run.key, delay=FIRST_LOOK, chain=tail.epoch + 1)
        try:
            resume_paused(self._store, tail, self._with_budgets_of_now(run), now)
        except OwnershipLost:
            return False
        self._executions.request(run.key)
        return True

    def _with_budgets_of_now(self, run: Run) -> Run:
        """Return a run that is to be resumed with what its agent allows by now; of a deleted one that stays."""
        from karma.runs.budgets import of_agent_now  # few requests resume a run

        try:
            agent = self._agents.get(run.agent_id) if run.agent_id is not None else None
        except NotFound:
            return run
        return run if agent is None else replace(run, budgets=of_agent_now(run, agent.spec))

"""Reads runs for their owners, for the API and the event stream."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import orjson

from karma.conversations.domain import Json, Message, ThreadKey, is_readable_id
from karma.core.errors import InvalidRequest, NotFound
from karma.core.ids import AgentId, RunId, UserId
from karma.core.paging import fitting
from karma.runs.domain import Run, RunKey, RunStatus, Segment
from karma.runs.events import CURRENT
from karma.runs.interrupts import Interrupt
from karma.runs.joining import Joined, join
from karma.runs.opening import MAX_SNAPSHOT_BYTES, shown
from karma.runs.ports import RunPage, Runs
from karma.runs.replay import read

Linked = Callable[[UserId, Sequence[Message]], Sequence[Message]]

MAX_OFFSET_ROWS = 1_000
"""Rows that pages by number reach at the most; cursors have no end."""
MAX_LOOKED_AT = 1_000
"""Runs that a page by status looks at, at the most: no index knows the status, and each is paid for."""
_AT_ONCE = 100


class Numbered(NamedTuple):
    """Runs of a page by number, and how many there are in all, or among those that were looked at."""

    runs: list[Run]
    total: int


class RunReader:
    """Reads runs of their owner."""

    def __init__(self, store: Runs, *, linked: Linked = lambda _, messages: messages) -> None:
        """Build the reader; `linked` replaces names of attachments in a user's messages by URLs."""
        self._store = store
        self._linked = linked

    def get(self, user_id: UserId, run_id: RunId) -> Run:
        """Read one run.

        Raises:
            NotFound: the user has no such run.
        """
        run = self._store.run(RunKey(user_id, run_id)) if is_readable_id(run_id) else None
        if run is None:
            raise NotFound(f"Run '{run_id[:128]}' not found")
        return run

    def interrupts(self, run: Run) -> list[Interrupt]:
        """Read the questions with which a run ended; no call where there are none."""
        if not run.interrupt_ids:
            return []
        found = self._store.interrupts(run.key.user_id, run.interrupt_ids)
        return [found[name] for name in run.interrupt_ids if name in found]

    def messages(self, run: Run) -> list[Json] | None:
        """Read the conversation of a run's branch, even of one that was not continued.

        Returns None when the run has none yet, or when it is larger than an answer may be.
        """
        if run.last_message < 0:
            return None
        thread = self._store.thread(ThreadKey(run.key.user_id, run.thread_id))
        if thread.is_deleted:
            return None
        found = [shown(message, CURRENT) for message in thread.conversation(run.last_message).messages]
        return found if len(orjson.dumps(found)) <= MAX_SNAPSHOT_BYTES else None

    def page(
        self,
        user_id: UserId,
        *,
        limit: int,
        start: dict[str, str] | None = None,
        agent_id: AgentId | None = None,
        statuses: Collection[RunStatus] = (),
        schedule_id: str = "",
    ) -> RunPage:
        """List runs, newest first; with an agent only those of it.

        With statuses or a schedule, those of them among the next `MAX_LOOKED_AT` runs: such a page may be shorter than
        `limit`, even empty, while `last` leads to more.
        """
        if not statuses and not schedule_id:
            return self._store.runs(user_id, limit=limit, start=start, agent_id=agent_id)

        def is_wanted(run: Run) -> bool:
            return (not statuses or run.status in statuses) and schedule_id in {"", run.schedule_id}

        found: list[Run] = []
        for _ in range(MAX_LOOKED_AT // _AT_ONCE):
            page = self._store.runs(user_id, limit=_AT_ONCE, start=start, agent_id=agent_id)
            found += [run for run in page.runs if is_wanted(run)]
            if len(found) > limit or (len(found) == limit and page.last is not None):
                return replace(page, runs=found[:limit], last=page.position(found[limit - 1]))
            start = page.last
            if start is None:
                break
        return replace(page, runs=found)

    def numbered(
        self,
        user_id: UserId,
        *,
        offset: int,
        limit: int,
        agent_id: AgentId | None = None,
        statuses: Collection[RunStatus] = (),
    ) -> Numbered:
        """List runs from a position on, newest first; the runs before it are read and paid for, too.

        With statuses, those that have one of them among the newest `MAX_OFFSET_ROWS`, all of which are read.

        Raises:
            InvalidRequest: INVALID_PAGE: the page ends beyond `MAX_OFFSET_ROWS`.
        """
        wanted = offset + limit
        if wanted > MAX_OFFSET_ROWS:
            raise InvalidRequest(
                f"Pages by number end at {MAX_OFFSET_ROWS} rows; go on with `cursor` of /api/v1/runs",
                code="INVALID_PAGE",
            )
        if not statuses:
            found = self._newest(user_id, wanted, agent_id)
            return Numbered(found[offset:], self.count(user_id, agent_id=agent_id))
        found = [run for run in self._newest(user_id, MAX_OFFSET_ROWS, agent_id) if run.status in statuses]
        return Numbered(found[offset:wanted], len(found))

    def _newest(self, user_id: UserId, wanted: int, agent_id: AgentId | None) -> list[Run]:
        found: list[Run] = []
        start: dict[str, str] | None = None
        while True:
            page = self._store.runs(user_id, limit=wanted - len(found), start=start, agent_id=agent_id)
            found += page.runs
            start = page.last
            if start is None or len(found) >= wanted:
                return found

    def count(self, user_id: UserId, *, agent_id: AgentId | None = None) -> int:
        """Count runs; those of an agent up to `MAX_OFFSET_ROWS`."""
        if agent_id is None:
            return self._store.count(user_id)
        return self._store.count_of_agent(user_id, agent_id, most=MAX_OFFSET_ROWS)

    def segments(self, user_id: UserId, run_id: RunId, *, after: int, limit: int) -> list[Segment]:
        """Read segments of a run above `after`; at most 1 MB as it is stored."""
        return read(self._store, RunKey(user_id, run_id), after=after, limit=limit, link=partial(self._linked, user_id))

    def joined(self, user_id: UserId, run_id: RunId) -> Joined:
        """Read what a client is sent first that joins a run and may hold any part of its conversation, or none.

        Raises:
            NotFound: the user has no such run.
        """
        key = RunKey(user_id, run_id)
        found = join(self._store, key, link=partial(self._linked, user_id)) if is_readable_id(run_id) else None
        if found is None:
            raise NotFound(f"Run '{run_id[:128]}' not found")
        return found

    def first_segments(self, user_id: UserId, run_id: RunId, *, after: int, limit: int) -> list[Segment]:
        """Read segments above `after` that fit into an answer; after the last one, the terminal event again.

        A client that reattaches at the end of a log so learns at once that the run has ended.
        """
        found = self.segments(user_id, run_id, after=after, limit=limit)
        if found or not after:
            return fitting(found, lambda segment: sum(len(data) + 1 for data in segment.events))
        tail = self._store.tail(RunKey(user_id, run_id))
        return [replace(tail, events=tail.events[-1:])] if tail is not None and tail.terminal else []

"""Reads runs for their owners, for the API and the event stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import orjson

from karma.conversations.domain import Json, Message, ThreadKey, is_readable_id
from karma.core.errors import InvalidRequest, NotFound
from karma.core.ids import AgentId, RunId, UserId
from karma.core.paging import fitting
from karma.runs.domain import Run, RunKey, Segment
from karma.runs.events import CURRENT
from karma.runs.opening import MAX_SNAPSHOT_BYTES, shown
from karma.runs.ports import RunPage, Runs
from karma.runs.replay import read

Linked = Callable[[UserId, Sequence[Message]], Sequence[Message]]

MAX_OFFSET_ROWS = 1_000
"""Rows that pages by number reach at the most; cursors have no end."""


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

    def messages(self, run: Run) -> list[Json] | None:
        """Read the conversation of a run's branch, even of one that was not continued.

        Returns None when the run has none yet, or when it is larger than an answer may be.
        """
        if run.last_message < 0:
            return None
        thread = self._store.thread(ThreadKey(run.key.user_id, run.thread_id))
        if thread.is_deleted:
            return None
        found = [shown(thread.messages[position], CURRENT) for position in thread.path_to(run.last_message)]
        return found if len(orjson.dumps(found)) <= MAX_SNAPSHOT_BYTES else None

    def page(
        self,
        user_id: UserId,
        *,
        limit: int,
        start: dict[str, str] | None = None,
        agent_id: AgentId | None = None,
    ) -> RunPage:
        """List runs, newest first; with an agent only those of it."""
        return self._store.runs(user_id, limit=limit, start=start, agent_id=agent_id)

    def numbered(self, user_id: UserId, *, offset: int, limit: int, agent_id: AgentId | None = None) -> list[Run]:
        """List runs from a position on, newest first; the runs before it are read and paid for, too.

        Raises:
            InvalidRequest: INVALID_PAGE: the page ends beyond `MAX_OFFSET_ROWS`.
        """
        wanted = offset + limit
        if wanted > MAX_OFFSET_ROWS:
            raise InvalidRequest(
                f"Pages by number end at {MAX_OFFSET_ROWS} rows; go on with `cursor` of /api/v1/runs",
                code="INVALID_PAGE",
            )
        found: list[Run] = []
        start: dict[str, str] | None = None
        while True:
            page = self._store.runs(user_id, limit=wanted - len(found), start=start, agent_id=agent_id)
            found += page.runs
            start = page.last
            if start is None or len(found) >= wanted:
                return found[offset:]

    def count(self, user_id: UserId, *, agent_id: AgentId | None = None) -> int:
        """Count runs; those of an agent up to `MAX_OFFSET_ROWS`."""
        if agent_id is None:
            return self._store.count(user_id)
        return self._store.count_of_agent(user_id, agent_id, most=MAX_OFFSET_ROWS)

    def segments(self, user_id: UserId, run_id: RunId, *, after: int, limit: int) -> list[Segment]:
        """Read segments of a run above `after`; at most 1 MB."""
        return read(self._store, RunKey(user_id, run_id), after=after, limit=limit, link=partial(self._linked, user_id))

    def first_segments(self, user_id: UserId, run_id: RunId, *, after: int, limit: int) -> list[Segment]:
        """Read segments above `after` that fit into an answer; after the last one, the terminal event again.

        A client that reattaches at the end of a log so learns at once that the run has ended.
        """
        found = self.segments(user_id, run_id, after=after, limit=limit)
        if found or not after:
            return fitting(found, lambda segment: sum(len(data) + 1 for data in segment.events))
        tail = self._store.tail(RunKey(user_id, run_id))
        return [replace(tail, events=tail.events[-1:])] if tail is not None and tail.terminal else []

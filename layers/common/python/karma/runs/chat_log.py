"""Reads a run's log as the events of Agio's chat, for pages by number.

Its stream tells the same events (chat.py); here the text that one segment holds is one event, and each event has the
time at which its segment was stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import orjson

from karma.conversations.domain import Message, ThreadKey, ToolCall
from karma.core.errors import InvalidRequest
from karma.runs.chat import Chat, ChatEvent, calls_in
from karma.runs.domain import LEASE, Run, Segment
from karma.runs.ports import Runs
from karma.runs.replay import read

MAX_READS = 8
"""Queries of up to 1 MB for a page: pages by number read the log from its beginning."""
_AT_ONCE = 1_000


class LoggedChatEvent(NamedTuple):
    """An event of Agio's chat, and when it was stored."""

    event: ChatEvent
    at: datetime


class ChatLogPage(NamedTuple):
    """Some events of a run, and how many it has."""

    events: list[LoggedChatEvent]
    total: int
    is_whole: bool
    """False: the log goes on behind what was read and counted."""


class ChatLog:
    """Reads logs of runs as events of Agio's chat."""

    def __init__(self, store: Runs) -> None:
        self._store = store

    def page(self, run: Run, *, offset: int, limit: int) -> ChatLogPage:
        """Read the events from a number on; the log is read from its beginning, up to about 8 MB.

        Raises:
            InvalidRequest: INVALID_PAGE: the page begins behind what is read.
        """
        time = _Time(run.created_at)
        chat = Chat(time, lambda: self._calls_of(run))
        found: list[LoggedChatEvent] = []
        after, is_whole = 0, False
        for _ in range(MAX_READS):
            segments = read(self._store, run.key, after=after, limit=_AT_ONCE, link=_unlinked)
            for segment in segments:
                time.pass_to(segment, run)
                found += [LoggedChatEvent(each, time.now()) for each in _joined(_of(segment, chat))]
            is_whole = not segments or segments[-1].terminal
            if is_whole:
                break
            after = segments[-1].n
        if not is_whole and offset >= len(found):
            raise InvalidRequest(
                f"Pages by number end behind {MAX_READS} MB of a log; go on with `after` of /api/v1/runs/{{id}}/events",
                code="INVALID_PAGE",
            )
        return ChatLogPage(found[offset : offset + limit], len(found), is_whole)

    def _calls_of(self, run: Run) -> list[ToolCall]:
        """Read the calls of a run's thread; a run makes those of another one where it was asked whether to."""
        thread = self._store.thread(ThreadKey(run.key.user_id, run.thread_id))
        return calls_in(thread.messages)


class _Time:
    """A clock that stands where a log is being read."""

    def __init__(self, begins: datetime) -> None:
        self._now = begins

    def now(self) -> datetime:
        """Return the moment at which the segment was stored."""
        return self._now

    def pass_to(self, segment: Segment, run: Run) -> None:
        """Go on to a segment; a lease that is nobody's tells no time, and stands at the ends of a log only."""
        if segment.terminal and run.finished_at is not None:
            self._now = run.finished_at
        elif segment.n > 1:
            self._now = max(self._now, segment.lease_until - LEASE)


def _unlinked(messages: Sequence[Message]) -> Sequence[Message]:
    """Leave the names of attachments as they are: the chat's events show none."""
    return messages


def _of(segment: Segment, chat: Chat) -> Iterator[ChatEvent]:
    for data in segment.events:
        yield from chat.take(orjson.loads(data))


def _joined(found: Iterator[ChatEvent]) -> Iterator[ChatEvent]:
    """Yield events with what was said in a row as one of them."""
    said = ""
    for event in found:
        if event.name == "content_delta":
            said += str(event.data["content"])
            continue
        if said:
            yield ChatEvent("content_delta", {"content": said})
            said = ""
        yield event
    if said:
        yield ChatEvent("content_delta", {"content": said})

"""Threads, live: what lists show of a thread, and that messages were added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from karma.core.happenings import ItemChange, text_in
from karma.core.ids import ThreadId, UserId
from karma.core.live import Channel, LiveSource, ObjectState, OwnersAlone, Update

if TYPE_CHECKING:
    from karma.conversations.domain import ThreadHead, ThreadKey


class LiveThreads(OwnersAlone):
    """Channels `thread:<id>`: the thread, and `messages:<id>`, a log whose pieces are read by the API."""

    permissions: Mapping[str, str] = {"thread": "thread:read"}

    def updates(self, change: ItemChange) -> Sequence[Update]:
        """See LiveSource."""
        match text_in(change.new, "type"):
            case "thread":
                return _thread_in(change)
            case "messages" if change.old is None:
                return _messages_in(change)
        return ()

    def states(self, channel: Channel, viewer: UserId, held: Mapping[str, int]) -> Sequence[ObjectState] | None:
        """See LiveSource; a Get and a Query."""
        from karma.conversations.domain import ThreadKey
        from karma.conversations.reading import last_position, read_head

        key = ThreadKey(viewer, ThreadId(channel.object_id))
        head = read_head(key)
        if head is None:
            return None
        last = last_position(key)
        after = held.get(f"messages:{key.thread_id}", -1)
        states = [_thread_state(head)]
        if last > after:
            states.append(_messages_state(key, last=last, prev=after, at=states[0].at))
        return states


def source() -> LiveSource:
    """Return what threads declare."""
    return LiveThreads()


def _channels(key: ThreadKey) -> tuple[Channel, Channel]:
    return Channel(key.user_id, "thread", key.thread_id), Channel(key.user_id, "user", key.user_id)


def _thread_in(change: ItemChange) -> Sequence[Update]:
    from karma.conversations.changes import thread_in

    row = thread_in(change.new)
    # A draft is stored as a thread that is deleted already: nobody has seen it.
    if row is None or (row.is_deleted and (change.old is None or text_in(change.old, "deleted_at"))):
        return ()
    return (Update(channels=_channels(row.head.key), state=_thread_state(row.head, deleted=row.is_deleted)),)


def _thread_state(head: ThreadHead, *, deleted: bool = False) -> ObjectState:
    from karma.threads.answers import thread_view

    view = thread_view(head)
    return ObjectState(
        name=f"thread:{head.key.thread_id}",
        version=head.version,
        at=view["updated_at"],
        ref=f"/threads/{view['name']}",
        data=None if deleted else {**view},
        deleted=deleted,
    )


def _messages_in(change: ItemChange) -> Sequence[Update]:
    from karma.conversations.changes import messages_in

    added = messages_in(change.new or {})
    if added is None:
        return ()
    state = _messages_state(added.key, last=added.last, prev=added.first - 1, at=added.at)
    return (Update(channels=_channels(added.key)[:1], state=state),)


def _messages_state(key: ThreadKey, *, last: int, prev: int, at: str) -> ObjectState:
    from karma.threads.domain import name_in_urls

    return ObjectState(
        name=f"messages:{key.thread_id}",
        version=last,
        prev=prev,
        at=at,
        ref=f"/threads/{name_in_urls(key.thread_id)}",
        data=None,
    )

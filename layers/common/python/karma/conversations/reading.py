"""Reads whole threads from the table `agents`."""

from __future__ import annotations

import time
from collections.abc import Iterator

from karma.conversations.domain import Message, Thread, ThreadHead, ThreadKey, TitleSource
from karma.conversations.items import (
    MESSAGES,
    MESSAGES_SK_CHARS,
    ConversationsItem,
    MessagesItem,
    ThreadItem,
    run_named,
    thread_pk,
)
from karma.conversations.stored import load_messages
from karma.core.clock import from_epoch_ms, parse_iso
from karma.core.dynamo.access import query
from karma.core.ids import AgentId, RunId, ThreadId, UserId

_READS = 3
_REREAD_PAUSE_S = 0.05


def read_thread(key: ThreadKey) -> Thread | None:
    """Read a thread as `read_whole`, without its head."""
    whole = read_whole(key)
    return None if whole is None else whole[1]


def read_whole(key: ThreadKey) -> tuple[ThreadHead | None, Thread] | None:
    """Read a thread with its messages, consistently, by one Query a megabyte.

    The head is None, and the thread empty, when it is absent or deleted.
    Returns None when the thread is being written, and each of three reads saw part of a write.
    """
    for pause_s in (*[_REREAD_PAUSE_S] * (_READS - 1), None):
        head, messages, forks = _read(key)
        if messages is not None:
            thread = Thread(
                key=key,
                messages=tuple(messages),
                next_message=len(messages),
                forks=forks,
                version=int(head.version) if head else 0,
                active_run_id=RunId(head.active_run_id) if head and head.active_run_id else None,
                last_run_id=run_named(head.last_run_id) if head else None,
                asks_title=head is None or may_ask_title(head),
                is_deleted=head is not None and bool(head.deleted_at),
            )
            return (None if head is None or thread.is_deleted else head_of(head)), thread
        if pause_s is not None:
            time.sleep(pause_s)
    return None


def _read(key: ThreadKey) -> tuple[ThreadItem | None, list[Message] | None, dict[int, int]]:
    """Read a thread's items; its messages are None when a part of a list is missing (a write was under way)."""
    head: ThreadItem | None = None
    lists: dict[str, list[MessagesItem]] = {}
    start = None
    while True:
        page = query(ConversationsItem, thread_pk(key), limit=1000, start=start, consistent=True)
        for item in page.items:
            if isinstance(item, ThreadItem):
                head = item
            elif isinstance(item, MessagesItem):
                lists.setdefault(item.sk[:MESSAGES_SK_CHARS], []).append(item)
        start = page.last
        if start is None:
            break
    messages: list[Message] = []
    forks: dict[int, int] = {}
    for parts in lists.values():
        # A Query is not isolated from a transaction: it may see some of its items.
        if any(int(part.parts) != len(parts) for part in parts):
            return head, None, forks
        if parts[0].after is not None:
            forks[len(messages)] = int(parts[0].after)
        messages.extend(load_messages(b"".join(part.messages for part in parts)))
    return head, messages, forks


def head_of(item: ThreadItem) -> ThreadHead:
    """Read a thread's item."""
    created_at = parse_iso(item.created_at or "")
    return ThreadHead(
        key=ThreadKey(UserId(item.user_id), ThreadId(item.thread_id)),
        title=item.title or "",
        title_from=TitleSource(item.title_from or TitleSource.WORDS),
        created_at=created_at,
        updated_at=parse_iso(item.updated_at) if item.updated_at else created_at,
        agent_id=AgentId(item.agent_id) if item.agent_id else None,
        active_run_id=RunId(item.active_run_id) if item.active_run_id else None,
        message_count=max(int(item.messages_begun), int(item.last_message) + 1),
        version=int(item.version),
        expires_at=from_epoch_ms(int(item.expires_at) * 1000) if item.expires_at else None,
    )


def may_ask_title(head: ThreadItem) -> bool:
    """Tell whether a model may be asked for a thread's title."""
    return not head.title_asked_at and (head.title_from or TitleSource.WORDS) == TitleSource.WORDS


def pieces_of(key: ThreadKey) -> Iterator[bytes]:
    """Yield what is stored of a thread's messages, one item after the other, also while they are being deleted."""
    start = None
    while True:
        begins = ConversationsItem.sk.startswith(MESSAGES)
        page = query(ConversationsItem, thread_pk(key), begins, limit=100, start=start, consistent=True)
        yield from (item.messages for item in page.items if isinstance(item, MessagesItem))
        start = page.last
        if start is None:
            return

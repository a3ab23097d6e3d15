"""Reads whole threads from the table `agents`."""

from __future__ import annotations

import time
from collections.abc import Iterator

import orjson

from karma.conversations.domain import (
    NOTHING_SPENT,
    MakingWay,
    Message,
    Thread,
    ThreadHead,
    ThreadKey,
    ThreadSpending,
    TitleSource,
    Turns,
)
from karma.conversations.items import (
    MESSAGES,
    MESSAGES_SK_CHARS,
    ConversationsItem,
    MessagesItem,
    ThreadItem,
    ThreadStateItem,
    head_key,
    run_named,
    thread_pk,
)
from karma.conversations.state import State, load_state
from karma.conversations.stored import load_messages
from karma.core.clock import from_epoch_ms, parse_iso
from karma.core.dynamo.access import get, query
from karma.core.ids import AgentId, RunId, ThreadId, UserId

_READS = 3
_REREAD_PAUSE_S = 0.05


def read_thread(key: ThreadKey) -> Thread | None:
    """Read a thread as `read_whole`, without its head."""
    whole = read_whole(key)
    return None if whole is None else whole[1]


def read_turns(key: ThreadKey) -> Turns:
    """Read whose turn it is in a thread, consistently; nobody's in one that is gone."""
    head = get(ThreadItem, head_key(key), consistent=True)
    if head is None or head.deleted_at:
        return Turns(None, ())
    return Turns(
        RunId(head.active_run_id) if head.active_run_id else None,
        tuple(map(RunId, head.queue or [])),
        tuple(orjson.loads(head.interrupts)) if head.interrupts else (),
        parse_iso(head.updated_at) if head.updated_at else None,
    )


def read_whole(key: ThreadKey) -> tuple[ThreadHead | None, Thread] | None:
    """Read a thread with its messages, consistently, by one Query a megabyte.

    The head is None, and the thread empty, when it is absent or deleted.
    Returns None when the thread is being written, and each of three reads saw part of a write.
    """
    for pause_s in (*[_REREAD_PAUSE_S] * (_READS - 1), None):
        head, messages, forks, state, stored_bytes = _read(key)
        if messages is not None:
            thread = Thread(
                key=key,
                messages=tuple(messages),
                next_message=len(messages),
                stored_bytes=stored_bytes,
                forks=forks,
                version=int(head.version) if head else 0,
                active_run_id=RunId(head.active_run_id) if head and head.active_run_id else None,
                last_run_id=run_named(head.last_run_id) if head else None,
                interrupts=tuple(orjson.loads(head.interrupts)) if head and head.interrupts else (),
                queue=tuple(map(RunId, (head.queue or []) if head else [])),
                making_way=_making_way(head),
                state=state,
                asks_title=head is None or may_ask_title(head),
                is_deleted=head is not None and bool(head.deleted_at),
                spending=NOTHING_SPENT if head is None else _spending(head),
                restored_to=_restored_to(head, len(messages)),
            )
            return (None if head is None or thread.is_deleted else head_of(head)), thread
        if pause_s is not None:
            time.sleep(pause_s)
    return None


def _read(key: ThreadKey) -> tuple[ThreadItem | None, list[Message] | None, dict[int, int], State | None, int]:
    """Read a thread's items, and the bytes of its messages.

    The messages are None when a part of a list is missing (a write was under way).
    """
    head: ThreadItem | None = None
    state: State | None = None
    lists: dict[str, list[MessagesItem]] = {}
    start = None
    while True:
        page = query(ConversationsItem, thread_pk(key), limit=1000, start=start, consistent=True)
        for item in page.items:
            if isinstance(item, ThreadItem):
                head = item
            elif isinstance(item, ThreadStateItem):
                state = load_state(item.data)
            elif isinstance(item, MessagesItem):
                lists.setdefault(item.sk[:MESSAGES_SK_CHARS], []).append(item)
        start = page.last
        if start is None:
            break
    messages: list[Message] = []
    forks: dict[int, int] = {}
    stored_bytes = 0
    for first in list(lists):
        parts = lists.pop(first)  # so that what is read leaves the memory as the messages come
        # A Query is not isolated from a transaction: it may see some of its items.
        if any(int(part.parts) != len(parts) for part in parts):
            return head, None, forks, state, 0
        if parts[0].after is not None:
            forks[len(messages)] = int(parts[0].after)
        added = b"".join(part.messages for part in parts)
        before = len(messages)
        messages.extend(load_messages(added))
        # Without the brackets of the list and the commas between its messages.
        stored_bytes += len(added) - (len(messages) - before) - 1
    return head, messages, forks, state, stored_bytes


def positions_of(item: MessagesItem) -> tuple[int, int] | None:
    """Return the first and last position of a list of messages; None: the item is a further part of one.

    Of a list in several parts only the first position is known from one of them.
    """
    if len(item.sk) > MESSAGES_SK_CHARS:
        return None
    first = int(item.sk.removeprefix(MESSAGES))
    return first, first + (len(orjson.loads(item.messages)) if int(item.parts) == 1 else 1) - 1


def read_head(key: ThreadKey) -> ThreadHead | None:
    """Read a thread without its messages, consistently; None: it is absent or deleted."""
    item = get(ThreadItem, head_key(key), consistent=True)
    return head_of(item) if item is not None and not item.deleted_at else None


def last_position(key: ThreadKey) -> int:
    """Return the position of a thread's last message, consistently, by one Query; -1: it has none.

    Of a list in several parts the first position.
    """
    newest = ConversationsItem.sk.startswith(MESSAGES)
    page = query(ConversationsItem, thread_pk(key), newest, limit=1, forward=False, consistent=True)
    for item in page.items:
        if isinstance(item, MessagesItem):
            found = positions_of(item)
            return found[1] if found else int(item.sk[:MESSAGES_SK_CHARS].removeprefix(MESSAGES))
    return -1


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
        last_run_id=run_named(item.last_run_id),
        interrupts=tuple(orjson.loads(item.interrupts)) if item.interrupts else (),
        spending=_spending(item),
        expires_at=from_epoch_ms(int(item.expires_at) * 1000) if item.expires_at else None,
    )


def _spending(item: ThreadItem) -> ThreadSpending:
    return ThreadSpending(
        tokens=int(item.spent_tokens),
        cost_micros=int(item.spent_micros),
        max_tokens=_whole(item.max_tokens),
        max_cost_micros=_whole(item.max_micros),
    )


def _making_way(head: ThreadItem | None) -> MakingWay | None:
    if head is None or not head.making_way_run_id or not head.making_way_at:
        return None
    return MakingWay(RunId(head.making_way_run_id), parse_iso(head.making_way_at))


def _restored_to(head: ThreadItem | None, size: int) -> int | None:
    """Return the position to which a thread was restored; None: it was not, or messages have been added since."""
    if head is None or _whole(head.restored_size) != size:
        return None
    return _whole(head.restored_to)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


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

"""Store of threads in the table `agents`, for their owners; items.py has the access patterns.

Runs write threads in their own transactions (transactional.py), and reading.py reads their messages.
"""

from __future__ import annotations

from karma.conversations.domain import ThreadHead, ThreadKey, ThreadPlace, TitleSource
from karma.conversations.items import HEAD, LISTED, ConversationsItem, ThreadItem, listed_sk, thread_pk, threads_pk
from karma.core.clock import parse_iso
from karma.core.dynamo.access import get, query
from karma.core.dynamo.items import Key
from karma.core.ids import AgentId, RunId, ThreadId, UserId


class ThreadRepository:
    """Threads over DynamoDB."""

    def get(self, key: ThreadKey) -> ThreadHead | None:
        """See Threads; one Get."""
        item = get(ThreadItem, Key(thread_pk(key), HEAD), consistent=True)
        return _head(item) if item else None

    def page(self, user_id: UserId, *, limit: int, below: ThreadPlace | None) -> list[ThreadHead]:
        """See Threads; one Query of the index, eventually consistent."""
        page = query(
            ConversationsItem,
            threads_pk(user_id),
            ConversationsItem.gsi1sk.startswith(LISTED),
            limit=limit,
            forward=False,
            start=None if below is None else _position(user_id, below),
            index=ConversationsItem.gsi1,
        )
        return [_head(item) for item in page.items if isinstance(item, ThreadItem)]


def _position(user_id: UserId, place: ThreadPlace) -> dict[str, str]:
    key = ThreadKey(user_id, place.thread_id)
    return {
        "pk": thread_pk(key),
        "sk": HEAD,
        "gsi1pk": threads_pk(user_id),
        "gsi1sk": listed_sk(key, place.at),
    }


def _head(item: ThreadItem) -> ThreadHead:
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
    )

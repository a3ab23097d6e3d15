"""Store of threads in the table `agents`, for their owners; items.py has the access patterns.

Runs write threads in their own transactions (transactional.py), and reading.py reads their messages.
"""

from __future__ import annotations

from datetime import datetime

from pynamodb.expressions.condition import Condition

from karma.conversations.domain import Thread, ThreadChange, ThreadHead, ThreadKey, ThreadPlace
from karma.conversations.items import (
    HEAD,
    LISTED,
    ConversationsItem,
    ThreadItem,
    ThreadRequestItem,
    head_key,
    listed_sk,
    thread_pk,
    threads_pk,
)
from karma.conversations.reading import head_of, read_head, read_whole
from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.access import query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists, NotFound, StaleVersion
from karma.core.ids import RunId, ThreadId, UserId
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import require_account


class ThreadRepository:
    """Threads over DynamoDB."""

    def get(self, key: ThreadKey) -> ThreadHead | None:
        """See Threads; one Get."""
        return read_head(key)

    def whole(self, key: ThreadKey) -> tuple[ThreadHead | None, Thread] | None:
        """See Threads; one Query a megabyte."""
        return read_whole(key)

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
        return [head_of(item) for item in page.items if isinstance(item, ThreadItem)]

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ThreadId | None:
        """See Threads; one Get."""
        made = noted(ThreadRequestItem, request_key(_requests_pk(user_id), request), request)
        return ThreadId(made) if made else None

    def create(self, head: ThreadHead, *, request: RepeatableRequest | None) -> None:
        """See Threads; a check and one item, two for a key."""
        key, now = head.key, iso(head.created_at)
        tx = Transaction()
        require_account(tx, key.user_id)
        if request is not None:
            record = ThreadRequestItem(*request_key(_requests_pk(key.user_id), request))
            note_request(tx, record, request, key.thread_id)
        item = ThreadItem(
            *head_key(key),
            user_id=key.user_id,
            thread_id=key.thread_id,
            title=head.title,
            title_from=head.title_from.value,
            last_run_id=RunId(""),
            created_at=now,
            updated_at=now,
            max_tokens=head.spending.max_tokens,
            max_micros=head.spending.max_cost_micros,
            gsi1pk=threads_pk(key.user_id),
            gsi1sk=listed_sk(key, now),
        )
        if head.expires_at is not None:
            item.expires_at = epoch_ms(head.expires_at) // 1000
        tx.put(item, on_fail=AlreadyExists("The thread exists, or did until it was deleted; take another id"))
        tx.commit()

    def change(self, key: ThreadKey, change: ThreadChange, *, version: int | None, at: datetime) -> ThreadHead:
        """See Threads; one update."""
        condition: Condition = ThreadItem.pk.exists() & ThreadItem.deleted_at.does_not_exist()
        condition &= ThreadItem.expires_at.does_not_exist() | (ThreadItem.expires_at > epoch_ms(at) // 1000)
        if version is not None:
            condition &= ThreadItem.version == version
        title = []
        if change.title is not None:
            title = [ThreadItem.title.set(change.title), ThreadItem.title_from.set(change.title_from.value)]
        limits = [
            attribute.remove() if most is None else attribute.set(most)
            for attribute, most in zip(
                (ThreadItem.max_tokens, ThreadItem.max_micros), change.limits or (), strict=False
            )
        ]
        try:
            return head_of(update(ThreadItem(*head_key(key)), [*title, *limits], condition))
        except ConditionFailed as exc:
            head = self.get(key)
            if head is None or head.is_over(at):
                raise NotFound("Thread not found") from exc
            raise StaleVersion(f"Thread has version {head.version}") from exc


def _requests_pk(user_id: UserId) -> str:
    return f"USER#{user_id}"


def _position(user_id: UserId, place: ThreadPlace) -> dict[str, str]:
    key = ThreadKey(user_id, place.thread_id)
    return {
        "pk": thread_pk(key),
        "sk": HEAD,
        "gsi1pk": threads_pk(user_id),
        "gsi1sk": listed_sk(key, place.at),
    }

"""Deletions of threads: the tombstone in a thread's place, and the item that says that something is left to do."""

from __future__ import annotations

from datetime import datetime

from karma.conversations.domain import ThreadDeletion, ThreadHead, ThreadKey
from karma.conversations.items import (
    SWEEP_PARTITION,
    ThreadDeletionItem,
    ThreadItem,
    deleted_pk,
    deletion_key,
    due_sk,
    head_key,
    listed_sk,
    run_named,
)
from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import get, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import query_work
from karma.core.errors import StaleVersion
from karma.core.ids import ThreadId, UserId


class ThreadDeletionRepository:
    """Deletions of threads over DynamoDB."""

    def begin(self, head: ThreadHead, *, at: datetime, due_at: datetime) -> None:
        """See ThreadDeletions; one transaction of two items."""
        key, now = head.key, iso(at)
        tx = Transaction()
        item = ThreadItem(*head_key(key))
        item.version = head.version
        actions = [
            ThreadItem.deleted_at.set(now),
            ThreadItem.gsi1pk.set(deleted_pk(key.user_id)),
            ThreadItem.gsi1sk.set(listed_sk(key, now)),
            ThreadItem.title.remove(),
            ThreadItem.title_from.remove(),
            ThreadItem.agent_id.remove(),
            ThreadItem.queue.remove(),
            ThreadItem.expires_at.remove(),
        ]
        stale = StaleVersion("The thread was changed at the same moment; try again")
        tx.update(item, actions, ThreadItem.deleted_at.does_not_exist(), locked=True, on_fail=stale)
        deletion = ThreadDeletionItem(
            *deletion_key(key),
            user_id=key.user_id,
            thread_id=key.thread_id,
            created_at=now,
            updated_at=now,
            gsi1pk=SWEEP_PARTITION,
            gsi1sk=due_sk(iso(due_at), key),
        )
        tx.put(deletion, on_fail=stale)
        tx.commit()

    def get(self, key: ThreadKey) -> ThreadDeletion | None:
        """See ThreadDeletions; two Gets."""
        item = get(ThreadDeletionItem, deletion_key(key), consistent=True)
        head = get(ThreadItem, head_key(key), consistent=True) if item else None
        if item is None or head is None:
            return None
        return _deletion(item)._replace(last_run_id=run_named(head.last_run_id))

    def is_deleted(self, key: ThreadKey) -> bool:
        """See ThreadDeletions; one Get."""
        head = get(ThreadItem, head_key(key), consistent=True)
        return head is not None and bool(head.deleted_at)

    def due(self, before: datetime, *, limit: int) -> list[ThreadDeletion]:
        """See ThreadDeletions; one Query, eventually consistent."""
        old_enough = ThreadDeletionItem.gsi1sk < iso(before)
        return query_work(ThreadDeletionItem, SWEEP_PARTITION, old_enough, _deletion, limit=limit).items

    def postpone(self, key: ThreadKey, *, due_at: datetime) -> bool:
        """See ThreadDeletions; one update."""
        actions = [ThreadDeletionItem.attempts.add(1), ThreadDeletionItem.gsi1sk.set(due_sk(iso(due_at), key))]
        try:
            update(ThreadDeletionItem(*deletion_key(key)), actions)
        except ConditionFailed:
            return False
        return True

    def finish(self, key: ThreadKey, *, forget_at: datetime) -> None:
        """See ThreadDeletions; one transaction of two items."""
        tx = Transaction()
        tx.delete(ThreadDeletionItem(*deletion_key(key)))
        forget = [ThreadItem.expires_at.set(epoch_ms(forget_at) // 1000), ThreadItem.active_run_id.remove()]
        tx.update(ThreadItem(*head_key(key)), forget, ThreadItem.deleted_at.exists())
        try:
            tx.commit()
        except ConditionFailed:
            return  # the account's deletion has removed the thread meanwhile


def _deletion(item: ThreadDeletionItem) -> ThreadDeletion:
    key = ThreadKey(UserId(item.user_id), ThreadId(item.thread_id))
    return ThreadDeletion(key, parse_iso(item.created_at or ""), int(item.attempts), None)

"""Deletes the items of threads."""

from __future__ import annotations

from collections.abc import Iterator

from karma.conversations.domain import ThreadKey
from karma.conversations.items import (
    DELETION,
    HEAD,
    ConversationsItem,
    deleted_pk,
    parse_thread_pk,
    thread_pk,
    threads_pk,
)
from karma.core.dynamo.partitions import empty, pages
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt


def empty_thread(key: ThreadKey, purge: PurgeAttempt) -> bool:
    """Delete a thread with all its messages; False when the time of `purge` ended before."""
    return empty(ConversationsItem, thread_pk(key), purge)


def empty_messages(key: ThreadKey, purge: PurgeAttempt) -> bool:
    """Delete a deleted thread's messages, not what says that it was deleted; False when the time of `purge` ended."""
    return empty(ConversationsItem, thread_pk(key), purge, keep={HEAD, DELETION})


def threads_of(user_id: UserId) -> Iterator[ThreadKey]:
    """Yield the threads of an account, deleted ones too; by the index, eventually consistent."""
    for partition in (threads_pk(user_id), deleted_pk(user_id)):
        for page in pages(ConversationsItem, partition, index=ConversationsItem.gsi1):
            yield from (parse_thread_pk(each.pk) for each in page)

"""Deletes the items of threads."""

from __future__ import annotations

from karma.conversations.domain import ThreadKey
from karma.conversations.items import ConversationsItem, thread_pk
from karma.core.dynamo.partitions import empty
from karma.core.purge import PurgeAttempt


def empty_thread(key: ThreadKey, purge: PurgeAttempt) -> bool:
    """Delete a thread with all its messages; False when the time of `purge` ended before."""
    return empty(ConversationsItem, thread_pk(key), purge)

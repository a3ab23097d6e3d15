"""Items of threads and their messages in the table `agents`, and their keys.

| item | pk | sk | index gsi1 |
|---|---|---|---|
| thread | THREAD#<user>#<thread> | HEAD | USER#<user>#THREADS / THREAD#<updated_at>#<thread> |
| messages from position n on | THREAD#<user>#<thread> | MSG#<n:08d> | |
| their next parts, when one item does not hold them | THREAD#<user>#<thread> | MSG#<n:08d>#<part:04d> | |

Thread ids may be the client's own, so the user is part of their keys: guessing or reusing an id never gives access to
another user's thread. The list needs no item of its own: the thread's is in the index by its last activity, which the
transactions that start and end a run write anyway. A thread from before there was a list gets there by its next run.
"""

from __future__ import annotations

from pynamodb.attributes import BinaryAttribute, NumberAttribute, UnicodeAttribute

from karma.conversations.domain import ThreadKey
from karma.core.dynamo.items import Item, TableMeta
from karma.core.ids import UserId

HEAD = "HEAD"
MESSAGES = "MSG#"
LISTED = "THREAD#"
MESSAGES_SK_CHARS = len(MESSAGES) + 8
PART_BYTES = 350_000
"""Bytes of an item's messages; it holds at most 400 KB, of which keys and attributes need some."""


def thread_pk(key: ThreadKey) -> str:
    """Return the partition of a thread and its messages."""
    return f"THREAD#{key.user_id}#{key.thread_id}"


def messages_sk(n: int, *, part: int = 0) -> str:
    """Return the sort key of the messages from position n on, or of a further part of them, which sorts after it."""
    return f"{MESSAGES}{n:08d}#{part:04d}" if part else f"{MESSAGES}{n:08d}"


def threads_pk(user_id: UserId) -> str:
    """Return the partition of the index with a user's threads."""
    return f"USER#{user_id}#THREADS"


def listed_sk(key: ThreadKey, at: str) -> str:
    """Return the sort key of a thread in the list, which sorts by the last activity, a moment in ISO 8601."""
    return f"{LISTED}{at}#{key.thread_id}"


class ConversationsItem(Item):
    """Base of the items of threads."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "agents"


class ThreadItem(ConversationsItem, discriminator="thread"):
    """A thread without its messages; `updated_at` is its last activity, the start or the end of a run."""

    user_id = UnicodeAttribute()
    thread_id = UnicodeAttribute()
    active_run_id = UnicodeAttribute(null=True)
    title = UnicodeAttribute(null=True)
    title_from = UnicodeAttribute(null=True)
    """Who gave it the title, as `TitleSource`; absent together with the title."""
    agent_id = UnicodeAttribute(null=True)
    """Agent of its newest run."""
    messages_begun = NumberAttribute(default=0)
    """Number of its messages when its newest run began, that run's own included."""
    last_message = NumberAttribute(default=-1)
    """Position of the last message of the branch of the run that ended last; -1: none has told it."""


class MessagesItem(ConversationsItem, discriminator="messages"):
    """Messages that were added together, or a part of them."""

    messages = BinaryAttribute(legacy_encoding=False)
    """JSON list, cut anywhere when it has several parts."""
    after = NumberAttribute(null=True)
    """Position of the message that the first one follows; absent: it is the one before it."""
    parts = NumberAttribute(default=1)
    """Number of items that have the list together."""

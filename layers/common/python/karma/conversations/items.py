"""Items of threads and their messages in the table `agents`, and their keys.

| item | pk | sk | index gsi1 |
|---|---|---|---|
| thread | THREAD#<user>#<thread> | HEAD | USER#<user>#THREADS / THREAD#<updated_at>#<thread> |
| deleted thread | THREAD#<user>#<thread> | HEAD | USER#<user>#DELETED / THREAD#<moment>#<thread> |
| its deletion, until that is finished | THREAD#<user>#<thread> | DELETION | SWEEP#THREADS / <due>#<user>#<thread> |
| thread made for an Idempotency-Key | USER#<user> | REQUEST#<token> | |
| state that its application shares | THREAD#<user>#<thread> | STATE | |
| messages from position n on | THREAD#<user>#<thread> | MSG#<n:08d> | |
| their next parts, when one item does not hold them | THREAD#<user>#<thread> | MSG#<n:08d>#<part:04d> | |

A draft, a copy of a conversation that a run is about to begin in, is stored as a deleted thread whose deletion is due.

Thread ids may be the client's own, so the user is part of their keys: guessing or reusing an id never gives access to
another user's thread. The list needs no item of its own: the thread's is in the index by its last activity, which the
transactions that start and end a run write anyway. A thread from before there was a list gets there by its next run.
"""

from __future__ import annotations

from pynamodb.attributes import BinaryAttribute, ListAttribute, NumberAttribute, UnicodeAttribute

from karma.conversations.domain import ThreadKey
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.packed import PackedAttribute
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import RunId, ThreadId, UserId

HEAD = "HEAD"
DELETION = "DELETION"
MESSAGES = "MSG#"
STATE = "STATE"
SWEEP_PARTITION = "SWEEP#THREADS"
LISTED = "THREAD#"
MESSAGES_SK_CHARS = len(MESSAGES) + 8
PART_BYTES = 350_000
"""Bytes of an item's messages; it holds at most 400 KB, of which keys and attributes need some."""


def thread_pk(key: ThreadKey) -> str:
    """Return the partition of a thread and its messages."""
    return f"THREAD#{key.user_id}#{key.thread_id}"


def parse_thread_pk(pk: str) -> ThreadKey:
    """Return the thread of a partition that `thread_pk` made; user ids contain no `#`."""
    _, user_id, thread_id = pk.split("#", 2)
    return ThreadKey(UserId(user_id), ThreadId(thread_id))


def messages_sk(n: int, *, part: int = 0) -> str:
    """Return the sort key of the messages from position n on, or of a further part of them, which sorts after it."""
    return f"{MESSAGES}{n:08d}#{part:04d}" if part else f"{MESSAGES}{n:08d}"


def threads_pk(user_id: UserId) -> str:
    """Return the partition of the index with a user's threads."""
    return f"USER#{user_id}#THREADS"


def deleted_pk(user_id: UserId) -> str:
    """Return the partition of the index with a user's deleted threads."""
    return f"USER#{user_id}#DELETED"


def head_key(key: ThreadKey) -> Key:
    """Return the key of a thread without its messages."""
    return Key(thread_pk(key), HEAD)


def deletion_key(key: ThreadKey) -> Key:
    """Return the key of a thread's deletion."""
    return Key(thread_pk(key), DELETION)


def due_sk(at: str, key: ThreadKey) -> str:
    """Return the sort key of a deletion of a thread, by the moment in ISO 8601 when it is due."""
    return f"{at}#{key.user_id}#{key.thread_id}"


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
    """Source of the title, a `TitleSource`; absent together with the title."""
    agent_id = UnicodeAttribute(null=True)
    """Agent of its newest run."""
    messages_begun = NumberAttribute(default=0)
    """Number of its messages when its newest run began, that run's own included."""
    last_message = NumberAttribute(default=-1)
    """Position of the last message of the branch of the run that ended last; -1: none has told it."""

    title_asked_at = UnicodeAttribute(null=True)
    """Moment at which a model was asked for a title, which it is once."""
    making_way_run_id = UnicodeAttribute(null=True)
    """Its run that a request wants to begin in the place of; absent: none, or another run has begun since."""
    making_way_at = UnicodeAttribute(null=True)
    """Moment at which that request said so last."""
    queue: ListAttribute[str] = ListAttribute(null=True)
    """Ids of runs that wait for their turn, texts; absent: none has."""
    last_run_id = UnicodeAttribute(null=True)
    """Its newest run; "": it has had none; absent in threads from before runs named the one before them."""
    interrupts = UnicodeAttribute(null=True)
    """JSON list of ids: the questions of its runs that are open; absent: none is."""
    restored_to = NumberAttribute(null=True)
    """Position behind which its owner has it go on, while it has as many messages as `restored_size` says."""
    restored_size = NumberAttribute(null=True)
    spent_tokens = NumberAttribute(default=0)
    """Tokens that its ended runs have used."""
    spent_micros = NumberAttribute(default=0)
    """Cost of these, in micro-dollars."""
    max_tokens = NumberAttribute(null=True)
    max_micros = NumberAttribute(null=True)
    deleted_at = UnicodeAttribute(null=True)
    """The item says only that the thread was deleted, so that nothing begins under its id."""


class ThreadDeletionItem(ConversationsItem, discriminator="thread_deletion"):
    """A deletion that is not finished; `created_at` is the moment of its request."""

    user_id = UnicodeAttribute()
    thread_id = UnicodeAttribute()
    attempts = NumberAttribute(default=0)


class ThreadRequestItem(RequestAttributes, ConversationsItem, discriminator="thread_request"):
    """The thread that a request with an Idempotency-Key made."""


class ThreadStateItem(ConversationsItem, discriminator="thread_state"):
    """The state that a thread's application shares with it; absent while that is empty."""

    data = BinaryAttribute(legacy_encoding=False)
    """As `karma.conversations.state.dump_state` makes it."""


class MessagesItem(ConversationsItem, discriminator="messages"):
    """Messages that were added together, or a part of them."""

    messages = PackedAttribute()
    """JSON list, cut anywhere when it has several parts."""
    after = NumberAttribute(null=True)
    """Position of the message that the first one follows; absent: it is the one before it."""
    parts = NumberAttribute(default=1)
    """Number of items that have the list together."""


def run_named(text: str | None) -> RunId | None:
    """Return the run that an attribute names, "" for none; None: the attribute is absent."""
    return None if text is None else RunId(text)

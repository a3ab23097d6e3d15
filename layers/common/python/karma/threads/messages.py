"""Messages of queues that name a thread."""

from __future__ import annotations

import orjson

from karma.conversations.domain import ThreadKey
from karma.core.errors import ValidationFailed
from karma.core.ids import ThreadId, UserId


def thread_message(key: ThreadKey) -> str:
    """Return the message that names a thread."""
    return orjson.dumps({"user_id": key.user_id, "thread_id": key.thread_id}).decode()


def read_message(body: str) -> ThreadKey:
    """Read a message that `thread_message` made.

    Raises:
        ValidationFailed: the body is no such message.
    """
    try:
        data = orjson.loads(body)
        user_id, thread_id = data["user_id"], data["thread_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ValidationFailed.of("body", "does not name a thread") from None
    if not (isinstance(user_id, str) and isinstance(thread_id, str)):
        raise ValidationFailed.of("body", "does not name a thread")
    return ThreadKey(UserId(user_id), ThreadId(thread_id))

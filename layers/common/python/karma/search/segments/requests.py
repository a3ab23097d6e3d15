"""Messages that ask for segments."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import orjson

from karma.core.ids import UserId, is_id


class Queue(Protocol):
    """Queue of the builder."""

    def send(self, body: str) -> None:
        """Enqueue a message.

        Raises:
            QueueUnavailable: the queue does not answer.
        """
        ...


class SegmentRequest(NamedTuple):
    """Asks for the segment of an account."""

    owner: UserId
    instead_of: str
    """The segment that it replaces; "": there is none."""


class QueuedRequests:
    """Asks the builder by its queue; see SegmentRequests."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def ask(self, owner: UserId, *, instead_of: str) -> None:
        """See SegmentRequests."""
        self._queue.send(orjson.dumps({"user_id": owner, "instead_of": instead_of}).decode())


def read_message(body: str) -> SegmentRequest:
    """Read a message that `QueuedRequests` sent.

    Raises:
        ValueError: the body is something else.
    """
    match orjson.loads(body):
        case {"user_id": str(owner), "instead_of": str(before)} if is_id(owner) and (not before or is_id(before)):
            return SegmentRequest(UserId(owner), before)
    raise ValueError("names no account")

"""Rows of threads as the stream of their table brings them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from karma.conversations.domain import ThreadHead, ThreadKey
from karma.conversations.items import MessagesItem, ThreadItem, parse_thread_pk
from karma.conversations.reading import head_of, positions_of
from karma.core.dynamo.items import Item


class ThreadRow(NamedTuple):
    """A thread's row, which says also that it was deleted."""

    head: ThreadHead
    is_deleted: bool


class AddedMessages(NamedTuple):
    """Positions of messages that were added together."""

    key: ThreadKey
    first: int
    last: int
    at: str


def thread_in(image: Mapping[str, Any] | None) -> ThreadRow | None:
    """Return the thread whose row an item's image is, in DynamoDB's JSON; None: it is something else's, or absent."""
    item = Item.from_raw_data(dict(image)) if image else None
    return ThreadRow(head_of(item), item.deleted_at is not None) if isinstance(item, ThreadItem) else None


def messages_in(image: Mapping[str, Any]) -> AddedMessages | None:
    """Return the messages of an item's image; None: it has none, or a further part of a list."""
    item = Item.from_raw_data(dict(image))
    positions = positions_of(item) if isinstance(item, MessagesItem) else None
    return None if positions is None else AddedMessages(parse_thread_pk(item.pk), *positions, item.created_at or "")

"""Lists of items that a sweep works through; an unreadable item never keeps a sweep from those that follow."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pynamodb.expressions.condition import Condition

from karma.core.clock import iso
from karma.core.dynamo.failures import storage_errors
from karma.core.dynamo.items import Gsi1, Item, Key, connection_of
from karma.core.observability import count, logger

M = TypeVar("M", bound=Item)
R = TypeVar("R")

PARTS: Final = 4
"""Partitions of the index in which what is due of one kind stands, where it may be much."""


class DuePlace(NamedTuple):
    """The place of an item in a sweep's list."""

    kind: type[Item]
    key: Key
    due_at: str
    """Its sort key of the index, a moment and a name."""


class DueItems(list[R]):
    """Items of a sweep, each with its place in the list, by which it can be put off."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[DuePlace] = []

    def add(self, page: Work[R]) -> None:
        """Add a page of items with their places."""
        self += page.items
        self.places += page.items.places


class Work(NamedTuple, Generic[R]):
    """One page of a sweep's items; `last` is the start of the next page, None at the end."""

    items: DueItems[R]
    last: dict[str, str] | None


def due_pk(kind: str, name: str) -> str:
    """Return the partition of the index in which something of a kind, such as `ALARMS`, is due."""
    return f"{kind}#DUE#{zlib.crc32(name.encode()) % PARTS}"


def due_partitions(kind: str) -> Iterator[str]:
    """Yield the partitions of the index in which anything of a kind is due."""
    return (f"{kind}#DUE#{part}" for part in range(PARTS))


def due_sk(moment: datetime, name: str) -> str:
    """Return the sort key of the index for what is due at a moment."""
    return f"{iso(moment)}#{name}"


def query_work(
    kind: type[M],
    pk: str,
    range_condition: Condition,
    read: Callable[[M], R | None],
    *,
    limit: int,
    start: dict[str, str] | None = None,
) -> Work[R]:
    """Run one Query call on the index, and read each item by itself.

    Args:
        kind: type of the items; items of other types are left out.
        pk: partition of the index.
        range_condition: condition on its sort key.
        read: converts an item, None to leave it out; TypeError and ValueError mean that the item's attributes are not
            those of its type. It is then logged by its key, counted and left out.
        limit: items read at the most.
        start: `last` of the page before.
    """
    attribute_start: Any = {name: {"S": text} for name, text in start.items()} if start else None
    with storage_errors():
        answer = connection_of(kind).query(
            pk,
            range_key_condition=range_condition,
            index_name=Gsi1.Meta.index_name,
            limit=limit,
            exclusive_start_key=attribute_start,
        )
    found: DueItems[R] = DueItems()
    for raw in answer["Items"]:
        try:
            item: Item = Item.from_raw_data(raw)
            result = read(item) if isinstance(item, kind) else None
        except (TypeError, ValueError) as exc:
            logger.error("item.unreadable", pk=raw["pk"]["S"], sk=raw["sk"]["S"], cause=type(exc).__name__)
            count("ItemUnreadable")
            continue
        if result is not None:
            found.append(result)
            found.places.append(DuePlace(kind, Key(raw["pk"]["S"], raw["sk"]["S"]), raw["gsi1sk"]["S"]))
    last = answer.get("LastEvaluatedKey")
    return Work(found, {name: value["S"] for name, value in last.items()} if last else None)


def put_off(place: DuePlace, *, until: datetime) -> None:
    """Move an item behind what is due, unless it has moved since it was read: one Update; its version stays.

    Raises:
        ConditionFailed: it has moved, or is no longer listed.
    """
    kind, key = place.kind, place.key
    name = place.due_at.partition("#")[2]
    with storage_errors():
        connection_of(kind).update_item(
            key.pk,
            range_key=key.sk,
            actions=[kind.gsi1sk.set(due_sk(until, name))],
            condition=kind.gsi1sk == place.due_at,
        )

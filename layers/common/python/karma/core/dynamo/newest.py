"""Pages of a list, newest first, over one partition or over several that are read as one list.

A list has several partitions where one would take too many writes, or where each has the items of one filter value.
Sort keys begin with the moment in ISO 8601 and are unique over all partitions, so a page starts below the sort key
at which the one before ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from pynamodb.expressions.condition import Condition

from karma.core.dynamo.failures import storage_errors
from karma.core.dynamo.items import Gsi1, Item, connection_of

M = TypeVar("M", bound=Item)

START, END = "0", "~"
"""Texts that sort before and after every moment."""
_ROUNDS = 5
_MIN_READ = 100


class Newest(NamedTuple, Generic[M]):
    """One page; `below` is the start of the next page, None at the end."""

    items: list[M]
    below: str | None


def newest(
    kind: type[M],
    partitions: Sequence[str],
    *,
    limit: int,
    prefix: str = "",
    since: str = START,
    below: str = END,
    index: bool = False,
    filter_condition: Condition | None = None,
    drops_few: bool = False,
) -> Newest[M]:
    """Read a page, eventually consistent from an index, strongly from the table.

    With a filter a page may hold fewer than `limit`, even none, and others follow: one call reads each partition at
    most five times.

    Args:
        kind: type of the listed items; items of other types are left out.
        partitions: partition keys, of the index with `index`.
        limit: items on the page at the most.
        prefix: text of the sort keys before the moment.
        since: the oldest moment, inclusive.
        below: start of the page, exclusive: a moment, or `below` of the page before.
        index: reads the index gsi1, not the table.
        filter_condition: drops items after they were read and paid for.
        drops_few: the filter lets nearly all items through, so that no more are read at once than are shown.
    """
    found: list[M] = []
    read = limit + 1 if filter_condition is None or drops_few else max(limit + 1, _MIN_READ)
    for _ in range(_ROUNDS):
        if below <= since:
            return Newest(found, None)
        pages = [
            _page(kind, each, (prefix + since, prefix + below), read, filter_condition, index=index)
            for each in partitions
        ]
        # Below the highest sort key at which a partition's page ended, that partition may have items not read yet.
        cut = max((last for _, last in pages if last is not None), default="")
        ready = [
            (key, item) for items, _ in pages for key, item in items if cut <= key and key.removeprefix(prefix) < below
        ]
        found += [item for _, item in sorted(ready, key=lambda pair: pair[0], reverse=True)]
        if len(found) > limit:
            found = found[:limit]
            return Newest(found, _sort_key(found[-1], index=index).removeprefix(prefix))
        if not cut:
            return Newest(found, None)
        below = cut.removeprefix(prefix)
        if len(found) == limit:
            break
    return Newest(found, below)


def newest_kept(kind: type[M], pk: str, *, limit: int, prefix: str, after: str, now_s: float) -> Newest[M]:
    """Read a page of one partition without those whose `expires_at` is over at `now_s`, which TTL removes days late.

    `after` is `below` of the page before; "" is the first page.
    """
    return newest(
        kind,
        [pk],
        limit=limit,
        prefix=prefix,
        below=after or END,
        filter_condition=kind.expires_at > int(now_s),
        drops_few=True,
    )


def _page(
    kind: type[M], pk: str, between: tuple[str, str], limit: int, filter_condition: Condition | None, *, index: bool
) -> tuple[list[tuple[str, M]], str | None]:
    sort = kind.gsi1sk if index else kind.sk
    with storage_errors():
        # Not PynamoDB's iterator, which goes on until a filter has let `limit` items through.
        answer: dict[str, Any] = connection_of(kind).query(
            pk,
            range_key_condition=sort.between(*between),
            filter_condition=filter_condition,
            index_name=Gsi1.Meta.index_name if index else None,
            consistent_read=not index,
            scan_index_forward=False,
            limit=limit,
        )
    items: list[Item] = [Item.from_raw_data(raw) for raw in answer["Items"]]
    last = answer.get("LastEvaluatedKey")
    pairs = [(_sort_key(item, index=index), item) for item in items if isinstance(item, kind)]
    return pairs, last["gsi1sk" if index else "sk"]["S"] if last else None


def _sort_key(item: Item, *, index: bool) -> str:
    return str(item.gsi1sk if index else item.sk)

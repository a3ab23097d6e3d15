"""Reads and conditional writes of single items: the only calls that repositories make, besides `Transaction`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.core.dynamo.failures import storage_errors
from karma.core.dynamo.items import Gsi1, Item, Key, base_of, connection_of

M = TypeVar("M", bound=Item)
W = TypeVar("W", bound=Item)
T = TypeVar("T")


class Page(NamedTuple, Generic[M]):
    """One page of a query; `last` is the start of the next page, None at the end."""

    items: list[M]
    last: dict[str, str] | None


def get(kind: type[M], key: Key, *, consistent: bool = False) -> M | None:
    """Read one item; None when it is absent or the item under the key is of another type."""
    with storage_errors():
        data = connection_of(kind).get_item(key.pk, range_key=key.sk, consistent_read=consistent).get("Item")
    if not data:
        return None
    found: Item = Item.from_raw_data(data)
    return found if isinstance(found, kind) else None


def batch_get(kind: type[M], keys: Sequence[Key], *, consistent: bool = False) -> dict[Key, M]:
    """Read up to 100 items in one call, more in several; absent ones are left out."""
    with storage_errors():
        connection_of(kind)
        found = kind.batch_get([(key.pk, key.sk) for key in keys], consistent_read=consistent)
        return {item.key: item for item in found}


def put(item: Item, condition: Condition | None = None) -> None:
    """Write an item under its version lock: a new one must not exist, a loaded one must be unchanged.

    Raises:
        ConditionFailed: a new item exists already, a loaded one was changed, or `condition` is false.
        PayloadTooLarge: the item has more than 400 KB.
    """
    with storage_errors(item.get_save_kwargs_from_instance):
        connection_of(type(item))
        item.save(condition)


def update(item: M, actions: Iterable[Action], condition: Condition | None = None, *, locked: bool = False) -> M:
    """Change attributes of one item and return it as stored after the change.

    Without `condition` the item must exist. `locked` also requires the version that `item` was loaded with; either
    way the version goes up by one.

    Raises:
        ConditionFailed: the item does not exist, was changed (`locked`), or `condition` is false.
        PayloadTooLarge: the item would have more than 400 KB.
    """
    actions = list(actions)
    with storage_errors(lambda: actions):
        connection_of(type(item))
        if not locked:
            item.count_versions_from_stored()
        item.update(
            actions=actions,
            condition=type(item).pk.exists() if condition is None else condition,
            add_version_condition=locked,
        )
    return item


def upsert(item: M, actions: Iterable[Action], condition: Condition | None = None) -> M:
    """Change attributes as `update` does, and create the item when it is absent and `condition` allows that."""
    actions = [*type(item).identity_actions(), *actions]
    with storage_errors(lambda: actions):
        connection_of(type(item))
        item.count_versions_from_stored()
        item.update(actions=actions, condition=condition, add_version_condition=False)
    return item


def delete(item: Item, condition: Condition | None = None, *, locked: bool = False) -> None:
    """Delete an item; deleting an absent one succeeds unless `condition` says otherwise.

    Raises:
        ConditionFailed: `condition` is false, or `locked` is set and the item has changed since it was loaded.
    """
    with storage_errors():
        connection_of(type(item))
        item.delete(condition, add_version_condition=locked)


def count(
    kind: type[Item], pk: str, range_condition: Condition | None = None, *, most: int, index: Gsi1 | None = None
) -> int:
    """Count items by one Query call, up to `most` of them or 1 MB; each costs as much as reading it."""
    with storage_errors():
        # Not PynamoDB's own `count`, which goes on past any limit.
        answer = connection_of(kind).query(
            pk,
            range_key_condition=range_condition,
            index_name=None if index is None else index.Meta.index_name,
            limit=most,
            select="COUNT",
        )
    return int(answer["Count"])


def query(
    kind: type[M],
    pk: str,
    range_condition: Condition | None = None,
    *,
    limit: int,
    forward: bool = True,
    start: dict[str, str] | None = None,
    consistent: bool = False,
    index: Gsi1 | None = None,
    filter_condition: Condition | None = None,
) -> Page[M]:
    """Query a table, or its index: one call of up to 1 MB, or, where items are filtered, as many as fill the page.

    Args:
        kind: the table's base class for items of several types, or one type, which filters after reading.
        pk: partition key, of the index when one is given.
        range_condition: condition on the sort key.
        limit: items returned at the most.
        forward: ascending by sort key.
        start: `last` of the page before.
        consistent: strongly consistent; not possible on an index.
        index: `kind.gsi1` as declared on the table's base.
        filter_condition: drops items after they were read and paid for.
    """
    attribute_start: Any = {name: {"S": text} for name, text in start.items()} if start else None
    with storage_errors():
        connection_of(kind)
        source: Any = kind if index is None else index
        result = source.query(
            pk,
            range_key_condition=range_condition,
            filter_condition=filter_condition,
            consistent_read=consistent,
            scan_index_forward=forward,
            limit=limit,
            page_size=limit,
            last_evaluated_key=attribute_start,
        )
        items = list(result)
    last = result.last_evaluated_key
    return Page(items, {name: value["S"] for name, value in last.items()} if last else None)


def query_up_to(
    limit: int,
    kind: type[M],
    pk: str,
    range_condition: Condition,
    *,
    wanted: type[W],
    read: Callable[[W], T],
    forward: bool,
    start: dict[str, str] | None,
    index: Gsi1 | None = None,
) -> list[T]:
    """Query until `limit` items of the wanted type are found or there is none left, and read each; a call a megabyte.

    `start` is the whole key behind which the list goes on, of the index as well when one is given; the other arguments
    are those of `query`.
    """
    found: list[T] = []
    while len(found) < limit:
        page = query(kind, pk, range_condition, limit=limit - len(found), forward=forward, start=start, index=index)
        found += [read(item) for item in page.items if isinstance(item, wanted)]
        start = page.last
        if start is None:
            break
    return found


def query_by_id(
    kind: type[W], least: Key, after: str, read: Callable[[W], T], *, limit: int, forward: bool = False
) -> list[T]:
    """Read a page of the items of one type whose sort keys end with their ids, which is their order by age.

    One Query a megabyte, eventually consistent.

    Args:
        kind: type of the items; others in between are left out.
        least: key of the item with the id "", as the function that makes such keys returns it.
        after: id behind which the page begins; "" is the first page.
        read: converts an item.
        limit: items on the page at the most.
        forward: oldest first.
    """
    table = base_of(kind)
    return query_up_to(
        limit,
        table,
        least.pk,
        table.sk.startswith(least.sk),
        wanted=kind,
        read=read,
        forward=forward,
        start=Key(least.pk, f"{least.sk}{after}")._asdict() if after else None,
    )

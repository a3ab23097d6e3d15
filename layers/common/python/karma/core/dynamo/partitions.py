"""Deletes whole partitions, page by page, by keys alone; the types of the items need not be known."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from karma.core.dynamo.failures import storage_errors
from karma.core.dynamo.items import Gsi1, Item, Key, connection_of
from karma.core.errors import StorageThrottled

if TYPE_CHECKING:
    from karma.core.purge import PurgeAttempt

_BATCH = 25
"""DynamoDB's limit on one BatchWriteItem."""
_PAGE = 100
_TRIES = 5


def pages(
    table: type[Item], pk: str, *, prefix: str = "", index: Gsi1 | None = None, size: int = _PAGE
) -> Iterator[list[Key]]:
    """Yield the keys of a partition, one Query a page of `size`; strongly consistent, except from an index."""
    sort_key = table.sk if index is None else table.gsi1sk
    start: Any = None
    while True:
        with storage_errors():
            answer = connection_of(table).query(
                pk,
                range_key_condition=sort_key.startswith(prefix) if prefix else None,
                attributes_to_get=["pk", "sk"],
                consistent_read=index is None,
                index_name=None if index is None else index.Meta.index_name,
                exclusive_start_key=start,
                limit=size,
            )
        yield [Key(item["pk"]["S"], item["sk"]["S"]) for item in answer["Items"]]
        start = answer.get("LastEvaluatedKey")
        if not start:
            return


def delete_keys(table: type[Item], keys: Sequence[Key]) -> None:
    """Delete items by key, 25 a call; absent ones count as deleted.

    Raises:
        StorageThrottled: DynamoDB did not process all deletes; some items are left.
    """
    for at in range(0, len(keys), _BATCH):
        left: list[Any] = [{"pk": {"S": key.pk}, "sk": {"S": key.sk}} for key in keys[at : at + _BATCH]]
        for _ in range(_TRIES):
            with storage_errors():
                answer = connection_of(table).batch_write_item(delete_items=left)
            unprocessed = answer.get("UnprocessedItems", {}).get(table.Meta.table_name, [])
            left = [request["DeleteRequest"]["Key"] for request in unprocessed]
            if not left:
                break
        else:
            raise StorageThrottled("The database is busy; try again")


def empty(
    table: type[Item],
    pk: str,
    purge: PurgeAttempt,
    *,
    prefix: str = "",
    index: Gsi1 | None = None,
    keep: Collection[str] = (),
) -> bool:
    """Delete a partition's items except those with the sort keys of `keep`; False when `purge`'s time ended before."""
    for page in pages(table, pk, prefix=prefix, index=index):
        if purge.over():
            return False
        delete_keys(table, [key for key in page if key.sk not in keep])
    return True

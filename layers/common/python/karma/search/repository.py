"""Rows in the table `search`; access patterns are in docs/adr/0058-search.md.

| item | pk | sk |
|---|---|---|
| row of an object, or its tombstone | USER#<user> | ROW#<created ms:013d>#<type>#<id> |
| head: number of changes of the rows | USER#<user> | HEAD |

Rows sort by when their objects were made, so that the newest of a large account are one range. They are read as
DynamoDB sends them: PynamoDB takes several times as long for thousands of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.core.clock import epoch_ms
from karma.core.dynamo.access import get
from karma.core.dynamo.failures import ConditionFailed, storage_errors
from karma.core.dynamo.items import Item, Key, TableMeta, connection_of
from karma.core.dynamo.partitions import delete_keys, empty
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import Conflict
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.identity.transactional import AccountGone, require_account
from karma.search.domain import MAX_TEXT_CHARS, SearchRow
from karma.search.ports import NewestRows, StampedChange

TOMBSTONE_KEPT: Final = timedelta(days=15)
"""A stream keeps records for a day, a queue of failures for fourteen."""
_KEPT_S: Final = int(TOMBSTONE_KEPT.total_seconds())
_ROW: Final = "ROW#"
_HEAD: Final = "HEAD"
_SEQUENCE_DIGITS: Final = 40
"""DynamoDB documents sequence numbers of streams as 21 to 40 digits; padded, they compare as text."""
_ROWS_A_TRANSACTION: Final = 90
_MAX_NAME_CHARS: Final = 255


class _NoHead(Conflict):
    """The owner has no head yet, or none any more."""


class SearchItem(Item):
    """Base of the items of search."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "search"


class SearchRowItem(SearchItem, discriminator="search_row"):
    """A row; without `row` it is a tombstone."""

    row = UnicodeAttribute(null=True)
    """JSON list: name, code, tags, text, status, when it was changed in milliseconds since 1970."""
    sequence = UnicodeAttribute()
    changed_ms = NumberAttribute()


class SearchHeadItem(SearchItem, discriminator="search_head"):
    """Number of changes of an owner's rows."""

    changes = NumberAttribute(default=0)


def owner_pk(owner: UserId) -> str:
    """Return the partition of an owner's rows."""
    return f"USER#{owner}"


def row_key(key: SearchKey) -> Key:
    """Return the key of a row."""
    return Key(owner_pk(key.owner), f"{_from(key.created_ms)}#{key.type}#{key.id}")


def parse_row_sk(owner: UserId, sk: str) -> SearchKey:
    """Return the row of a sort key that `row_key` made; types contain no `#`, ids of clients may."""
    _, created_ms, kind, found = sk.split("#", 3)
    return SearchKey(owner, kind, found, int(created_ms))


def head_key(owner: UserId) -> Key:
    """Return the key of an owner's head."""
    return Key(owner_pk(owner), _HEAD)


class SearchRepository:
    """Rows over DynamoDB."""

    name = "search"
    """Name of its step in the deletion of an account."""

    def changes(self, owner: UserId) -> int:
        """See SearchRows; one Get."""
        head = get(SearchHeadItem, head_key(owner), consistent=True)
        return int(head.changes) if head else 0

    def newest(self, owner: UserId, *, most: int) -> NewestRows:
        """See SearchRows; one Query a megabyte, which is some 3,000 rows."""
        rows: list[SearchRow] = []
        for page in _pages(owner, SearchRowItem.sk.startswith(_ROW), SearchRowItem.row.exists()):
            rows += [SearchRow(change.key, change.text) for change in page if change.text is not None]
            if len(rows) > most:
                return NewestRows(rows[:most], is_complete=False)
        return NewestRows(rows, is_complete=True)

    def changed(self, owner: UserId, *, since: datetime, oldest_ms: int) -> Sequence[RowChange]:
        """See SearchRows; as many Queries as `newest`, of which only what has changed is sent."""
        within = SearchRowItem.sk.between(_from(oldest_ms), f"{_ROW}~")
        return [each for page in _pages(owner, within, SearchRowItem.changed_ms >= epoch_ms(since)) for each in page]

    def write(self, owner: UserId, changes: Sequence[StampedChange], *, at: datetime) -> int:
        """See SearchRows; one transaction for 90 rows, and where some are not newer than what is stored, several."""
        written = 0
        for begin in range(0, len(changes), _ROWS_A_TRANSACTION):
            written += _write_newer(owner, changes[begin : begin + _ROWS_A_TRANSACTION], at)
        return written

    def forget(self, owner: UserId) -> None:
        """See SearchRows; a Query and 40 BatchWrites a thousand rows, and one update."""
        for page in _pages(owner, SearchRowItem.sk.startswith(_ROW), SearchRowItem.row.exists()):
            delete_keys(SearchItem, [row_key(change.key) for change in page])
        _commit(owner, [], epoch=0)

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Delete an account's rows, its head first, without which nothing is written for an account that is gone."""
        return empty(SearchItem, owner_pk(purge.user_id), purge)


def _write_newer(owner: UserId, changes: Sequence[StampedChange], at: datetime) -> int:
    try:
        _commit(owner, changes, epoch=epoch_ms(at))
    except AccountGone:
        return 0
    except ConditionFailed:
        if len(changes) == 1:
            return 0
        half = len(changes) // 2
        return _write_newer(owner, changes[:half], at) + _write_newer(owner, changes[half:], at)
    return len(changes)


def _commit(owner: UserId, changes: Sequence[StampedChange], *, epoch: int) -> None:
    try:
        _transaction(owner, changes, epoch, is_first=False).commit()
    except _NoHead:
        _transaction(owner, changes, epoch, is_first=True).commit()


def _transaction(owner: UserId, changes: Sequence[StampedChange], now_ms: int, *, is_first: bool) -> Transaction:
    tx = Transaction()
    head, counted = SearchHeadItem(*head_key(owner)), [SearchHeadItem.changes.add(1)]
    if is_first:
        # Later ones need not ask: the head goes with the account.
        require_account(tx, owner)
        tx.upsert(head, counted)
    else:
        tx.update(head, counted, on_fail=_NoHead(""))
    for change, sequence_number in changes:
        sequence = sequence_number.zfill(_SEQUENCE_DIGITS)
        actions: list[Action] = [SearchRowItem.sequence.set(sequence), SearchRowItem.changed_ms.set(now_ms)]
        if change.text is None:
            actions += [SearchRowItem.row.remove(), SearchRowItem.expires_at.set(now_ms // 1000 + _KEPT_S)]
        else:
            actions += [SearchRowItem.row.set(_packed(change.text)), SearchRowItem.expires_at.remove()]
        is_newer = SearchRowItem.pk.does_not_exist() | (SearchRowItem.sequence < sequence)
        tx.upsert(SearchRowItem(*row_key(change.key)), actions, is_newer)
    return tx


def _pages(owner: UserId, within: Condition, filtered: Condition) -> Iterator[list[RowChange]]:
    start: Any = None
    while True:
        with storage_errors():
            answer: Mapping[str, Any] = connection_of(SearchItem).query(
                owner_pk(owner),
                range_key_condition=within,
                filter_condition=filtered,
                attributes_to_get=["sk", "row"],
                consistent_read=True,
                scan_index_forward=False,
                exclusive_start_key=start,
            )
        yield [_change(owner, item) for item in answer["Items"]]
        start = answer.get("LastEvaluatedKey")
        if not start:
            return


def _change(owner: UserId, item: Mapping[str, Mapping[str, str]]) -> RowChange:
    row = item.get("row")
    return RowChange(parse_row_sk(owner, item["sk"]["S"]), _unpacked(row["S"]) if row else None)


def _from(created_ms: int) -> str:
    """Return the beginning of the sort keys of objects made at a millisecond."""
    return f"{_ROW}{created_ms:013d}"


def _packed(text: SearchText) -> str:
    """Return what is kept of a row; names and texts are cut, since a row is to be read with thousands of others."""
    kept = (text.name[:_MAX_NAME_CHARS], text.code, text.tags, text.text[:MAX_TEXT_CHARS], text.status, text.updated_ms)
    return orjson.dumps(kept).decode()


def _unpacked(row: str) -> SearchText:
    name, code, tags, text, status, updated_ms = orjson.loads(row)
    return SearchText(name=name, code=code, tags=tuple(tags), text=text, status=status, updated_ms=updated_ms)

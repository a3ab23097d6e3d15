"""Rows in the table `search`; access patterns are in docs/adr/0058-search.md.

| item | pk | sk |
|---|---|---|
| row of an object, or its tombstone | USER#<user> | ROW#<created ms:013d>#<type>#<id> |
| head: number of changes of the rows, the segment that counts | USER#<user> | HEAD |
| entry of the journal: rows as a transaction wrote them | USER#<user> | JOURNAL#<changed ms:013d>#<id> |

Rows sort by when their objects were made, so that the newest of a large account are one range. They are read as
DynamoDB sends them: PynamoDB takes several times as long for thousands of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import orjson
from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.core.clock import epoch_ms
from karma.core.dynamo.access import batch_get, get, update
from karma.core.dynamo.failures import ConditionFailed, storage_errors
from karma.core.dynamo.items import Item, Key, TableMeta, connection_of
from karma.core.dynamo.partitions import delete_keys, empty
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import Conflict, StorageThrottled
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.identity.transactional import AccountGone, require_account
from karma.search.domain import MAX_TEXT_CHARS, SearchRow
from karma.search.ports import Journal, NewestRows, SearchHead, StampedChange

if TYPE_CHECKING:
    from karma.search.segments.domain import SegmentFacts

TOMBSTONE_KEPT: Final = timedelta(days=15)
"""A stream keeps records for a day, a queue of failures for fourteen."""
_KEPT_S: Final = int(TOMBSTONE_KEPT.total_seconds())
_ROW: Final = "ROW#"
_JOURNAL: Final = "JOURNAL#"
_HEAD: Final = "HEAD"
_SEQUENCE_DIGITS: Final = 40
"""DynamoDB documents sequence numbers of streams as 21 to 40 digits; padded, they compare as text."""
_ROWS_A_TRANSACTION: Final = 90
_BYTES_A_TRANSACTION: Final = 200_000
"""Bytes of rows that are written together, which are one item of the journal."""
_MAX_NAME_CHARS: Final = 255


class _OtherHead(Conflict):
    """The owner has no head yet, or none any more, or one that wants a journal, or none."""


class _Form(Enum):
    """Form of a write, by the head that it is for."""

    PLAIN = "plain"
    JOURNALED = "journaled"
    FIRST = "first"


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
    """Number of changes of an owner's rows, and its segment."""

    changes = NumberAttribute(default=0)
    journaled = BooleanAttribute(null=True)
    """A journal is kept."""
    segment = UnicodeAttribute(null=True)
    """JSON of the segment that counts."""
    segment_id = UnicodeAttribute(null=True)
    building = UnicodeAttribute(null=True)
    """Segment that is being made."""
    building_ms = NumberAttribute(null=True)
    """Moment until which nobody else begins one."""


class SearchJournalItem(SearchItem, discriminator="search_journal"):
    """Rows as one transaction wrote them."""

    rows = UnicodeAttribute()
    """JSON list, of each row: sort key, sequence number, row as in its item or null."""


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

    def __init__(self) -> None:
        self._journaled: set[UserId] = set()
        """Owners that were found to have a journal: a guess that saves a refused write."""

    def head(self, owner: UserId) -> SearchHead:
        """See SearchRows; one Get."""
        head = get(SearchHeadItem, head_key(owner), consistent=True)
        if head is None:
            return SearchHead()
        if not head.segment:
            return SearchHead(int(head.changes))
        from karma.search.segments.domain import SegmentFacts  # local: few accounts have a segment

        return SearchHead(int(head.changes), SegmentFacts(**orjson.loads(head.segment)))

    def changes_of(self, owners: Collection[UserId]) -> Mapping[UserId, int]:
        """See SearchRows; one BatchGet for a hundred."""
        found = batch_get(SearchHeadItem, [head_key(each) for each in owners], consistent=True)
        return {each: int(found[key].changes) if (key := head_key(each)) in found else 0 for each in owners}

    def rows_of(self, keys: Collection[SearchKey]) -> Sequence[SearchRow]:
        """See SearchRows; one BatchGet for a hundred."""
        items = batch_get(SearchRowItem, [row_key(each) for each in keys], consistent=True)
        found = ((each, items.get(row_key(each))) for each in keys)
        return [SearchRow(key, _unpacked(item.row)) for key, item in found if item is not None and item.row]

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

    def journal(self, owner: UserId, *, since: datetime, most: int) -> Journal:
        """See SearchRows; one Query a megabyte."""
        newest: dict[str, tuple[str, str | None]] = {}
        is_complete = True
        for page in _raw_pages(owner, SearchItem.sk.between(_journal_from(since), f"{_JOURNAL}~"), ["rows"]):
            for sk, sequence, row in (each for item in page for each in orjson.loads(item["rows"]["S"])):
                if sk not in newest or newest[sk][0] <= sequence:
                    newest[sk] = (sequence, row)
            if len(newest) > most:
                is_complete = False
                break
        found = [_row_change(owner, sk, row) for sk, (_, row) in newest.items()]
        return Journal(found, is_complete)

    def write(self, owner: UserId, changes: Sequence[StampedChange], *, at: datetime) -> int:
        """See SearchRows; one transaction for 90 rows, and where some are not newer than what is stored, several."""
        return sum(self._write_newer(owner, batch, epoch_ms(at)) for batch in _batches(changes))

    def forget(self, owner: UserId) -> None:
        """See SearchRows; a Query and 40 BatchWrites a thousand rows, and two updates."""
        # First the segment, which would find what is deleted here.
        self._drop_segment(owner)
        for page in _pages(owner, SearchRowItem.sk.startswith(_ROW), SearchRowItem.row.exists()):
            delete_keys(SearchItem, [row_key(change.key) for change in page])
        for items in _raw_pages(owner, SearchItem.sk.startswith(_JOURNAL), ["sk"]):
            delete_keys(SearchItem, [Key(owner_pk(owner), item["sk"]["S"]) for item in items])
        self._commit(owner, [], 0)

    def begin_segment(self, owner: UserId, segment_id: str, *, instead_of: str, now: datetime, until: datetime) -> bool:
        """See SearchRows; one update."""
        kind = SearchHeadItem
        is_seen = kind.segment_id == instead_of if instead_of else kind.segment_id.does_not_exist()
        is_free = kind.building.does_not_exist() | (kind.building_ms <= epoch_ms(now))
        actions = [kind.building.set(segment_id), kind.building_ms.set(epoch_ms(until)), kind.journaled.set(True)]
        return _changes_head(owner, actions, kind.pk.exists() & is_seen & is_free)

    def publish_segment(self, owner: UserId, facts: SegmentFacts) -> bool:
        """See SearchRows; one update."""
        kind = SearchHeadItem
        shown = orjson.dumps(asdict(facts)).decode()
        actions = [kind.segment.set(shown), kind.segment_id.set(facts.id)]
        actions += [kind.building.remove(), kind.building_ms.remove()]
        return _changes_head(owner, actions, kind.building == facts.id)

    def end_segments(self, owner: UserId, segment_id: str) -> bool:
        """See SearchRows; one update."""
        return _changes_head(owner, _no_segment(), SearchHeadItem.building == segment_id)

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Delete an account's rows, its head first, without which nothing is written for an account that is gone."""
        return empty(SearchItem, owner_pk(purge.user_id), purge)

    def _drop_segment(self, owner: UserId) -> None:
        _changes_head(owner, _no_segment(), SearchHeadItem.pk.exists())

    def _write_newer(self, owner: UserId, changes: Sequence[StampedChange], now_ms: int) -> int:
        try:
            self._commit(owner, changes, now_ms)
        except AccountGone:
            return 0
        except ConditionFailed:
            if len(changes) == 1:
                return 0
            half = len(changes) // 2
            return sum(self._write_newer(owner, part, now_ms) for part in (changes[:half], changes[half:]))
        return len(changes)

    def _commit(self, owner: UserId, changes: Sequence[StampedChange], now_ms: int) -> None:
        forms = [_Form.PLAIN, _Form.JOURNALED]
        if owner in self._journaled:
            forms.reverse()
        # Once more, for a head that another one made, or gave a journal, in between.
        for form in (*forms, _Form.FIRST, *forms):
            try:
                _transaction(owner, changes, now_ms, form).commit()
            except _OtherHead:
                continue
            if form is _Form.JOURNALED:
                self._journaled.add(owner)
            else:
                self._journaled.discard(owner)
            return
        raise StorageThrottled("The database is busy; try again")


def _batches(changes: Sequence[StampedChange]) -> Iterator[Sequence[StampedChange]]:
    batch: list[StampedChange] = []
    size = 0
    for each in changes:
        grows = len(_packed(each.change.text)) if each.change.text is not None else 0
        if batch and (len(batch) == _ROWS_A_TRANSACTION or size + grows > _BYTES_A_TRANSACTION):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += grows
    if batch:
        yield batch


def _changes_head(owner: UserId, actions: Sequence[Action], condition: Condition) -> bool:
    try:
        update(SearchHeadItem(*head_key(owner)), actions, condition)
    except ConditionFailed:
        return False
    return True


def _no_segment() -> list[Action]:
    kind = SearchHeadItem
    gone = (kind.segment, kind.segment_id, kind.building, kind.building_ms, kind.journaled)
    return [attribute.remove() for attribute in gone]


def _transaction(owner: UserId, changes: Sequence[StampedChange], now_ms: int, form: _Form) -> Transaction:
    tx = Transaction()
    head, counted = SearchHeadItem(*head_key(owner)), [SearchHeadItem.changes.add(1)]
    if form is _Form.FIRST:
        # Later ones need not ask: the head goes with the account.
        require_account(tx, owner)
        tx.upsert(head, counted, SearchHeadItem.pk.does_not_exist(), on_fail=_OtherHead(""))
    elif form is _Form.PLAIN:
        is_plain = SearchHeadItem.pk.exists() & SearchHeadItem.journaled.does_not_exist()
        tx.update(head, counted, is_plain, on_fail=_OtherHead(""))
    else:
        tx.update(head, counted, SearchHeadItem.journaled.exists(), on_fail=_OtherHead(""))
    written: list[tuple[str, str, str | None]] = []
    for change, sequence_number in changes:
        sequence = sequence_number.zfill(_SEQUENCE_DIGITS)
        row = _packed(change.text) if change.text is not None else None
        actions: list[Action] = [SearchRowItem.sequence.set(sequence), SearchRowItem.changed_ms.set(now_ms)]
        if row is None:
            actions += [SearchRowItem.row.remove(), SearchRowItem.expires_at.set(now_ms // 1000 + _KEPT_S)]
        else:
            actions += [SearchRowItem.row.set(row), SearchRowItem.expires_at.remove()]
        is_newer = SearchRowItem.pk.does_not_exist() | (SearchRowItem.sequence < sequence)
        key = row_key(change.key)
        tx.upsert(SearchRowItem(*key), actions, is_newer)
        written.append((key.sk, sequence, row))
    if form is _Form.JOURNALED and written:
        from karma.search.segments.domain import JOURNAL_KEPT  # local: few accounts have a journal

        entry = SearchJournalItem(owner_pk(owner), f"{_JOURNAL}{now_ms:013d}#{new_id()}")
        until_s = now_ms // 1000 + int(JOURNAL_KEPT.total_seconds())
        said = SearchJournalItem.rows.set(orjson.dumps(written).decode())
        tx.upsert(entry, [said, SearchJournalItem.expires_at.set(until_s)])
    return tx


def _pages(owner: UserId, within: Condition, filtered: Condition) -> Iterator[list[RowChange]]:
    for page in _raw_pages(owner, within, ["sk", "row"], filtered):
        yield [_change(owner, item) for item in page]


def _raw_pages(
    owner: UserId, within: Condition, attributes: Sequence[str], filtered: Condition | None = None
) -> Iterator[Sequence[Mapping[str, Mapping[str, str]]]]:
    start: Any = None
    while True:
        with storage_errors():
            answer: Mapping[str, Any] = connection_of(SearchItem).query(
                owner_pk(owner),
                range_key_condition=within,
                filter_condition=filtered,
                attributes_to_get=list(attributes),
                consistent_read=True,
                scan_index_forward=False,
                exclusive_start_key=start,
            )
        yield answer["Items"]
        start = answer.get("LastEvaluatedKey")
        if not start:
            return


def _change(owner: UserId, item: Mapping[str, Mapping[str, str]]) -> RowChange:
    return _row_change(owner, item["sk"]["S"], item["row"]["S"] if "row" in item else None)


def _row_change(owner: UserId, sk: str, row: str | None) -> RowChange:
    return RowChange(parse_row_sk(owner, sk), _unpacked(row) if row else None)


def _journal_from(moment: datetime) -> str:
    """Return the beginning of the sort keys of a journal's entries since a moment."""
    return f"{_JOURNAL}{epoch_ms(moment):013d}"


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

"""Bulk commands; they have no fake: one suite for both engines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists
from karma.core.ids import BulkId, CommandId, DeviceId, UserId, new_id
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.devices.bulk import (
    PART_DEVICES,
    BulkCancelled,
    BulkCommand,
    BulkKey,
    BulkRefusal,
    BulkStatus,
    PartStage,
    parts_of,
)
from karma.devices.repository.bulk_commands import require_sending
from tests.contract.stores.rows import Rows
from tests.support.requests import asked
from tests.support.rows import DAY, LATER, NOW


def stored(rows: Rows, total: int) -> BulkCommand:
    bulk = rows.new_bulk(total=total, open_parts=-(-total // PART_DEVICES))
    rows.bulks.add(bulk, parts_of([DeviceId(new_id()) for _ in range(total)]), due=NOW)
    return bulk


def read(rows: Rows, bulk: BulkCommand) -> BulkCommand:
    found = rows.bulks.get(bulk.key)
    assert found is not None
    return found


def require(bulk: BulkCommand) -> None:
    tx = Transaction()
    require_sending(tx, bulk.key)
    tx.commit()


class TestAStoredOne:
    def test_is_read_as_it_was_written(self, rows: Rows) -> None:
        bulk = stored(rows, PART_DEVICES + 1)
        assert read(rows, bulk) == bulk
        assert rows.bulks.get(BulkKey(UserId(new_id()), bulk.key.bulk_id)) is None
        first, second = rows.bulks.parts(bulk.key, limit=5)
        assert (first.number, len(first.device_ids), second.number, len(second.device_ids)) == (0, PART_DEVICES, 1, 1)
        assert (first.stage, first.sent, first.refused) == (PartStage.OPEN, {}, {})
        assert rows.bulks.parts(bulk.key, first=1, limit=5) == [second]
        assert rows.bulks.parts(bulk.key, first=2, limit=5) == []

    def test_is_listed_newest_first_without_those_that_are_over(self, rows: Rows) -> None:
        old = rows.added(rows.new_bulk())
        new = rows.added(rows.new_bulk())
        assert rows.bulks.page(rows.ada.id, limit=1) == ([new], new.key.bulk_id)
        found, following = rows.bulks.page(rows.ada.id, limit=1, after=new.key.bulk_id)
        assert found == [old]
        assert rows.bulks.page(rows.ada.id, limit=1, after=following or old.key.bulk_id) == ([], None)
        assert rows.bulks.page(rows.ada.id, limit=5, now_s=(LATER + 31 * DAY).timestamp()) == ([], None)

    def test_has_one_record_of_its_request(self, rows: Rows) -> None:
        bulk = rows.added(rows.new_bulk(), request=asked())
        assert rows.bulks.made_by(rows.ada.id, asked()) == bulk.key.bulk_id
        with pytest.raises(AlreadyExists):
            rows.added(rows.new_bulk(), request=asked())
        with pytest.raises(IdempotencyKeyReused):
            rows.bulks.made_by(rows.ada.id, asked("k", "other"))
        assert rows.bulks.made_by(rows.ada.id, asked(at=NOW + RETENTION)) is None
        assert rows.bulks.page(rows.ada.id, limit=5)[0] == [bulk]


class TestAPart:
    def test_is_counted_once(self, rows: Rows) -> None:
        bulk = stored(rows, 2)
        [part] = rows.bulks.parts(bulk.key, limit=1)
        sent, refused = part.device_ids
        done = replace(part, sent={sent: CommandId(new_id())}, refused={refused: BulkRefusal("NOT_FOUND", "gone")})
        assert rows.bulks.finish_part(bulk, done, at=LATER)
        assert not rows.bulks.finish_part(bulk, done, at=LATER)
        assert rows.bulks.parts(bulk.key, limit=1) == [replace(done, stage=PartStage.SENT)]
        seen = read(rows, bulk)
        assert (seen.open_parts, seen.sent, seen.refused, seen.status) == (0, 1, 1, BulkStatus.SENT)

    def test_is_not_sent_once_its_bulk_command_is_cancelled(self, rows: Rows) -> None:
        bulk = stored(rows, 1)
        [part] = rows.bulks.parts(bulk.key, limit=1)
        require(bulk)
        assert rows.bulks.cancel(bulk, at=LATER)
        assert not rows.bulks.cancel(bulk, at=LATER)
        with pytest.raises(BulkCancelled):
            require(bulk)
        assert not rows.bulks.finish_part(bulk, part, at=LATER)
        cancelled = read(rows, bulk)
        assert rows.bulks.finish_part(cancelled, part, at=LATER)
        assert (read(rows, bulk).open_parts, read(rows, bulk).status) == (0, BulkStatus.CANCELLED)

    def test_that_was_sent_is_cancelled_without_being_counted_again(self, rows: Rows) -> None:
        bulk = stored(rows, 1)
        [part] = rows.bulks.parts(bulk.key, limit=1)
        assert rows.bulks.finish_part(bulk, replace(part, sent={part.device_ids[0]: CommandId(new_id())}), at=LATER)
        assert rows.bulks.cancel(read(rows, bulk), at=LATER)
        [part] = rows.bulks.parts(bulk.key, limit=1)
        assert rows.bulks.finish_part(read(rows, bulk), part, at=LATER)
        assert (read(rows, bulk).sent, read(rows, bulk).open_parts) == (1, 0)


class TestTheSweep:
    def test_finds_what_is_due_until_it_is_closed(self, rows: Rows) -> None:
        bulk = rows.bulk
        assert rows.bulks.due(before=NOW, limit=5) == []
        assert rows.bulks.due(before=LATER, limit=5) == [bulk.key]
        rows.bulks.put_off(bulk.key, until=LATER)
        assert rows.bulks.due(before=LATER, limit=5) == []
        assert rows.bulks.due(before=LATER + DAY, limit=5) == [bulk.key]
        rows.bulks.close(replace(bulk, open_parts=0))
        assert rows.bulks.due(before=LATER + DAY, limit=5) == [bulk.key], "it has changed since it was read"
        rows.bulks.close(bulk)
        assert rows.bulks.due(before=LATER + DAY, limit=5) == []
        rows.bulks.put_off(bulk.key, until=LATER)
        rows.bulks.put_off(BulkKey(rows.ada.id, BulkId(new_id())), until=LATER)
        assert rows.bulks.due(before=LATER + DAY, limit=5) == []

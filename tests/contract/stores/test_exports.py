"""Exports of telemetry; they have no fake: one suite for both engines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.core.clock import epoch_ms
from karma.core.errors import AlreadyExists
from karma.core.ids import UserId, new_id
from karma.core.requests import IdempotencyKeyReused
from karma.telemetry.exports.domain import (
    ExportChanged,
    ExportFailure,
    ExportId,
    ExportKey,
    ExportPlace,
    ExportState,
    TooManyExports,
)
from tests.contexts.telemetry import TelemetryRows
from tests.support.requests import asked
from tests.support.rows import DAY, LATER, NOW
from tests.support.stores import Database


@pytest.fixture
def rows(database: Database) -> TelemetryRows:
    return TelemetryRows()


def test_a_stored_one_is_read_and_listed(rows: TelemetryRows) -> None:
    old, new = sorted((rows.new_export(), rows.new_export()), key=lambda each: each.key)
    for each in (old, new):
        rows.exports.add(each, due=NOW)
    assert rows.read_export(old) == replace(old, version=1)
    assert rows.exports.get(ExportKey(UserId(new_id()), old.key.export_id)) is None
    [first], following = rows.exports.page(rows.ada.id, limit=1, now=NOW)
    [second], _ = rows.exports.page(rows.ada.id, limit=1, now=NOW, after=following or "")
    assert (first.key, second.key) == (new.key, old.key)


def test_it_has_one_record_of_its_request(rows: TelemetryRows) -> None:
    made = rows.added_export(request=asked())
    assert rows.exports.made_by(rows.ada.id, asked()) == made.key.export_id
    with pytest.raises(AlreadyExists):
        rows.added_export(request=asked())
    with pytest.raises(IdempotencyKeyReused):
        rows.exports.made_by(rows.ada.id, asked("k", "other"))


def test_one_who_read_it_takes_it_and_another_does_not(rows: TelemetryRows) -> None:
    read = rows.export
    taken = rows.exports.take(read, until=LATER)
    assert (taken.state, taken.next_part, taken.attempts) == (ExportState.RUNNING, 2, 1)
    assert taken.is_held(NOW)
    assert not taken.is_held(LATER)
    for late in (
        lambda: rows.exports.take(read, until=LATER),
        lambda: rows.exports.save(read, due=LATER),
        lambda: rows.exports.succeed(read, at=LATER),
        lambda: rows.exports.fail(read, ExportFailure("C", "m"), at=LATER),
    ):
        with pytest.raises(ExportChanged):
            late()
    place = ExportPlace(taken.order.from_ms + 5, 3)
    further = replace(taken, place=place, rows=7, table="t", upload_id="u", checkpoint="c", next_part=4, attempts=0)
    saved = rows.exports.save(further, due=LATER)
    assert saved == replace(further, version=saved.version) == rows.read_export(read)
    rows.exports.succeed(replace(saved, rows=8, size=99, table="whole"), at=LATER)
    over = rows.read_export(read)
    assert (over.state, over.rows, over.size, over.table) == (ExportState.SUCCEEDED, 8, 99, "whole")
    assert (over.ended_ms, over.progress) == (epoch_ms(LATER), 1)
    with pytest.raises(ExportChanged):
        rows.exports.cancel(over, at=LATER)


def test_an_account_has_few_that_are_not_over(rows: TelemetryRows) -> None:
    first = rows.export
    with pytest.raises(TooManyExports):
        rows.exports.add(rows.new_export(), due=NOW, most=1)
    rows.exports.fail(first, ExportFailure("C", "m"), at=LATER)
    assert rows.read_export(first).failure == ("C", "m")
    second = rows.new_export()
    rows.exports.add(second, due=NOW, most=1)
    rows.exports.cancel(second, at=LATER)
    with pytest.raises(ExportChanged):
        rows.exports.cancel(second, at=LATER)
    rows.exports.add(rows.new_export(), due=NOW, most=1)


def test_the_sweep_finds_what_nobody_writes(rows: TelemetryRows) -> None:
    export = rows.export
    assert rows.exports.due(before=NOW, limit=5) == []
    assert rows.exports.due(before=LATER, limit=5) == [export.key]
    rows.exports.put_off(export.key, before=LATER, until=LATER)
    rows.exports.put_off(export.key, before=NOW, until=LATER + DAY)
    assert rows.exports.due(before=LATER, limit=5) == []
    assert rows.exports.due(before=LATER + DAY, limit=5) == [export.key]
    rows.exports.cancel(export, at=LATER)
    rows.exports.put_off(export.key, before=LATER + DAY, until=LATER + DAY)
    rows.exports.put_off(ExportKey(rows.ada.id, ExportId(new_id())), before=LATER, until=LATER)
    assert rows.exports.due(before=LATER + DAY, limit=5) == []

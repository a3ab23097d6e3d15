"""Rollups, their marks and the directory of a device; they have no fake."""

from __future__ import annotations

from datetime import timedelta

import pytest

from karma.telemetry.domain import MAX_METRICS, Level, Period, rolled_up
from karma.telemetry.ports import DeviceClosed, DirtyPeriod, PeriodChanged
from tests.contexts.telemetry import TelemetryRows
from tests.support.rows import LATER, NOW
from tests.support.stores import Database


@pytest.fixture
def telemetry(database: Database) -> TelemetryRows:
    return TelemetryRows()


def due(rows: TelemetryRows) -> list[DirtyPeriod]:
    return [found for shard in range(4) for found in rows.rollups.due(shard, before=LATER, limit=10)]


def test_a_mark_is_due_until_it_is_put_off_and_changes_with_each_change(telemetry: TelemetryRows) -> None:
    first = telemetry.dirty
    assert due(telemetry) == [first]
    telemetry.rollups.put_off(first, until=LATER)
    assert due(telemetry) == []
    telemetry.rollups.mark(first.period, due=NOW)
    [second] = due(telemetry)
    assert (second.period, second.token != first.token) == (first.period, True)
    telemetry.rollups.put_off(first, until=LATER)  # of the mark that was: nothing happens
    assert due(telemetry) == [second]
    assert telemetry.rollups.directory(telemetry.device.id).dirty == {first.period}


def test_rollups_take_the_place_of_the_mark(telemetry: TelemetryRows) -> None:
    telemetry.replace(telemetry.dirty, telemetry.number)
    period, day = telemetry.period(), telemetry.period(Level.DAY)
    read = telemetry.rollups.read(
        telemetry.device.id, Level.HOUR, telemetry.number, first=period.number, last=period.number, consistent=True
    )
    assert read == [(period.number, telemetry.rollup())]
    assert telemetry.rollups.dirty(period) is None
    assert telemetry.rollups.directory(telemetry.device.id, consistent=True).dirty == {day}
    with pytest.raises(PeriodChanged):
        telemetry.replace(telemetry.dirty, telemetry.number)
    marked = telemetry.rollups.dirty(day)
    assert marked is not None
    telemetry.rollups.replace(marked, {})
    assert telemetry.rollups.directory(telemetry.device.id, consistent=True).dirty == frozenset()


def test_more_metrics_than_a_transaction_holds_are_written(telemetry: TelemetryRows) -> None:
    names = [f"m{n:03d}" for n in range(MAX_METRICS)]
    numbers = telemetry.rollups.numbers(telemetry.device.id, names)
    made = rolled_up([(telemetry.period().begin_ms, dict.fromkeys(names, 1.0))])
    telemetry.rollups.replace(telemetry.dirty, {number: made[name] for name, number in numbers.items()})
    for number in (0, 89, 90, MAX_METRICS - 1):
        found = telemetry.rollups.read(telemetry.device.id, Level.HOUR, number, first=0, last=telemetry.period().number)
        assert len(found) == 1
    with pytest.raises(PeriodChanged):
        telemetry.rollups.replace(telemetry.dirty, {number: made[name] for name, number in numbers.items()})


def test_metrics_keep_their_numbers_and_are_no_more_than_fit(telemetry: TelemetryRows) -> None:
    device = telemetry.device.id
    assert telemetry.rollups.numbers(device, ["b", "a"]) == {"a": 0, "b": 1}
    assert telemetry.rollups.numbers(device, ["c", "a"]) == {"a": 0, "c": 2}
    many = telemetry.rollups.numbers(device, [f"m{n:03d}" for n in range(300)])
    assert sorted(many.values()) == list(range(3, MAX_METRICS))
    assert telemetry.rollups.numbers(device, ["z", "b"]) == {"b": 1}


def test_nothing_is_written_for_a_closed_device(telemetry: TelemetryRows) -> None:
    period = telemetry.period()
    other = Period(period.device_id, Level.HOUR, period.number - 1)
    telemetry.replace(telemetry.dirty, telemetry.number)
    telemetry.rollups.mark(other, due=NOW)
    telemetry.rollups.close(period.device_id, forget_at=NOW + timedelta(days=1))
    marked = telemetry.rollups.dirty(other)
    assert marked is not None
    with pytest.raises(DeviceClosed):
        telemetry.replace(marked, 0)
    with pytest.raises(DeviceClosed):
        telemetry.rollups.numbers(period.device_id, ["temp_c"])
    removed = 0
    while part := telemetry.rollups.remove(period.device_id, limit=2):
        removed += part
    assert removed == 3
    directory = telemetry.rollups.directory(period.device_id, consistent=True)
    assert (directory.closed, directory.metrics, directory.dirty) == (True, (), frozenset())

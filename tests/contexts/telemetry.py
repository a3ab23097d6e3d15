"""Declarations of telemetry for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import pytest

from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.errors import NotFound
from karma.core.ids import DeviceId, new_id
from karma.core.requests import RETENTION, RepeatableRequest
from karma.devices.domain import RAW_RETENTION_S
from karma.devices.lookup import DeviceLookup
from karma.devices.repository.devices import DeviceRepository
from karma.integrations.s3_exports import S3ExportObjects
from karma.telemetry.archive_repository import ArchiveRepository
from karma.telemetry.archives import ArchivedDay, PackedHour
from karma.telemetry.domain import DAY_MS, HOUR_MS, Level, Period, Resolution, Rollup, rolled_up
from karma.telemetry.exports.domain import (
    ExportFailure,
    ExportId,
    ExportKey,
    ExportOrder,
    ExportPlace,
    ExportState,
    TelemetryExport,
)
from karma.telemetry.exports.repository import ExportRepository
from karma.telemetry.exports.service import ExportService
from karma.telemetry.items import HOURS_KEPT
from karma.telemetry.ports import DirtyPeriod
from karma.telemetry.query import Stretch, TelemetryQuery
from karma.telemetry.reading import TelemetryReader
from karma.telemetry.repository import RollupRepository
from karma.telemetry.tables import TableFormat
from tests.contexts.devices import DeviceRows
from tests.fakes.devices import FakeClock
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Call, Checks, Scenarios, made
from tests.support.devices import provisioning_device
from tests.support.plans import reserved
from tests.support.requests import asked
from tests.support.rows import DAY, LATER, NOW
from tests.support.telemetry import MemoryQueue


class TelemetryRows(DeviceRows):
    def __init__(self) -> None:
        super().__init__()
        self.rollups = RollupRepository()
        self.notes = ArchiveRepository()
        self.exports = ExportRepository()

    def period(self, level: Level = Level.HOUR) -> Period:
        size = HOUR_MS if level is Level.HOUR else DAY_MS
        return Period(self.device.id, level, epoch_ms(NOW) // size)

    @cached_property
    def dirty(self) -> DirtyPeriod:
        self.rollups.mark(self.period(), due=NOW)
        found = self.rollups.dirty(self.period())
        assert found is not None
        return found

    @cached_property
    def number(self) -> int:
        return self.rollups.numbers(self.device.id, ["temp_c"])["temp_c"]

    def archived_day(self) -> ArchivedDay:
        number = epoch_ms(NOW) // DAY_MS
        return ArchivedDay(
            device_id=self.device.id, number=number, name="365/a", hours=(PackedHour(1, 0, 9),), kept_days=365
        )

    @cached_property
    def archived(self) -> ArchivedDay:
        self.number  # noqa: B018  the directory is there
        self.notes.note(self.dirty, self.archived_day())
        return self.archived_day()

    def rollup(self) -> Rollup:
        return rolled_up([(epoch_ms(NOW), {"temp_c": 1.5})])["temp_c"]

    def new_export(self, **changes: Any) -> TelemetryExport:
        begin_ms = epoch_ms(NOW)
        order = ExportOrder(
            devices=(DeviceId(new_id()),),
            metrics=("temp_c",),
            from_ms=begin_ms - HOUR_MS,
            to_ms=begin_ms,
            resolution=Resolution.HOUR,
            percents=(99.9,),
            format=TableFormat.PARQUET,
            most_rows=9,
        )
        made = TelemetryExport(
            key=ExportKey(self.ada.id, ExportId(new_id())),
            order=order,
            state=ExportState.QUEUED,
            created_ms=begin_ms,
            place=ExportPlace(order.from_ms, 0),
        )
        return replace(made, **changes)

    def added_export(self, *, request: RepeatableRequest | None = None) -> TelemetryExport:
        export = self.new_export()
        self.exports.add(export, due=NOW, request=request)
        return self.read_export(export)

    @cached_property
    def export(self) -> TelemetryExport:
        return self.added_export()

    def read_export(self, export: TelemetryExport) -> TelemetryExport:
        found = self.exports.get(export.key)
        assert found is not None
        return found

    def export_service(self, now: datetime) -> ExportService:
        return ExportService(self.exports, self.reader(now), S3ExportObjects("b"), MemoryQueue(), FakeClock(now))

    def replace(self, dirty: DirtyPeriod, number: int) -> None:
        self.rollups.replace(dirty, {number: self.rollup()}, parent_due=LATER)

    def reader(self, now: datetime) -> TelemetryReader:
        return TelemetryReader(DeviceLookup(self.devices), self.telemetry, self.rollups, FakeClock(now))


def _closed(r: TelemetryRows) -> Call:
    r.replace(r.dirty, r.number)
    return lambda: r.rollups.close(r.device.id, forget_at=LATER)


def _removed(r: TelemetryRows) -> Call:
    r.replace(r.dirty, r.number)
    return lambda: r.rollups.remove(r.device.id, limit=50)


SCENARIOS = Scenarios[TelemetryRows](
    TelemetryRows,
    {
        "RollupRepository.mark": made(lambda r: r.period(), lambda r, period: r.rollups.mark(period, due=NOW)),
        "RollupRepository.dirty": made(lambda r: r.dirty, lambda r, dirty: r.rollups.dirty(dirty.period)),
        "RollupRepository.due": made(
            lambda r: r.dirty, lambda r, _: [r.rollups.due(shard, before=LATER, limit=5) for shard in range(4)]
        ),
        "RollupRepository.put_off": made(lambda r: r.dirty, lambda r, dirty: r.rollups.put_off(dirty, until=LATER)),
        "RollupRepository.directory": made(lambda r: r.number, lambda r, _: r.rollups.directory(r.device.id)),
        "RollupRepository.numbers": made(
            lambda r: r.number, lambda r, _: r.rollups.numbers(r.device.id, ["temp_c", "hum"])
        ),
        "RollupRepository.replace": made(lambda r: (r.dirty, r.number), lambda r, given: r.replace(*given)),
        "RollupRepository.read": made(
            lambda r: r.number,
            lambda r, number: r.rollups.read(r.device.id, Level.HOUR, number, first=0, last=r.period().number),
        ),
        "ArchiveRepository.find": made(
            lambda r: r.archived, lambda r, day: r.notes.find(day.device_id, first=day.number, last=day.number)
        ),
        "ArchiveRepository.directory": made(lambda r: r.number, lambda r, _: r.notes.directory(r.device.id)),
        "ArchiveRepository.note": made(
            lambda r: (r.dirty, r.number), lambda r, given: r.notes.note(given[0], r.archived_day())
        ),
        "TelemetryRepository.stored": made(
            lambda r: r.device.id, lambda r, each: list(r.telemetry.stored(each, from_ms=0, to_ms=HOUR_MS))
        ),
        "ExportRepository.add": made(lambda r: r.new_export(), lambda r, new: r.exports.add(new, due=NOW)),
        "ExportRepository.made_by": made(lambda r: r.export, lambda r, _: r.exports.made_by(r.ada.id, asked())),
        "ExportRepository.get": made(lambda r: r.export, lambda r, each: r.exports.get(each.key)),
        "ExportRepository.page": made(lambda r: r.export, lambda r, _: r.exports.page(r.ada.id, limit=5, now=NOW)),
        "ExportRepository.take": made(lambda r: r.export, lambda r, each: r.exports.take(each, until=LATER)),
        "ExportRepository.save": made(lambda r: r.export, lambda r, each: r.exports.save(each, due=LATER)),
        "ExportRepository.succeed": made(lambda r: r.export, lambda r, each: r.exports.succeed(each, at=LATER)),
        "ExportRepository.fail": made(
            lambda r: r.export, lambda r, each: r.exports.fail(each, ExportFailure("C", "m"), at=LATER)
        ),
        "ExportRepository.cancel": made(lambda r: r.export, lambda r, each: r.exports.cancel(each, at=LATER)),
        "ExportRepository.due": made(lambda r: r.export, lambda r, _: r.exports.due(before=LATER, limit=5)),
        "ExportRepository.put_off": made(
            lambda r: r.export, lambda r, each: r.exports.put_off(each.key, before=LATER, until=LATER + DAY)
        ),
        "RollupRepository.close": _closed,
        "RollupRepository.remove": _removed,
    },
)


def _asked(world: World, owner: str) -> dict[str, object]:
    """Ask for a device that is made beside the API, which may have ended the owner's session."""
    device = provisioning_device(world.person(owner).id)
    devices = DeviceRepository()
    devices.claim(device, reservation=reserved(device.user_id), attempt="a", now=NOW)
    devices.activate(device, attempt="a", certificate_id="c", now=NOW)
    return {"devices": [device.id]}


def _export(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/telemetry/exports", _asked(world, owner))["export"]["id"])


OBJECTS: Objects = {"export_id": _export}

BODIES: Bodies = {"POST /api/v1/telemetry/exports": _asked, "POST /api/v1/telemetry/query": _asked}


def _telemetry_over(rows: TelemetryRows) -> None:
    at_ms = epoch_ms(NOW)
    samples = f'[[{at_ms},{{"temp_c":1.5}}]]'.encode()
    rows.telemetry.store(rows.device.id, replace(rows.batch(), samples_json=samples))
    query = TelemetryQuery(devices=(rows.device.id,), from_ms=at_ms, to_ms=at_ms + 1)
    end = NOW + timedelta(seconds=RAW_RETENTION_S) + DAY
    for now, shown in ((end, 1), (end + timedelta(milliseconds=1), 0)):
        assert len(rows.reader(now).read(rows.ada.id, query).points) == shown


def _rollup_over(rows: TelemetryRows) -> None:
    rows.replace(rows.dirty, rows.number)
    period = rows.period()
    query = TelemetryQuery(devices=(rows.device.id,), from_ms=period.begin_ms, to_ms=period.end_ms + 1)
    end = from_epoch_ms(period.begin_ms) + HOURS_KEPT
    for now, shown in ((end, 1), (end + timedelta(hours=2), 0)):
        assert len(rows.reader(now).read(rows.ada.id, query).points) == shown


def _archive_over(rows: TelemetryRows) -> None:
    """A day is shown as long as the plan says, whatever the note's end is."""
    day = rows.archived
    at = from_epoch_ms(day.number * DAY_MS)
    query = TelemetryQuery(
        devices=(rows.device.id,),
        from_ms=epoch_ms(at),
        to_ms=epoch_ms(at) + 1,
        resolution=Resolution.RAW,
    )
    for now, stretch in ((at + timedelta(days=365), 1), (at + timedelta(days=367), 0)):
        part = Stretch.of(query, epoch_ms(now), raw_kept_ms=day.kept_days * DAY_MS)
        assert (part.start_ms <= epoch_ms(at)) is bool(stretch)


def _closed_for_good(rows: TelemetryRows) -> None:
    rows.rollups.close(rows.device.id, forget_at=NOW)
    assert rows.rollups.directory(rows.device.id, consistent=True).closed


def _export_over(rows: TelemetryRows) -> None:
    export = rows.export
    rows.exports.cancel(export, at=NOW)
    for now, shown in ((NOW + DAY - timedelta(seconds=1), 1), (NOW + DAY, 0)):
        service = rows.export_service(now)
        assert len(service.list(rows.ada.id, limit=5)[0]) == shown
        if shown:
            service.get(rows.ada.id, export.key.export_id)
            continue
        with pytest.raises(NotFound):
            service.get(rows.ada.id, export.key.export_id)


def _made_export_over(rows: TelemetryRows) -> None:
    rows.added_export(request=asked())
    assert rows.exports.made_by(rows.ada.id, asked(at=NOW + RETENTION - timedelta(seconds=1)))
    assert not rows.exports.made_by(rows.ada.id, asked(at=NOW + RETENTION))
    rows.added_export(request=asked(at=NOW + RETENTION))


EXPIRES = Checks[TelemetryRows](
    TelemetryRows,
    {
        "telemetry": _telemetry_over,
        "telemetry_rollup": _rollup_over,
        "telemetry_archived": _archive_over,
        "telemetry_export": _export_over,
        "telemetry_export_request": _made_export_over,
    },
)
OUTLIVES = Checks[TelemetryRows](
    TelemetryRows,
    {
        # Of a deleted device, for which nothing may be written while it stands.
        "telemetry_directory": _closed_for_good,
    },
)

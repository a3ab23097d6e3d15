"""Writing of exports by a worker, attempt by attempt; called at least once, late, and side by side (docs/adr/0060).

    1. take        hold the export, under the version that was read; pass over one that is held, or over
    2. go on       from the checkpoint: read pages, write groups of rows, store parts of the table
    3. save        the checkpoint's object, then the item that names it; with the next message, when the time is over
    4. end         store what is left, make the table of its parts, and note it in the item

A process that dies leaves what stands at the last `save`; whoever takes the export goes on from there. A worker whose
version is not the stored one any more stops: the export was taken by another, cancelled, or removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from karma.core.clock import Clock, epoch_ms, from_epoch_ms, iso, monotonic
from karma.core.errors import NotFound
from karma.core.ids import new_id
from karma.core.observability import count, logger
from karma.telemetry.domain import Resolution, TelemetryPoint
from karma.telemetry.exports import checkpoints
from karma.telemetry.exports.domain import (
    LOOKED_AFTER,
    ExportChanged,
    ExportFailure,
    ExportKey,
    ExportPlace,
    ExportState,
    StoredTablePart,
    TelemetryExport,
    Written,
)
from karma.telemetry.exports.messages import send_export
from karma.telemetry.exports.ports import ExportObjects, ExportQueue, TableUploadGone
from karma.telemetry.exports.repository import ExportRepository
from karma.telemetry.query import MAX_RANGE_MS, TelemetryPage, TelemetryQuery
from karma.telemetry.reading import TelemetryReader
from karma.telemetry.tables import KINDS, TableWriter, writer_of

WORK_S: Final = 20
"""Seconds after which an attempt ends with the page that it is at: others wait for the worker."""
HELD_FOR: Final = timedelta(seconds=75)
"""Time for which an attempt holds its export: longer than the function that makes it may run."""
PAGE_ROWS: Final = 100_000
"""Rows of a page, and of a group of rows, of which memory holds two."""
PART_BYTES: Final = 8 * 1024 * 1024


class ExportWorker:
    """Writes exports."""

    def __init__(
        self,
        exports: ExportRepository,
        reader: TelemetryReader,
        objects: ExportObjects,
        queue: ExportQueue,
        clock: Clock,
        *,
        work_s: float = WORK_S,
        page_rows: int = PAGE_ROWS,
        part_bytes: int = PART_BYTES,
    ) -> None:
        """Build the worker; the storage takes parts of 5 MB at least."""
        self._exports = exports
        self._reader = reader
        self._objects = objects
        self._queue = queue
        self._clock = clock
        self._work_s = work_s
        self._page_rows = page_rows
        self._part_bytes = part_bytes

    def take(self, key: ExportKey) -> str:
        """Write an export on for some seconds; return what came of it.

        Raises:
            Upstream: the database or the object storage did not answer; the export must be delivered again.
        """
        export, now = self._exports.get(key), self._clock.now()
        if export is None:
            return "gone"
        if not export.is_open:
            self._tidy(export)
            return "over"
        if export.is_held(now):
            return "held"
        try:
            if export.is_given_up(now):
                logger.error("export.given_up", export_id=key.export_id, attempts=export.attempts)
                count("TelemetryExportGivenUp")
                return self._fail(export, ExportFailure("EXPORT_FAILED", "The export could not be written"))
            return self._write(self._exports.take(export, until=now + HELD_FOR))
        except ExportChanged:
            return "changed"

    def _write(self, export: TelemetryExport) -> str:
        ends_at = monotonic() + self._work_s
        written = self._written(export)
        if written is None:
            return self._fail(export, ExportFailure("EXPORT_FAILED", "The export could not be written"))
        raw, percents = export.order.resolution is Resolution.RAW, export.order.percents
        writer = writer_of(export.order.format, raw=raw, percents=percents, state=written.writer)
        table = _Table(written, writer)
        if not written.writer:
            table.rest += writer.begin()
        while not written.whole and export.place.reached_ms < export.order.to_ms:
            try:
                page = self._page(export)
            except NotFound as exc:
                return self._fail(export, ExportFailure(exc.code, exc.message))
            if export.rows + len(page.points) > export.order.most_rows:
                return self._fail(export, _too_large(export, page))
            if page.points:
                table.rest += writer.add(page.points)
            place = _behind(page)
            export = replace(export, rows=export.rows + len(page.points), place=place)
            if len(table.rest) >= self._part_bytes:
                export = self._store_part(export, table)
                export = self._save(export, table, held=True)
            if monotonic() >= ends_at and place.reached_ms < export.order.to_ms:
                self._save(export, table, held=False)
                send_export(self._queue, export.key)
                return "goes on"
        return self._end(export, table)

    def _written(self, export: TelemetryExport) -> Written | None:
        """Return what earlier attempts wrote; None: its checkpoint was removed."""
        if not export.checkpoint:
            return Written(parts=(), writer={}, rest=b"")
        data = self._objects.read(export.checkpoint)
        return None if data is None else checkpoints.read(data)

    def _page(self, export: TelemetryExport) -> TelemetryPage:
        """Read the next page; a range that is longer than a query's may be is read in stretches."""
        order, place = export.order, export.place
        query = TelemetryQuery(
            devices=order.devices,
            metrics=order.metrics,
            from_ms=place.reached_ms,
            to_ms=min(order.to_ms, place.reached_ms + MAX_RANGE_MS[order.resolution]),
            resolution=order.resolution,
            percents=order.percents,
            limit=self._page_rows,
            after={"ts": place.reached_ms, "n": place.skip},
        )
        return self._reader.read(export.key.user_id, query)

    def _store_part(self, export: TelemetryExport, table: _Table) -> TelemetryExport:
        """Store what was written as a part of the upload, which begins with the first part."""
        if not export.upload_id:
            name = _name(export)
            upload_id = self._objects.begin(name, KINDS[export.order.format])
            export = replace(export, table=name, upload_id=upload_id)
        try:
            part = self._objects.put_part(export.table, export.upload_id, export.next_part, bytes(table.rest))
        except TableUploadGone:
            raise ExportChanged from None
        table.parts.append(part)
        table.rest.clear()
        return replace(export, next_part=export.next_part + 1)

    def _save(self, export: TelemetryExport, table: _Table, *, held: bool, whole: bool = False) -> TelemetryExport:
        """Store a checkpoint, and name it in the item."""
        name = _name(export)
        self._objects.put(name, checkpoints.stored(table.written(whole=whole)))
        until = self._clock.now() + (HELD_FOR if held else LOOKED_AFTER)
        held_until_ms = epoch_ms(until) if held else 0
        try:
            return self._exports.save(
                replace(export, checkpoint=name, attempts=0, held_until_ms=held_until_ms), due=until
            )
        except ExportChanged:
            if export.upload_id:
                # Where another has taken it, its upload is the one that the item names.
                self._tidy_lost(export)
            raise

    def _end(self, export: TelemetryExport, table: _Table) -> str:
        kind = KINDS[export.order.format]
        if not table.whole:
            table.rest += table.writer.end()
            if not export.upload_id:
                name, data = _name(export), bytes(table.rest)
                self._objects.put(name, data, kind=kind)
                return self._succeed(replace(export, table=name, size=len(data)))
            export = self._store_part(export, table)
            export = self._save(export, table, held=True, whole=True)
        # An attempt that died behind this has completed these parts; who cancels ends it and changes the version.
        with contextlib.suppress(TableUploadGone):
            self._objects.complete(export.table, export.upload_id, table.parts)
        return self._succeed(replace(export, size=sum(part.size for part in table.parts)))

    def _succeed(self, export: TelemetryExport) -> str:
        self._exports.succeed(export, at=self._clock.now())
        count("TelemetryExportSucceeded")
        count("TelemetryExportRows", export.rows)
        return ExportState.SUCCEEDED.value

    def _fail(self, export: TelemetryExport, failure: ExportFailure) -> str:
        self._exports.fail(export, failure, at=self._clock.now())
        count("TelemetryExportFailed")
        self._tidy(export)
        return ExportState.FAILED.value

    def _tidy(self, export: TelemetryExport) -> None:
        """Remove the parts of an export that has no table."""
        if export.upload_id and export.state is not ExportState.SUCCEEDED:
            self._objects.abort(export.table, export.upload_id)

    def _tidy_lost(self, export: TelemetryExport) -> None:
        now = self._exports.get(export.key)
        if now is None or now.upload_id != export.upload_id:
            self._objects.abort(export.table, export.upload_id)


class _Table:
    """The written part of a table, in the memory of a worker."""

    def __init__(self, written: Written, writer: TableWriter) -> None:
        self.parts: list[StoredTablePart] = list(written.parts)
        self.rest = bytearray(written.rest)
        self.writer = writer
        self.whole = written.whole

    def written(self, *, whole: bool) -> Written:
        return Written(parts=tuple(self.parts), writer=self.writer.state(), rest=bytes(self.rest), whole=whole)


def _behind(page: TelemetryPage) -> ExportPlace:
    """Return the place behind a page."""
    if page.next_position is None:
        return ExportPlace(page.to_ms, 0)
    reached_ms, skip = (page.next_position.get(name, 0) for name in ("ts", "n"))
    if not (isinstance(reached_ms, int) and isinstance(skip, int)):
        raise TypeError("a position has numbers")
    return ExportPlace(reached_ms, skip)


def _too_large(export: TelemetryExport, page: TelemetryPage) -> ExportFailure:
    left = export.order.most_rows - export.rows
    points: Sequence[TelemetryPoint] = page.points
    fits = iso(from_epoch_ms(points[left].ts))
    told = f"Your plan allows {export.order.most_rows} rows an export; it has fewer up to {fits}"
    return ExportFailure("EXPORT_TOO_LARGE", told)


def _name(export: TelemetryExport) -> str:
    """Return a name that no other attempt, and no other step of this one, gives to an object."""
    return f"{export.key.user_id}/{export.key.export_id}/{new_id()}"

"""Use cases of owners with exports: make one, see how far it is, get the link to its table, cancel it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from karma.core.clock import Clock, epoch_ms
from karma.core.errors import AlreadyExists, InvalidTransition, NotFound
from karma.core.ids import UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, RepeatableRequest, no_longer, repeatable
from karma.telemetry.exports.domain import (
    LOOKED_AFTER,
    ExportChanged,
    ExportId,
    ExportKey,
    ExportOrder,
    ExportPlace,
    ExportState,
    TelemetryExport,
)
from karma.telemetry.exports.messages import send_export
from karma.telemetry.exports.ports import ExportObjects, ExportQueue
from karma.telemetry.exports.repository import ExportRepository
from karma.telemetry.query import TelemetryQuery
from karma.telemetry.reading import TelemetryReader
from karma.telemetry.tables import KINDS, TableFormat


class ExportLink(Record):
    """A link that downloads a table."""

    url: str
    until: datetime


class ExportService:
    """Makes and cancels exports, and reads what became of them."""

    def __init__(
        self,
        exports: ExportRepository,
        reader: TelemetryReader,
        objects: ExportObjects,
        queue: ExportQueue,
        clock: Clock,
    ) -> None:
        self._exports = exports
        self._reader = reader
        self._objects = objects
        self._queue = queue
        self._clock = clock

    def create(
        self,
        user_id: UserId,
        query: TelemetryQuery,
        form: TableFormat,
        *,
        most_rows: int,
        idempotency_key: IdempotencyKey | None = None,
    ) -> TelemetryExport:
        """Store an export, and have its table written in the background; a repeat returns the first as it is by then.

        Args:
            user_id: whose telemetry it is.
            query: as of all pages; its range may be as long as what is kept.
            form: of the table.
            most_rows: rows that the plan allows.
            idempotency_key: of the request.

        Raises:
            NotFound, InvalidRequest: as TelemetryReader.asked.
            TooManyExports: as many of the account are not over as may be.
            IdempotencyKeyReused: the first request with this key asked for something else.
            Gone: what it made is no longer kept.
        """
        now = self._clock.now()
        request = repeatable(idempotency_key, query, form, at=now)
        if request is not None and (earlier := self._made_before(user_id, request)) is not None:
            return earlier
        devices, part = self._reader.asked(user_id, query, any_length=True)
        is_kept = part.start_ms < part.to_ms
        from_ms = part.start_ms if is_kept else part.from_ms
        export = TelemetryExport(
            key=ExportKey(user_id, ExportId(new_id())),
            order=ExportOrder(
                devices=tuple(devices),
                metrics=query.metrics,
                from_ms=from_ms,
                to_ms=part.to_ms,
                resolution=part.resolution,
                percents=query.percents,
                format=form,
                most_rows=most_rows,
            ),
            state=ExportState.QUEUED,
            created_ms=epoch_ms(now),
            place=ExportPlace(from_ms if is_kept else part.to_ms, 0),
        )
        try:
            self._exports.add(export, due=now + LOOKED_AFTER, request=request)
        except AlreadyExists:
            made = self._made_before(user_id, request) if request is not None else None
            if made is None:
                raise
            return made
        count("TelemetryExportCreated")
        logger.info("export.created", export_id=export.key.export_id)
        send_export(self._queue, export.key)
        return export

    def _made_before(self, user_id: UserId, request: RepeatableRequest) -> TelemetryExport | None:
        made = self._exports.made_by(user_id, request)
        if made is None:
            return None
        export = self._exports.get(ExportKey(user_id, made))
        if export is None:
            raise no_longer(made)
        return export

    def get(self, user_id: UserId, export_id: str) -> TelemetryExport:
        """Return an export: one read.

        Raises:
            NotFound: it does not exist, is another account's, or is no longer kept.
        """
        export = self._exports.get(ExportKey(user_id, ExportId(export_id))) if is_id(export_id) else None
        if export is None or export.is_forgotten(self._clock.now()):
            raise NotFound(f"Export {export_id} not found")
        return export

    def link(self, export: TelemetryExport) -> ExportLink | None:
        """Return a link to the table of an export, for an hour; a read a device.

        None: the table is not whole, or the account may not read one of its devices any more.
        """
        if export.state is not ExportState.SUCCEEDED or not self._reader.may_read(
            export.key.user_id, export.order.devices
        ):
            return None
        filename = f"telemetry.{KINDS[export.order.format].suffix}"
        return ExportLink(*self._objects.link(export.table, filename=filename, now=self._clock.now()))

    def list(self, user_id: UserId, *, limit: int, after: str = "") -> tuple[Sequence[TelemetryExport], str | None]:
        """Return an account's exports, newest first, and the `after` of the next page; None: nothing follows."""
        return self._exports.page(user_id, limit=limit, after=after, now=self._clock.now())

    def cancel(self, user_id: UserId, export_id: str) -> TelemetryExport:
        """Have nothing more written of an export; a repeat changes nothing.

        Raises:
            NotFound: as of `get`.
            InvalidTransition: it is over.
        """
        export = self.get(user_id, export_id)
        if export.is_open:
            try:
                self._exports.cancel(export, at=self._clock.now())
            except ExportChanged:
                export = self.get(user_id, export_id)
            else:
                count("TelemetryExportCancelled")
                send_export(self._queue, export.key)
                return self.get(user_id, export_id)
        if export.state is not ExportState.CANCELLED:
            raise InvalidTransition(f"Export {export_id} is over: it has {export.state}")
        return export

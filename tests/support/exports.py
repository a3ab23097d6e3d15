"""Exports of a `World`'s device: made, delivered and downloaded, on the engine's tables and bucket."""

from __future__ import annotations

import csv
import gzip
import io
import random
from typing import Any

from karma.integrations.s3_exports import S3ExportObjects
from karma.telemetry.domain import HOUR_MS, Resolution
from karma.telemetry.exports.domain import TelemetryExport
from karma.telemetry.exports.messages import read_export
from karma.telemetry.exports.repository import ExportRepository
from karma.telemetry.exports.service import ExportService
from karma.telemetry.exports.work import ExportWorker
from karma.telemetry.query import TelemetryQuery
from karma.telemetry.tables import TableFormat
from tests.support.devices import World
from tests.support.telemetry import MemoryQueue, Rolling

PART = 5 * 1024 * 1024
"""Least size of a part but the last."""


class Exporting:
    """Exports of a world's account, with all that handles them."""

    def __init__(self, world: World, *, page_rows: int = 40, part_bytes: int = PART, work_s: float = 20) -> None:
        self.world = world
        self.rolling = Rolling(world)
        self.queue: Any = MemoryQueue()
        self.store = ExportRepository()
        self.objects = S3ExportObjects(world.stack.bucket)
        self._how: dict[str, Any] = {"page_rows": page_rows, "part_bytes": part_bytes, "work_s": work_s}
        self.rebuild()
        self.begin = world.clock.ms - world.clock.ms % HOUR_MS - HOUR_MS

    def rebuild(self) -> None:
        """Build the services, over another queue if it was changed."""
        world = self.world
        self.service = ExportService(self.store, world.reader, self.objects, self.queue, world.clock)
        self.worker = self.a_worker(**self._how)

    def a_worker(self, *, page_rows: int = 40, part_bytes: int = PART, work_s: float = 20) -> ExportWorker:
        return ExportWorker(
            self.store,
            self.world.reader,
            self.objects,
            self.queue,
            self.world.clock,
            work_s=work_s,
            page_rows=page_rows,
            part_bytes=part_bytes,
        )

    def fill(self, count: int, *, step_ms: int = 1_000, begin: int = 0) -> None:
        """Store samples of two metrics, of which no two are alike."""
        noise = random.Random(count)
        for at in range(0, count, 200):
            times = [(begin or self.begin) + n * step_ms for n in range(at, min(count, at + 200))]
            self.rolling.world.tell(
                self.rolling.message([(ts, {"temp_c": ts % 7, "hum": noise.random()}) for ts in times])
            )

    def create(self, idempotency_key: Any = None, form: TableFormat = TableFormat.CSV, **asked: Any) -> TelemetryExport:
        most_rows = asked.pop("most_rows", 1_000)
        given = {
            "devices": (self.rolling.device_id,),
            "from_ms": self.begin,
            "to_ms": self.begin + HOUR_MS,
            "resolution": Resolution.RAW,
            **asked,
        }
        query = TelemetryQuery(**given)
        return self.service.create(self.world.user, query, form, most_rows=most_rows, idempotency_key=idempotency_key)

    def deliver(self, *, times: int = 1) -> list[str]:
        """Deliver what is in the queue, and what follows from it, each message so many times."""
        came = []
        while self.queue.bodies:
            taken = read_export(self.queue.bodies.pop(0))
            came += [self.worker.take(taken) for _ in range(times)]
        return came

    def read(self, export: TelemetryExport) -> TelemetryExport:
        return self.service.get(self.world.user, export.key.export_id)

    def rows(self, export: TelemetryExport) -> list[list[str]]:
        """Download the table of an export, as it says itself how long it is."""
        seen = self.read(export)
        stored = self.objects.read(seen.table)
        assert stored is not None
        assert len(stored) == seen.size
        found = list(csv.reader(io.StringIO(gzip.decompress(stored).decode(), newline="")))
        assert len(found) - 1 == seen.rows
        return found[1:]

    def uploads(self) -> int:
        found = self.world.stack.aws("s3").list_multipart_uploads(Bucket=self.world.stack.bucket, Prefix="exports/")
        return len([each for each in found.get("Uploads", []) if each["Key"].split("/")[1] == self.world.user])

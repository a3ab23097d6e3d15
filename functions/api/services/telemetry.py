"""Services of telemetry."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services import billing, devices
from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.telemetry.exports.service import ExportService
    from karma.telemetry.reading import TelemetryReader


@cache
def reader() -> TelemetryReader:
    """Return the reader of telemetry."""
    from karma.billing.plans import archived_days
    from karma.devices.lookup import SharedLookup
    from karma.devices.repository.telemetry import TelemetryRepository
    from karma.integrations.s3 import S3Archives
    from karma.telemetry.archive_repository import ArchiveRepository
    from karma.telemetry.archives import ArchivedBatches
    from karma.telemetry.reading import TelemetryReader
    from karma.telemetry.repository import RollupRepository

    return TelemetryReader(
        SharedLookup(devices.repository(), "read_devices"),
        ArchivedBatches(TelemetryRepository(), ArchiveRepository(), S3Archives(settings().files_bucket), clock()),
        RollupRepository(),
        clock(),
        kept_days=lambda user_id: archived_days(billing.subscriptions().plan(user_id)),
    )


@cache
def exports() -> ExportService:
    """Return the service of exports."""
    from karma.integrations.s3_exports import S3ExportObjects
    from karma.integrations.sqs import SqsQueue
    from karma.telemetry.exports.repository import ExportRepository
    from karma.telemetry.exports.service import ExportService

    objects, queue = S3ExportObjects(settings().files_bucket), SqsQueue(settings().telemetry_queue_url)
    return ExportService(ExportRepository(), reader(), objects, queue, clock())

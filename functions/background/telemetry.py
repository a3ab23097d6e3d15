"""Consumer of the queue of telemetry: a message names hours and days whose rollups are to be computed, or an export."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from karma.billing.plans import all_archived_days
from karma.core.batch import Ids, each_message
from karma.core.clock import Clock, SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.ids import UserId
from karma.core.records import Record
from karma.core.settings import FunctionSettings, load
from karma.devices.lookup import SharedLookup
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.telemetry import TelemetryRepository
from karma.integrations.s3 import S3Archives
from karma.integrations.s3_exports import S3ExportObjects
from karma.integrations.sqs import SqsQueue
from karma.telemetry.archive_repository import ArchiveRepository
from karma.telemetry.archives import ArchivedBatches
from karma.telemetry.archiving import Archiving
from karma.telemetry.domain import Period
from karma.telemetry.exports.domain import ExportKey
from karma.telemetry.exports.messages import read_export
from karma.telemetry.exports.repository import ExportRepository
from karma.telemetry.exports.work import ExportWorker
from karma.telemetry.reading import TelemetryReader
from karma.telemetry.rebuilding import Rebuilding, read_periods
from karma.telemetry.repository import RollupRepository

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    telemetry_table: str
    devices_table: str
    billing_table: str
    work_table: str
    files_bucket: str
    telemetry_queue_url: str


class Services(Record, kw_only=True):
    """Services that handle a message."""

    rollups: Rebuilding
    exports: ExportWorker


@cache
def services() -> Services:
    """Build what computes rollups and writes exports, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    clock = SystemClock()
    raw, notes = TelemetryRepository(), ArchiveRepository()
    objects = S3Archives(settings.files_bucket, kept_days=all_archived_days())
    batches, rollups = ArchivedBatches(raw, notes, objects, clock), RollupRepository()
    kept_days = partial(_kept_days, clock)
    rebuilding = Rebuilding(
        rollups, batches, clock, archives=notes, archiving=Archiving(raw, notes, objects, kept_days=kept_days)
    )
    devices = SharedLookup(DeviceRepository(), "read_devices")
    reader = TelemetryReader(devices, batches, rollups, clock, kept_days=kept_days)
    worker = ExportWorker(
        ExportRepository(),
        reader,
        S3ExportObjects(settings.files_bucket),
        SqsQueue(settings.telemetry_queue_url),
        clock,
    )
    return Services(rollups=rebuilding, exports=worker)


def _kept_days(clock: Clock, user_id: UserId) -> int:
    from karma.billing.plans import archived_days
    from karma.billing.repository.subscriptions import SubscriptionRepository
    from karma.billing.subscriptions import SubscriptionService

    return archived_days(SubscriptionService(subscriptions=SubscriptionRepository(), clock=clock).plan(user_id))


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Do what each message names; messages that fail come again, and end in the dead-letter queue."""
    return each_message(event, context.aws_request_id, name="telemetry", read=_read, handle=_handle)


def _read(body: str) -> tuple[list[Period] | ExportKey, Ids]:
    if '"export"' in body:
        key = read_export(body)
        return key, {"user_id": key.user_id, "export_id": key.export_id}
    periods = read_periods(body)
    return periods, {"device_ids": sorted({period.device_id for period in periods})}


def _handle(named: list[Period] | ExportKey) -> str:
    if isinstance(named, ExportKey):
        return services().exports.take(named)
    done = sum(services().rollups.rebuild(period) for period in named)
    return f"{done} of {len(named)}"

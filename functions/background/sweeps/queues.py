"""Sweeps that enqueue work again that was lost, or is due; they reach tables and queues and nothing else."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from background.sweeps.schedule import Sweeps, run
from karma.billing.customers import RenewalCheck
from karma.billing.inbox import InboxService
from karma.billing.repository.inbox import InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.conversations.deletion_repository import ThreadDeletionRepository
from karma.core.clock import Clock, SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.devices.repository.commands import CommandRepository
from karma.devices.sweeps import expire_commands
from karma.devices.wake_ups import QueuedWakeUps
from karma.identity.accounts.deletion import requeue_due
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.integrations.sqs import SqsQueue
from karma.mail.repository import OutboxRepository
from karma.mail.service import OutboxRelay
from karma.runs.expiry import request_expiries
from karma.runs.repository import RunRepository
from karma.threads.deletion import requeue_due as requeue_threads

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    billing_table: str
    devices_table: str
    agents_table: str
    realtime_table: str
    telemetry_table: str
    inbox_queue_url: str
    mail_queue_url: str
    deletions_queue_url: str
    ingest_queue_url: str
    short_work_queue_url: str
    webhooks_queue_url: str
    fires_queue_url: str
    telemetry_queue_url: str


@cache
def services() -> Sweeps:
    """Build the sweeps of this function, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    clock, stripe_inbox = SystemClock(), SqsQueue(settings.inbox_queue_url)
    commands, wake_ups = CommandRepository(), QueuedWakeUps(SqsQueue(settings.ingest_queue_url))
    deletions, cascade = DeletionRepository(), SqsQueue(settings.deletions_queue_url)
    threads = ThreadDeletionRepository()
    return {
        "inbox": InboxService(inbox=InboxRepository(), queue=stripe_inbox, clock=clock).requeue_due,
        "subscriptions": RenewalCheck(subscriptions=SubscriptionRepository(), queue=stripe_inbox, clock=clock).send_due,
        "mail": OutboxRelay(
            outbox=OutboxRepository(), queue=SqsQueue(settings.mail_queue_url), clock=clock
        ).requeue_due,
        "deletions": lambda: requeue_due(deletions, cascade, clock) + requeue_threads(threads, cascade, clock),
        "interrupts": lambda: request_expiries(RunRepository(), SqsQueue(settings.short_work_queue_url), clock),
        "webhooks": lambda: _look_at_webhooks(SqsQueue(settings.webhooks_queue_url), clock),
        "schedules": lambda: _send_fires(settings, clock),
        "alarms": lambda: _alarms(clock),
        "rollups": lambda: _send_telemetry(settings, clock),
        "bulks": lambda: _send_open_parts(settings, clock),
        "commands": lambda: expire_commands(commands, wake_ups, clock),
    }


def _look_at_webhooks(queue: SqsQueue, clock: Clock) -> int:
    from karma.webhooks.looks import send_due_looks
    from karma.webhooks.repository.deliveries import DeliveryRepository

    return send_due_looks(DeliveryRepository(), queue, clock)


def _send_open_parts(settings: Settings, clock: Clock) -> int:
    from karma.devices.bulk_parts import QueuedBulkParts
    from karma.devices.bulk_sweep import send_open_parts
    from karma.devices.repository.bulk_commands import BulkCommandRepository

    return send_open_parts(BulkCommandRepository(), QueuedBulkParts(SqsQueue(settings.ingest_queue_url)), clock)


def _alarms(clock: Clock) -> int:
    from karma.alarms.repository.alarms import AlarmRepository
    from karma.alarms.repository.rules import AlarmRuleRepository
    from karma.alarms.sweeps import AlarmSweep
    from karma.devices.repository.devices import DeviceRepository

    return AlarmSweep(AlarmRuleRepository(), AlarmRepository(), DeviceRepository(), clock).run()


def _send_fires(settings: Settings, clock: Clock) -> int:
    from karma.schedules.repository import ScheduleRepository
    from karma.schedules.sweeps import send_due

    return send_due(ScheduleRepository(), SqsQueue(settings.fires_queue_url), clock)


def _send_telemetry(settings: Settings, clock: Clock) -> int:
    from karma.telemetry.exports.repository import ExportRepository
    from karma.telemetry.exports.sweep import send_open_exports
    from karma.telemetry.repository import RollupRepository
    from karma.telemetry.sweeps import send_dirty

    queue = SqsQueue(settings.telemetry_queue_url)
    return send_dirty(RollupRepository(), queue, clock) + send_open_exports(ExportRepository(), queue, clock)


def lambda_handler(event: Any, context: LambdaContext) -> dict[str, int]:
    """Run one sweep."""
    return run(services(), event, context)

"""The scheduled sweeps: the event is `{"sweep": <one of _SWEEPS>}`, each once a minute."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from karma.billing.customers import RenewalCheck
from karma.billing.repository.inbox import InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.service import InboxOperations
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.errors import ValidationFailed
from karma.core.observability import logger
from karma.core.settings import FunctionSettings, load
from karma.devices.repository.commands import CommandRepository
from karma.devices.sweeps import expire_commands, sweep_orphans
from karma.devices.wake_ups import QueuedWakeUps
from karma.files.removal import FilesOfDevices
from karma.files.repository.files import FileRepository
from karma.files.sweeps import FileSweep
from karma.identity.accounts.deletion import requeue_due
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.integrations.iot import IotRegistry
from karma.integrations.s3 import S3Files
from karma.integrations.sqs import SqsQueue
from karma.mail.repository import OutboxRepository
from karma.mail.service import OutboxRelay
from karma.projects.repository import ProjectRepository
from karma.projects.sweeps import finish_deletions as finish_deletions_of_projects
from karma.projects.sweeps import finish_moves as finish_moves_of_seats
from karma.tasks.repository import TaskRepository
from karma.tasks.sweeps import finish_deletions as finish_deletions_of_tasks

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """Variables of this function."""

    identity_table: str
    billing_table: str
    inbox_queue_url: str
    deletions_queue_url: str
    mail_queue_url: str
    devices_table: str
    telemetry_table: str
    work_table: str
    ingest_queue_url: str
    device_policy_name: str
    files_bucket: str
    files_queue_url: str


@cache
def settings() -> Settings:
    """Read the environment once, and tell the process which tables it names."""
    loaded = load(Settings)
    bind_tables(loaded)
    return loaded


def lambda_handler(event: Any, context: LambdaContext) -> dict[str, int]:
    """Run one sweep; errors are raised, and the schedule's alarm sees them.

    Events: infra/catalog.py SWEEPS

    Raises:
        ValidationFailed: the event names no sweep.
    """
    sweep = event.get("sweep") if isinstance(event, dict) else None
    if not isinstance(sweep, str) or sweep not in _SWEEPS:
        raise ValidationFailed.of("sweep", f"must be one of {', '.join(_SWEEPS)}")
    settings()
    changed = _SWEEPS[sweep]()
    if changed:
        logger.info("sweep.done", sweep=sweep, changed=changed, request_id=context.aws_request_id)
    return {"changed": changed}


def _inbox() -> int:
    inbox = InboxRepository()
    return InboxOperations(inbox=inbox, queue=SqsQueue(settings().inbox_queue_url), clock=SystemClock()).requeue_due()


def _subscriptions() -> int:
    rows, queue = SubscriptionRepository(), SqsQueue(settings().inbox_queue_url)
    return RenewalCheck(subscriptions=rows, queue=queue, clock=SystemClock()).send_due()


def _mail() -> int:
    outbox = OutboxRepository()
    return OutboxRelay(outbox=outbox, queue=SqsQueue(settings().mail_queue_url), clock=SystemClock()).requeue_due()


def _commands() -> int:
    commands, wake_ups = CommandRepository(), QueuedWakeUps(SqsQueue(settings().ingest_queue_url))
    return expire_commands(commands, wake_ups, SystemClock())


def _orphans() -> int:
    return sweep_orphans(
        registry=IotRegistry(policy_name=settings().device_policy_name),
        clock=SystemClock(),
        others=(FilesOfDevices(_file_repository(), S3Files(settings().files_bucket)),),
    )


def _files() -> int:
    store, queue = S3Files(settings().files_bucket), SqsQueue(settings().files_queue_url)
    return FileSweep(_file_repository(), store, queue, SystemClock()).run()


def _file_repository() -> FileRepository:
    return FileRepository()


def _deletions() -> int:
    return requeue_due(DeletionRepository(), SqsQueue(settings().deletions_queue_url), SystemClock())


def _tasks() -> int:
    return finish_deletions_of_tasks(TaskRepository(), SystemClock())


def _projects() -> int:
    # Those who were members give their seats back, those of a project that another plan pays for take them there.
    store, clock = ProjectRepository(), SystemClock()
    return finish_deletions_of_projects(store, clock) + finish_moves_of_seats(store, clock)


_SWEEPS = {
    "inbox": _inbox,
    "subscriptions": _subscriptions,
    "mail": _mail,
    "commands": _commands,
    "files": _files,
    "orphans": _orphans,
    "projects": _projects,
    "tasks": _tasks,
    "deletions": _deletions,
}

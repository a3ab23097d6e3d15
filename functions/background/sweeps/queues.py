"""Sweeps that enqueue work again that was lost, or is due; they reach tables and queues and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from background.sweeps.schedule import Sweeps, run
from karma.billing.customers import RenewalCheck
from karma.billing.inbox import InboxService
from karma.billing.repository.inbox import InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.conversations.deletion_repository import ThreadDeletionRepository
from karma.core.clock import SystemClock
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
from karma.threads.deletion import requeue_due as requeue_threads

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """Variables of this function."""

    identity_table: str
    billing_table: str
    devices_table: str
    agents_table: str
    inbox_queue_url: str
    mail_queue_url: str
    deletions_queue_url: str
    ingest_queue_url: str


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
        "commands": lambda: expire_commands(commands, wake_ups, clock),
    }


def lambda_handler(event: Any, context: LambdaContext) -> dict[str, int]:
    """Run one sweep."""
    return run(services(), event, context)

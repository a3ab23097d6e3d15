"""Consumer of the runs queue: inspects runs whose process may be gone. See karma/runs/watchdog.py."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from karma.core.batch import Ids, each_message
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.records import Record
from karma.core.settings import FunctionSettings, load
from karma.integrations.sqs import SqsQueue
from karma.runs.repository import RunRepository
from karma.runs.watchdog import Inspector, QueuedExecutions, QueueWatchdog, Watch, attend, read_watch

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    agents_table: str
    billing_table: str
    runs_queue_url: str
    executions_queue_url: str


class Services(Record, kw_only=True):
    """Services that handle a message."""

    inspector: Inspector
    watchdog: QueueWatchdog


@cache
def services() -> Services:
    """Build the services of this function, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    executions = QueuedExecutions(SqsQueue(settings.executions_queue_url))
    return Services(
        inspector=Inspector(RunRepository(), executions, SystemClock()),
        watchdog=QueueWatchdog(SqsQueue(settings.runs_queue_url)),
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Check each run that a message names; messages that fail are delivered again, and end in the dead-letter queue."""
    return each_message(event, context.aws_request_id, name="run.watch", read=_read, handle=_attend)


def _read(body: str) -> tuple[Watch, Ids]:
    watch = read_watch(body)
    return watch, {"user_id": watch.key.user_id, "run_id": watch.key.run_id}


def _attend(watch: Watch) -> str:
    given = services()
    attend(given.inspector, given.watchdog, watch)
    return "looked at"

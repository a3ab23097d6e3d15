"""Consumer of the runs queue: ends runs whose process may be gone. See karma/runs/watchdog.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from karma.core.batch import Ids, each_message
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.integrations.sqs import SqsQueue
from karma.runs.domain import RunKey
from karma.runs.repository import RunRepository
from karma.runs.watchdog import QueueWatchdog, attend, read_message

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """Variables of this function."""

    agents_table: str
    runs_queue_url: str


@cache
def services() -> tuple[RunRepository, QueueWatchdog]:
    """Build the store of runs and the watchdog once a process."""
    settings = load(Settings)
    bind_tables(settings)
    return RunRepository(), QueueWatchdog(SqsQueue(settings.runs_queue_url))


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Check each run that a message names; messages that fail are delivered again, and end in the dead-letter queue."""
    return each_message(event, context.aws_request_id, name="run.watch", read=_read, handle=_attend)


def _read(body: str) -> tuple[RunKey, Ids]:
    key = read_message(body)
    return key, {"user_id": key.user_id, "run_id": key.run_id}


def _attend(key: RunKey) -> str:
    store, watchdog = services()
    attend(store, SystemClock(), watchdog, key)
    return "looked at"

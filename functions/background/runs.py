"""Consumer of the runs queue: ends runs whose process may be gone. See karma/runs/watchdog.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.integrations.sqs import SqsQueue
from karma.runs.repository import RunRepository
from karma.runs.watchdog import QueueWatchdog, attend, read_message

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
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


_processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


def _attend(record: SQSRecord) -> None:
    store, watchdog = services()
    attend(store, SystemClock(), watchdog, read_message(record.body))


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Check each run that a message names; messages that fail are delivered again, and end in the dead-letter queue."""
    return process_partial_response(event=event, record_handler=_attend, processor=_processor, context=context)

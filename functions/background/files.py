"""Consumer of the files queue: verifies uploaded files. See karma/files/verification.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.observability import logger
from karma.core.settings import FunctionSettings, load
from karma.files.repository.files import FileRepository
from karma.files.verification import Verifier, read_message
from karma.integrations.s3 import S3Files

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from aws_lambda_powertools.utilities.typing import LambdaContext


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """Variables of this function."""

    devices_table: str
    billing_table: str
    files_bucket: str


@cache
def verifier() -> Verifier:
    """Build the verifier once a process."""
    settings = load(Settings)
    bind_tables(settings)
    files = FileRepository()
    return Verifier(files, S3Files(settings.files_bucket), SystemClock())


_processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


def _verify(record: SQSRecord) -> None:
    device_id, file_id = read_message(record.body)
    logger.info("file.verified", outcome=verifier().verify(device_id, file_id), file_id=file_id)


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Verify each file that a message names; messages that fail come again, and end in the dead-letter queue."""
    return process_partial_response(event=event, record_handler=_verify, processor=_processor, context=context)

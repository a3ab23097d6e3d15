"""Consumer of the files queue: verifies uploaded files. See karma/files/verification.py."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from karma.core.batch import Ids, each_message
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.ids import DeviceId, FileId
from karma.core.settings import FunctionSettings, load
from karma.files.repository.files import FileRepository
from karma.files.verification import UploadVerifier, read_message
from karma.integrations.s3 import S3Files

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    devices_table: str
    billing_table: str
    files_bucket: str


@cache
def services() -> UploadVerifier:
    """Build the verifier once a process."""
    settings = load(Settings)
    bind_tables(settings)
    files = FileRepository()
    return UploadVerifier(files, S3Files(settings.files_bucket), SystemClock())


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Verify each file that a message names; messages that fail come again, and end in the dead-letter queue."""
    return each_message(event, context.aws_request_id, name="file.verification", read=_read, handle=_verify)


def _read(body: str) -> tuple[tuple[DeviceId, FileId], Ids]:
    device_id, file_id = read_message(body)
    return (device_id, file_id), {"device_id": device_id, "file_id": file_id}


def _verify(message: tuple[DeviceId, FileId]) -> str:
    return str(services().verify(*message))

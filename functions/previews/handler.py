"""Consumer of the previews queue: thumbnails and texts of listed files. See karma/files/previewing.py.

A package of its own, since it alone has Pillow and PDFium, and a role that writes previews and nothing else.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from karma.core.batch import Ids, each_message
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.ids import DeviceId, FileId
from karma.core.settings import FunctionSettings, load
from karma.files.previewing import PreviewMaker
from karma.files.repository.files import FileRepository
from karma.files.repository.previews import PreviewRepository
from karma.files.verification import read_message
from karma.integrations.preview_process import ChildRenderer
from karma.integrations.s3 import S3Files
from karma.integrations.s3_previews import S3Previews

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    devices_table: str
    files_bucket: str


@cache
def services() -> PreviewMaker:
    """Build the maker once a process."""
    settings = load(Settings)
    bind_tables(settings)
    objects, store = S3Files(settings.files_bucket), S3Previews(settings.files_bucket)
    return PreviewMaker(FileRepository(), PreviewRepository(), objects, store, ChildRenderer(), SystemClock())


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Make the preview of each file that a message names; those that fail come again, and end in the dead letters."""
    return each_message(event, context.aws_request_id, name="file.preview", read=_read, handle=_make)


def _read(body: str) -> tuple[tuple[DeviceId, FileId], Ids]:
    device_id, file_id = read_message(body)
    return (device_id, file_id), {"device_id": device_id, "file_id": file_id}


def _make(message: tuple[DeviceId, FileId]) -> str:
    return services().make(*message)

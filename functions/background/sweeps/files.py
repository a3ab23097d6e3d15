"""The sweep of files: the only one that removes objects and reaches no registry of devices."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from background.sweeps.schedule import Sweeps, run
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.files.repository.files import FileRepository
from karma.files.repository.tree_changes import TreeChangeRepository
from karma.files.sweeps import FileSweep
from karma.files.trees.sweep import send_open_changes
from karma.integrations.s3 import S3Files
from karma.integrations.sqs import SqsQueue

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    devices_table: str
    billing_table: str
    files_bucket: str
    files_queue_url: str


@cache
def services() -> Sweeps:
    """Build the sweep of this function, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    store, queue, clock = S3Files(settings.files_bucket), SqsQueue(settings.files_queue_url), SystemClock()
    files, changes = FileSweep(FileRepository(), store, queue, clock), TreeChangeRepository()
    return {"files": lambda: files.run() + send_open_changes(changes, queue, clock)}


def lambda_handler(event: Any, context: LambdaContext) -> dict[str, int]:
    """Run the sweep."""
    return run(services(), event, context)

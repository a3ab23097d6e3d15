"""Consumer of the files queue: verifies uploaded files, and moves and deletes trees of them.

See karma/files/verification.py and karma/files/trees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from karma.core.batch import Ids, each_message
from karma.core.clock import Clock, SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.ids import DeviceId, FileId
from karma.core.records import Record
from karma.core.settings import FunctionSettings, load
from karma.files.repository.files import FileRepository
from karma.files.verification import UploadVerifier, read_message
from karma.integrations.s3 import S3Files

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from karma.files.marks import TreeChangeId
    from karma.files.ports import ObjectStore
    from karma.files.trees.work import TreeWorker


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    devices_table: str
    billing_table: str
    files_bucket: str
    files_queue_url: str


class Named(Record):
    """File or tree change that a message names."""

    device: DeviceId
    file: FileId = FileId("")
    change: TreeChangeId | None = None


class Services(Record, kw_only=True):
    """Services that handle a message; a first one seldom names a tree, so what works on trees is built by one."""

    verifier: UploadVerifier
    trees: Callable[[], TreeWorker]


@cache
def services() -> Services:
    """Build the verifier once a process."""
    settings = load(Settings)
    bind_tables(settings)
    files, store, clock = FileRepository(), S3Files(settings.files_bucket), SystemClock()
    return Services(verifier=UploadVerifier(files, store, clock), trees=partial(_trees, files, store, clock, settings))


def _trees(files: FileRepository, store: ObjectStore, clock: Clock, settings: Settings) -> TreeWorker:
    from karma.files.repository.tree_changes import TreeChangeRepository
    from karma.files.repository.trees import TreeRepository
    from karma.files.trees.work import TreeTools, TreeWorker
    from karma.integrations.sqs import SqsQueue

    tools = TreeTools(
        files=files,
        changes=TreeChangeRepository(),
        trees=TreeRepository(),
        store=store,
        queue=SqsQueue(settings.files_queue_url),
        clock=clock,
    )
    return TreeWorker(tools)


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Do what each message names; messages that fail come again, and end in the dead-letter queue."""
    return each_message(event, context.aws_request_id, name="file.verification", read=_read, handle=_handle)


def _read(body: str) -> tuple[Named, Ids]:
    if '"tree_change"' in body:
        from karma.files.trees.messages import read_tree_change

        device_id, change_id = read_tree_change(body)
        return Named(device_id, change=change_id), {"device_id": device_id, "change_id": change_id}
    device_id, file_id = read_message(body)
    return Named(device_id, file=file_id), {"device_id": device_id, "file_id": file_id}


def _handle(named: Named) -> str:
    if named.change is not None:
        from karma.files.trees.domain import TreeChangeKey

        return services().trees().take(TreeChangeKey(named.device, named.change))
    return services().verifier.verify(named.device, named.file)

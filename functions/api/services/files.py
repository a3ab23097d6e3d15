"""Services of devices' files."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services import devices, identity
from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.devices.lookup import DeviceLookup
    from karma.files.previewing import PreviewReader
    from karma.files.repository.files import FileRepository
    from karma.files.service import FileService
    from karma.files.shares import ShareService
    from karma.files.trees.service import TreeService
    from karma.files.uploads import UploadService
    from karma.integrations.s3 import S3Files


@cache
def store() -> S3Files:
    """Return the store of files' bytes."""
    from karma.integrations.s3 import S3Files

    return S3Files(settings().files_bucket)


@cache
def device_parent() -> DeviceLookup:
    """Return the check that a device is its owner's."""
    from karma.devices.lookup import DeviceLookup

    return DeviceLookup(devices.repository())


@cache
def repository() -> FileRepository:
    """Return the repository of files."""
    from karma.files.repository.files import FileRepository

    return FileRepository()


@cache
def uploads() -> UploadService:
    """Return the service of uploads."""
    from karma.files.uploads import UploadService
    from karma.integrations.sqs import SqsQueue

    queue = SqsQueue(settings().files_queue_url)
    return UploadService(repository(), store(), device_parent(), queue, clock())


@cache
def previews() -> PreviewReader:
    """Return the reader of files' previews."""
    from karma.files.entries import Entries
    from karma.files.previewing import PreviewReader
    from karma.integrations.s3_previews import S3Previews

    entries = Entries(repository(), device_parent(), clock())
    return PreviewReader(entries, S3Previews(settings().files_bucket))


@cache
def shares() -> ShareService:
    """Return the service of links to files."""
    from karma.files.entries import Entries
    from karma.files.repository.shares import ShareRepository
    from karma.files.shares import ShareService

    entries = Entries(repository(), device_parent(), clock())
    return ShareService(ShareRepository(), entries, identity.users(), store(), clock())


@cache
def service() -> FileService:
    """Return the service of files."""
    from karma.files.service import FileService

    return FileService(repository(), store(), device_parent(), clock())


@cache
def trees() -> TreeService:
    """Return the service of trees that are moved and deleted."""
    from karma.files.repository.tree_changes import TreeChangeRepository
    from karma.files.trees.service import TreeService
    from karma.integrations.sqs import SqsQueue

    queue = SqsQueue(settings().files_queue_url)
    return TreeService(repository(), TreeChangeRepository(), device_parent(), queue, clock())

"""Files of devices."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.deps import devices
from api.deps.process import clock, settings

if TYPE_CHECKING:
    from karma.devices.parent import DeviceParent
    from karma.files.repository.files import FileRepository
    from karma.files.service import FileService
    from karma.files.uploads import UploadService
    from karma.integrations.s3 import S3Files


@cache
def store() -> S3Files:
    """Name the bucket."""
    from karma.integrations.s3 import S3Files

    return S3Files(settings().files_bucket)


@cache
def device_parent() -> DeviceParent:
    """Tell whose a device is."""
    from karma.devices.parent import DeviceParent

    return DeviceParent(devices.repository())


@cache
def repository() -> FileRepository:
    """Keep files of devices."""
    from karma.files.repository.files import FileRepository

    return FileRepository()


@cache
def uploads() -> UploadService:
    """Begin and end uploads."""
    from karma.files.uploads import UploadService
    from karma.integrations.sqs import SqsQueue

    queue = SqsQueue(settings().files_queue_url)
    return UploadService(repository(), store(), device_parent(), queue, clock())


@cache
def service() -> FileService:
    """List, show, change and delete files."""
    from karma.files.service import FileService

    return FileService(repository(), store(), device_parent(), clock())

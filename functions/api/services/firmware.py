"""Releases of firmware, and rollouts."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.firmware.rollouts import RolloutService
    from karma.firmware.service import ReleaseService


@cache
def releases() -> ReleaseService:
    """Create, upload, publish, show and delete releases."""
    from karma.firmware.repository.releases import ReleaseRepository
    from karma.firmware.repository.rollouts import RolloutRepository
    from karma.firmware.service import ReleaseService
    from karma.integrations.s3_firmware import S3Firmware

    store = S3Firmware(settings().files_bucket)
    return ReleaseService(ReleaseRepository(), RolloutRepository(), store, clock())


@cache
def rollouts() -> RolloutService:
    """Begin, show, pause, resume, cancel and roll back rollouts. Jobs are only cancelled here; a sweep makes them."""
    from api.services import devices
    from karma.devices.repository.deleted_devices import DeletedDeviceRepository
    from karma.firmware.fleet import DeviceFleet
    from karma.firmware.repository.rollouts import RolloutRepository
    from karma.firmware.rollouts import RolloutService
    from karma.integrations.iot_jobs import IotJobs

    return RolloutService(
        RolloutRepository(),
        IotJobs(),
        clock(),
        candidates=DeviceFleet(devices.repository(), DeletedDeviceRepository()),
        release=releases().get,
    )

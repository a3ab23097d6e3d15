"""The sweep of rollouts: the only one that makes jobs for devices."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from background.sweeps.schedule import Sweeps, run
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.devices.repository.deleted_devices import DeletedDeviceRepository
from karma.devices.repository.devices import DeviceRepository
from karma.firmware.advance import RolloutSweep
from karma.firmware.fleet import DeviceFleet
from karma.firmware.repository.releases import ReleaseRepository
from karma.firmware.repository.rollouts import RolloutRepository
from karma.integrations.iot_jobs import IotJobs

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    devices_table: str
    files_bucket: str
    firmware_role_arn: str
    """Role by which AWS IoT signs links to releases; its ARN also has the account of the things."""


@cache
def services() -> Sweeps:
    """Build the sweep of this function, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    rollouts = RolloutRepository()
    sweep = RolloutSweep(
        rollouts=rollouts,
        looks=rollouts,
        releases=ReleaseRepository(),
        jobs=IotJobs(bucket=settings.files_bucket, role_arn=settings.firmware_role_arn),
        devices=DeviceFleet(DeviceRepository(), DeletedDeviceRepository()),
        clock=SystemClock(),
    )
    return {"rollouts": sweep.run}


def lambda_handler(event: Any, context: LambdaContext) -> dict[str, int]:
    """Run the sweep."""
    return run(services(), event, context)

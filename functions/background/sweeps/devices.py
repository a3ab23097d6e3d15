"""The sweep of devices that are half made or deleted: the only one that changes the registry of AWS IoT.

It removes objects, too: the files of a deleted device go before the row by which the device is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from background.sweeps.schedule import Sweeps, run
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.devices.sweeps import sweep_orphans
from karma.files.removal import FilesOfDevices
from karma.files.repository.files import FileRepository
from karma.integrations.iot import IotRegistry
from karma.integrations.s3 import S3Files

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """Variables of this function."""

    devices_table: str
    telemetry_table: str
    billing_table: str
    files_bucket: str
    device_policy_name: str


@cache
def services() -> Sweeps:
    """Build the sweep of this function, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    registry = IotRegistry(policy_name=settings.device_policy_name)
    others = (FilesOfDevices(FileRepository(), S3Files(settings.files_bucket)),)
    return {"orphans": lambda: sweep_orphans(registry=registry, clock=SystemClock(), others=others)}


def lambda_handler(event: Any, context: LambdaContext) -> dict[str, int]:
    """Run the sweep."""
    return run(services(), event, context)

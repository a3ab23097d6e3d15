"""The sweeps of devices that are half made or deleted, and of certificates: they change the registry of AWS IoT.

It removes objects, too: the files of a deleted device go before the row by which the device is found.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from background.sweeps.schedule import Sweeps, run
from karma.alarms.repository.alarms import AlarmRepository
from karma.billing.plans import all_archived_days
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.devices.certificates import CertificateService, sweep_rotations
from karma.devices.claims import ProvisioningClaimService, SerialSettling, sweep_provisioning
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.provisioning_claims import ProvisioningClaimRepository
from karma.devices.repository.rotations import RotationRepository
from karma.devices.sweeps import sweep_orphans
from karma.files.removal import FilesOfDevices
from karma.files.repository.files import FileRepository
from karma.integrations.iot import IotRegistry
from karma.integrations.s3 import S3Archives, S3Files
from karma.projects.removal import SharesOfDevices
from karma.projects.repository.devices import ProjectDeviceRepository
from karma.telemetry.removal import TelemetryOfDevices
from karma.telemetry.repository import RollupRepository

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    devices_table: str
    telemetry_table: str
    work_table: str
    billing_table: str
    files_bucket: str
    device_policy_name: str
    claim_policy_name: str
    iot_data_endpoint: str = ""


@cache
def services() -> Sweeps:
    """Build the sweeps of this function, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    registry = IotRegistry(policy_name=settings.device_policy_name, data_endpoint_url=settings.iot_data_endpoint)
    clock = SystemClock()
    others = (
        FilesOfDevices(FileRepository(), S3Files(settings.files_bucket)),
        TelemetryOfDevices(RollupRepository(), S3Archives(settings.files_bucket, kept_days=all_archived_days()), clock),
        AlarmRepository(),
        SharesOfDevices(ProjectDeviceRepository()),
    )
    rotations = RotationRepository()
    certificates = CertificateService(DeviceRepository(), rotations, registry, clock)
    claims = ProvisioningClaimRepository()
    provisioning = ProvisioningClaimService(claims, IotRegistry(policy_name=settings.claim_policy_name), clock)
    settling = SerialSettling(claims, DeviceRepository(), registry, clock)
    return {
        "orphans": lambda: sweep_orphans(registry=registry, clock=clock, others=others),
        "rotations": lambda: sweep_rotations(certificates, rotations, clock),
        "provisioning": lambda: sweep_provisioning(provisioning, settling, claims, clock),
    }


def lambda_handler(event: Any, context: LambdaContext) -> dict[str, int]:
    """Run a sweep."""
    return run(services(), event, context)

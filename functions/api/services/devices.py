"""Services of devices and their commands."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.devices.bulk_commands import BulkCommandService
    from karma.devices.certificates import CertificateService
    from karma.devices.claims import ProvisioningClaimService
    from karma.devices.commands import CommandService
    from karma.devices.importing import ImportService
    from karma.devices.repository.dead_letters import DeadLetterRepository
    from karma.devices.repository.devices import DeviceRepository
    from karma.devices.service import DeviceService
    from karma.devices.settings import SettingsService
    from karma.devices.sharing import SharedDevices
    from karma.devices.transfers import TransferService
    from karma.integrations.iot import IotRegistry
    from karma.integrations.iot_shadows import IotShadows
    from karma.projects.devices import ProjectDevices


@cache
def repository() -> DeviceRepository:
    """Return the repository of devices."""
    from karma.devices.repository.devices import DeviceRepository

    return DeviceRepository()


@cache
def registry() -> IotRegistry:
    """Return the registry of AWS IoT."""
    return _registry(settings().device_policy_name)


def _registry(policy_name: str) -> IotRegistry:
    from karma.integrations.iot import IotRegistry

    given = settings()
    return IotRegistry(
        policy_name=policy_name,
        mqtt_host=given.mqtt_host,
        mqtt_port=given.mqtt_port,
        ca_pem=given.mqtt_ca_pem,
        basic_ingest_rule=given.basic_ingest_rule,
        provisioning_template=given.provisioning_template,
        data_endpoint_url=given.iot_data_endpoint,
    )


@cache
def service() -> DeviceService:
    """Return the service of devices."""
    from karma.devices.service import DeviceService

    return DeviceService(repository(), registry(), clock())


@cache
def certificates() -> CertificateService:
    """Return the service of devices' certificates."""
    from karma.devices.certificates import CertificateService
    from karma.devices.repository.rotations import RotationRepository

    return CertificateService(repository(), RotationRepository(), registry(), clock())


@cache
def claims() -> ProvisioningClaimService:
    """Return the service of provisioning claims."""
    from karma.devices.claims import ProvisioningClaimService
    from karma.devices.repository.provisioning_claims import ProvisioningClaimRepository

    of_claims = _registry(settings().claim_policy_name)
    return ProvisioningClaimService(ProvisioningClaimRepository(), of_claims, clock())


@cache
def shared() -> SharedDevices:
    """Return what reaches devices that others share with projects of the caller's."""
    from karma.devices.sharing import SharedDevices

    return SharedDevices(of_projects, repository())


@cache
def of_projects() -> ProjectDevices:
    """Return the service of devices that projects show."""
    from api.services import projects
    from karma.projects.access import ProjectAccess
    from karma.projects.devices import ProjectDevices
    from karma.projects.repository.devices import ProjectDeviceRepository

    return ProjectDevices(ProjectDeviceRepository(), ProjectAccess(projects.repository()), clock())


@cache
def transfers() -> TransferService:
    """Return the service of transfers of devices to other accounts."""
    from api.services import billing, identity, mail
    from karma.core.dynamo.buckets import DynamoBuckets
    from karma.devices.repository.transfers import TransferRepository
    from karma.devices.transfers import TransferService

    return TransferService(
        TransferRepository(),
        repository(),
        identity.users(),
        proof=identity.prove_presence,
        allowance_of=billing.allowances().of,
        outbox_relay=mail.outbox_relay(),
        buckets=DynamoBuckets(),
        shadows=shadows(),
        clock=clock(),
    )


@cache
def shadows() -> IotShadows:
    """Return the shadows of devices, which hold their settings."""
    from karma.integrations.iot_shadows import IotShadows

    return IotShadows(endpoint_url=settings().iot_data_endpoint)


@cache
def device_settings() -> SettingsService:
    """Return the service of devices' settings."""
    from karma.devices.repository.settings_changes import SettingsChangeRepository
    from karma.devices.settings import SettingsService

    return SettingsService(repository(), SettingsChangeRepository(), shadows(), clock())


@cache
def imports() -> ImportService:
    """Return the service that makes devices of lists."""
    from karma.devices.importing import ImportService

    return ImportService(repository(), clock())


@cache
def commands() -> CommandService:
    """Return the service of commands."""
    from karma.devices.commands import CommandService
    from karma.devices.repository.commands import CommandRepository
    from karma.devices.wake_ups import QueuedWakeUps
    from karma.integrations.iot import IotPublisher
    from karma.integrations.sqs import SqsQueue

    commands = CommandRepository()
    publisher = IotPublisher(endpoint_url=settings().iot_data_endpoint)
    wake_ups = QueuedWakeUps(SqsQueue(settings().ingest_queue_url))
    return CommandService(repository(), commands, publisher, wake_ups, clock())


@cache
def bulk_commands() -> BulkCommandService:
    """Return the service of commands to many devices."""
    from karma.devices.bulk_commands import BulkCommandService
    from karma.devices.bulk_parts import QueuedBulkParts
    from karma.devices.repository.bulk_commands import BulkCommandRepository
    from karma.devices.repository.commands import CommandRepository
    from karma.integrations.sqs import SqsQueue

    queue = QueuedBulkParts(SqsQueue(settings().ingest_queue_url))
    return BulkCommandService(BulkCommandRepository(), repository(), CommandRepository(), queue, clock())


@cache
def dead_letters() -> DeadLetterRepository:
    """Return the repository of dead letters: messages of devices that could not be read."""
    from karma.devices.repository.dead_letters import DeadLetterRepository

    return DeadLetterRepository()

"""Consumer of the queue of deletions: a message names an account (docs/adr/0014) or a thread (docs/adr/0045)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from karma.alarms.repository.alarms import AlarmRepository
from karma.billing.plans import all_archived_days
from karma.billing.purge import BillingPurge, UsagePurge
from karma.billing.repository.customers import CustomerRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.repository.usage import UsageRepository
from karma.conversations.deletion_repository import ThreadDeletionRepository
from karma.conversations.domain import ThreadKey
from karma.conversations.purge import empty_messages
from karma.core import purge, secrets
from karma.core.batch import Ids, each_message
from karma.core.clock import Clock, SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.ids import UserId, is_id
from karma.core.records import Record
from karma.core.settings import FunctionSettings, load
from karma.devices.claims import ProvisioningPurge
from karma.devices.purge import DevicesPurge
from karma.devices.repository.deleted_devices import DeletedDeviceRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.provisioning_claims import ProvisioningClaimRepository
from karma.files.removal import FilesOfDevices
from karma.files.repository.files import FileRepository
from karma.firmware.purge import FirmwarePurge
from karma.firmware.repository.rollouts import RolloutRepository
from karma.identity.accounts.deletion import Cascade
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.identity.accounts.repository.purge import AccountPurge
from karma.integrations.iot import IotRegistry
from karma.integrations.iot_jobs import IotJobs
from karma.integrations.s3 import S3Archives, S3Attachments, S3Files
from karma.integrations.s3_exports import S3ExportObjects
from karma.integrations.s3_firmware import S3Firmware
from karma.integrations.s3_segments import S3Segments
from karma.integrations.sqs import SqsQueue
from karma.integrations.stripe import StripeGateway
from karma.projects.removal import SharesOfDevices
from karma.projects.repository.devices import ProjectDeviceRepository
from karma.runs.attachment_removal import AttachmentsRemoval
from karma.runs.attachment_repository import AttachmentRepository
from karma.runs.purge import RunsPurge
from karma.runs.removal import RunsRemoval
from karma.runs.removal_repository import RunRemovalRepository
from karma.runs.repository import RunRepository
from karma.runs.watchdog import QueuedExecutions
from karma.search.purge import SearchPurge
from karma.search.repository import SearchRepository
from karma.telemetry.purge import ExportsPurge
from karma.telemetry.removal import TelemetryOfDevices
from karma.telemetry.repository import RollupRepository
from karma.threads.deletion import ThreadCascade
from karma.threads.messages import read_message

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    devices_table: str
    telemetry_table: str
    work_table: str
    agents_table: str
    billing_table: str
    realtime_table: str
    search_table: str
    deletions_queue_url: str
    executions_queue_url: str
    files_bucket: str
    device_policy_name: str
    claim_policy_name: str
    iot_data_endpoint: str = ""
    stripe_api_secret_arn: str = ""
    stripe_api_base: str = ""
    """Address of a Stripe-compatible peer; absent means Stripe itself."""


class Services(Record, kw_only=True):
    """Services that handle a message."""

    accounts: Cascade
    threads: ThreadCascade


@cache
def services() -> Services:
    """Build the deletions of accounts and threads, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    clock, queue = SystemClock(), SqsQueue(settings.deletions_queue_url)
    removal = RunsRemoval(
        store=RunRepository(),
        removals=RunRemovalRepository(),
        executions=QueuedExecutions(SqsQueue(settings.executions_queue_url)),
        clock=clock,
    )
    threads = ThreadCascade(
        deletions=ThreadDeletionRepository(),
        runs=removal,
        attachments=AttachmentsRemoval(AttachmentRepository(), S3Attachments(settings.files_bucket)),
        messages=empty_messages,
        queue=queue,
        clock=clock,
    )
    return Services(accounts=_accounts(settings, queue, clock), threads=threads)


def _accounts(settings: Settings, queue: SqsQueue, clock: Clock) -> Cascade:
    """Build the deletion of accounts with its steps in order."""
    devices = DeviceRepository()
    files = FileRepository()
    payments = StripeGateway(
        api_key=lambda: secrets.string(settings.stripe_api_secret_arn, "api_key"), api_base=settings.stripe_api_base
    )
    return Cascade(
        [
            # First what acts by itself: runs, then what would go on costing money.
            RunsPurge(store=RunRepository(), attachments=S3Attachments(settings.files_bucket), clock=clock),
            BillingPurge(
                subscriptions=SubscriptionRepository(),
                customers=CustomerRepository(),
                payments=payments,
                clock=clock,
            ),
            ProvisioningPurge(ProvisioningClaimRepository(), IotRegistry(policy_name=settings.claim_policy_name)),
            DevicesPurge(
                devices=devices,
                deleted_devices=DeletedDeviceRepository(),
                registry=IotRegistry(
                    policy_name=settings.device_policy_name, data_endpoint_url=settings.iot_data_endpoint
                ),
                clock=clock,
                others=(
                    FilesOfDevices(files, S3Files(settings.files_bucket)),
                    TelemetryOfDevices(
                        RollupRepository(), S3Archives(settings.files_bucket, kept_days=all_archived_days()), clock
                    ),
                    AlarmRepository(),
                    SharesOfDevices(ProjectDeviceRepository()),
                ),
            ),
            FirmwarePurge(rollouts=RolloutRepository(), store=S3Firmware(settings.files_bucket), jobs=IotJobs()),
            ExportsPurge(S3ExportObjects(settings.files_bucket)),
            SearchPurge(SearchRepository(), S3Segments(settings.files_bucket)),
            # What is stored and does nothing: the `purge.py` of each context that offers a step.
            *purge.offered(),
            # Behind everything that gives back what it took of the plan.
            UsagePurge(UsageRepository(), clock),
            # Last what tells who it was.
            AccountPurge(),
        ],
        deletions=DeletionRepository(),
        queue=queue,
        clock=clock,
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Go on with each deletion; messages that fail come again, and end in the dead letter queue."""
    return each_message(event, context.aws_request_id, name="deletion", read=_read, handle=_advance)


def _read(body: str) -> tuple[UserId | ThreadKey, Ids]:
    if is_id(body):
        return UserId(body), {"user_id": body}
    if not body.startswith("{"):
        raise ValueError("is not the id of an account")
    key = read_message(body)
    return key, {"user_id": key.user_id}


def _advance(what: UserId | ThreadKey) -> str:
    if isinstance(what, ThreadKey):
        services().threads.advance(what)
    else:
        services().accounts.advance(what)
    return "advanced"

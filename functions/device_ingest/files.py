"""Consumer of the queue of asks: what devices ask of their own files by MQTT. See karma/files/by_device.

A function of its own beside the one that ingests, since a role that signs links to files must not be that of telemetry.
"""

from __future__ import annotations

import base64
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

from karma.billing.allowances import Allowances
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.subscriptions import SubscriptionService
from karma.core.batch import Ids, each_message
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.devices.allowance import HourlyAllowance
from karma.devices.lookup import DeviceLookup
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.hours import HourRepository
from karma.devices.speaking import Speaking
from karma.files.by_device.service import AskMessage, DeviceFileAsks
from karma.files.repository.files import FileRepository
from karma.files.service import FileService
from karma.files.uploads import UploadService
from karma.identity.accounts.repository.users import UserRepository
from karma.integrations.iot import IotPublisher
from karma.integrations.s3 import S3Files
from karma.integrations.sqs import SqsQueue

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    devices_table: str
    billing_table: str
    files_bucket: str
    files_queue_url: str
    iot_data_endpoint: str = ""


@cache
def services() -> DeviceFileAsks:
    """Build the service once a process."""
    settings = load(Settings)
    bind_tables(settings)
    clock, devices, files = SystemClock(), DeviceRepository(), FileRepository()
    store, parent = S3Files(settings.files_bucket), DeviceLookup(devices)
    subscriptions = SubscriptionService(subscriptions=SubscriptionRepository(), clock=clock)
    return DeviceFileAsks(
        speaking=Speaking(devices, DeadLetterRepository(), HourlyAllowance(HourRepository())),
        owners=UserRepository(),
        uploads=UploadService(files, store, parent, SqsQueue(settings.files_queue_url), clock),
        files=FileService(files, store, parent, clock),
        allowances=Allowances(terms_of=subscriptions.terms, clock=clock),
        answers=IotPublisher(endpoint_url=settings.iot_data_endpoint),
        clock=clock,
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Carry out and answer each ask; those that could not be answered come again, and end in the dead letters."""
    return each_message(event, context.aws_request_id, name="file.ask", read=_read, handle=_take)


def _read(body: str) -> tuple[AskMessage, Ids]:
    match orjson.loads(body):
        case {"topic": str(topic), "payload_b64": str(encoded), "received_ms": int(received_ms), **rest}:
            payload, sender = base64.b64decode(encoded, validate=True), str(rest.get("principal", ""))
            return AskMessage(topic=topic, certificate_id=sender, payload=payload, received_ms=received_ms), {}
    raise ValueError("not what the rule writes")


def _take(message: AskMessage) -> str:
    return services().take(message)

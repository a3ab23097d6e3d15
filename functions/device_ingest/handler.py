"""Consumer of the queue `ingest`: messages that IoT rules forward (infra/constructs/iot_ingest.py), and wake-ups.

Powertools' batch processor would cost .44 of a cold start, so partial failures are reported by hand.
"""

from __future__ import annotations

from karma.core import startup

# isort: split
import base64
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.ids import DeviceId, UserId, is_id
from karma.core.observability import logger
from karma.core.settings import FunctionSettings, load
from karma.devices.allowance import HourlyAllowance
from karma.devices.dispatch import Dispatcher
from karma.devices.ingest import DeviceMessage, IngestService
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.hours import HourRepository
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.wake_ups import QueuedWakeUps, WakeUp
from karma.integrations.iot import IotPublisher
from karma.integrations.sqs import SqsQueue

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """Variables of this function."""

    devices_table: str
    telemetry_table: str
    ingest_queue_url: str
    iot_data_endpoint: str = ""


@cache
def services() -> IngestService:
    """Build the ingest service once a process."""
    settings = load(Settings)
    bind_tables(settings)
    clock = SystemClock()
    commands = CommandRepository()
    publisher = IotPublisher(endpoint_url=settings.iot_data_endpoint)
    return IngestService(
        devices=DeviceRepository(),
        telemetry=TelemetryRepository(),
        dead_letters=DeadLetterRepository(),
        dispatcher=Dispatcher(commands, publisher, QueuedWakeUps(SqsQueue(settings.ingest_queue_url)), clock),
        allowance=HourlyAllowance(HourRepository()),
        clock=clock,
    )


startup.over()


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Handle a batch; return which messages must be delivered again."""
    messages: list[DeviceMessage] = []
    wake_ups: list[WakeUp] = []
    failed: list[str] = []
    for record in event["Records"]:
        try:
            body = orjson.loads(record["body"])
            repeated = record.get("attributes", {}).get("ApproximateReceiveCount", "1") != "1"
            if "wake_up" in body:
                wake_ups.append(_wake_up(record["messageId"], body["wake_up"], repeated=repeated))
            else:
                messages.append(_message(record["messageId"], body, repeated=repeated))
        except (ValueError, KeyError, TypeError):
            # Not what our rule writes: for operators, by way of the dead-letter queue.
            logger.warning("ingest.unreadable_record", message_id=record.get("messageId"))
            failed.append(record["messageId"])
    failed += services().take(messages, wake_ups)
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}


def _wake_up(message_id: str, call: dict[str, Any], *, repeated: bool) -> WakeUp:
    user_id, device_id = call["user_id"], call["device_id"]
    if not (is_id(user_id) and is_id(device_id)):
        raise ValueError("user_id, device_id")
    again_ms = call.get("again_ms", 0)
    if type(again_ms) is not int:
        raise TypeError("again_ms")
    return WakeUp(message_id, UserId(user_id), DeviceId(device_id), again_ms, repeated)


def _message(message_id: str, body: dict[str, Any], *, repeated: bool) -> DeviceMessage:
    topic, principal, received_ms = body["topic"], body.get("principal", ""), body["received_ms"]
    if not (isinstance(topic, str) and isinstance(principal, str) and type(received_ms) is int):
        raise TypeError("topic, principal, received_ms")
    payload = base64.b64decode(body["payload_b64"], validate=True)
    return DeviceMessage(message_id, topic, principal, payload, received_ms, repeated)

"""Consumer of the queue `ingest`: messages that IoT rules forward (infra/constructs/iot_ingest.py), and wake-ups.

Powertools' batch processor would cost .44 of a cold start, so partial failures are reported by hand.
"""

from __future__ import annotations

from karma.core import startup

# isort: split
import base64
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from karma.alarms.repository.rules import AlarmRuleRepository
from karma.alarms.watching import AlarmWatcher
from karma.core.clock import SystemClock
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.tables import bind_tables
from karma.core.errors import AppError
from karma.core.ids import DeviceId, UserId, is_id
from karma.core.observability import logger
from karma.core.settings import FunctionSettings, load
from karma.devices.allowance import HourlyAllowance
from karma.devices.dispatch import Dispatcher
from karma.devices.hearing import DeviceMessage
from karma.devices.ingest import IngestService
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.hours import HourRepository
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.topics import reporting_thing
from karma.devices.wake_ups import QueuedWakeUps, WakeUp
from karma.integrations.iot import IotPublisher
from karma.integrations.sqs import SqsQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_lambda_powertools.utilities.typing import LambdaContext

    from karma.devices.bulk_sending import BulkSender
    from karma.devices.reports import SettingsReports
    from karma.projects.devices import ShownDevices


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    devices_table: str
    telemetry_table: str
    work_table: str
    ingest_queue_url: str
    iot_data_endpoint: str = ""


class Services(NamedTuple):
    """Handlers of the queue's messages."""

    ingest: IngestService
    bulks: Callable[[], BulkSender]
    """Builds what sends bulk commands, with the first part of one: few processes ever see any."""
    reports: Callable[[], SettingsReports]
    """Builds what keeps reports of settings, with the first of them: most messages are others."""


@cache
def services() -> Services:
    """Build the services once a process."""
    settings = load(Settings)
    bind_tables(settings)
    clock = SystemClock()
    devices, commands, queue = DeviceRepository(), CommandRepository(), SqsQueue(settings.ingest_queue_url)
    publisher, wake_ups = IotPublisher(endpoint_url=settings.iot_data_endpoint), QueuedWakeUps(queue)
    ingest = IngestService(
        devices=devices,
        telemetry=TelemetryRepository(),
        dead_letters=DeadLetterRepository(),
        dispatcher=Dispatcher(commands, publisher, wake_ups, clock),
        allowance=HourlyAllowance(HourRepository()),
        clock=clock,
        watcher=AlarmWatcher(AlarmRuleRepository(), devices),
    )

    @cache
    def bulks() -> BulkSender:
        from karma.devices.bulk_parts import QueuedBulkParts
        from karma.devices.bulk_sending import BulkSender
        from karma.devices.commands import CommandService
        from karma.devices.repository.bulk_commands import BulkCommandRepository
        from karma.devices.sharing import ReachableDevices

        sender = CommandService(devices, commands, publisher, wake_ups, clock)
        reach = ReachableDevices(_shown_devices, devices)
        return BulkSender(BulkCommandRepository(), sender, commands, QueuedBulkParts(queue), clock, reach)

    @cache
    def reports() -> SettingsReports:
        from karma.devices.reports import SettingsReports
        from karma.devices.repository.settings_changes import SettingsChangeRepository

        return SettingsReports(devices, SettingsChangeRepository(), HourlyAllowance(HourRepository()))

    return Services(ingest, bulks, reports)


def _shown_devices() -> ShownDevices:
    """Return what tells whose a device is; imported here because most bulk commands are for their senders' own."""
    from karma.projects.lookup import shown_devices

    return shown_devices()


startup.over()


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Handle a batch; return which messages must be delivered again."""
    messages: list[DeviceMessage] = []
    reports: list[DeviceMessage] = []
    wake_ups: list[WakeUp] = []
    bulks: list[tuple[str, dict[str, Any]]] = []
    failed: list[str] = []
    for record in event["Records"]:
        try:
            body = orjson.loads(record["body"])
            repeated = record.get("attributes", {}).get("ApproximateReceiveCount", "1") != "1"
            if "wake_up" in body:
                wake_ups.append(_wake_up(record["messageId"], body["wake_up"], repeated=repeated))
            elif "bulk" in body:
                bulks.append((record["messageId"], body["bulk"]))
            else:
                message = _message(record["messageId"], body, repeated=repeated)
                (messages if reporting_thing(message.topic) is None else reports).append(message)
        except (ValueError, KeyError, TypeError):
            # Not what our rule writes: for operators, by way of the dead-letter queue.
            logger.warning("ingest.unreadable_record", message_id=record.get("messageId"))
            failed.append(record["messageId"])
    failed += services().ingest.take(messages, wake_ups)
    # Behind the devices' own messages, which wait for nothing.
    failed += services().reports().take(reports) if reports else []
    failed += [message_id for message_id, part in bulks if not _sent(part)]
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}


def _sent(part: dict[str, Any]) -> bool:
    from karma.devices.bulk_parts import read_part

    try:
        key = read_part(part)
        outcome = services().bulks().take(key)
    except (ValueError, KeyError, TypeError):
        logger.warning("ingest.unreadable_record")
        return False
    except (AppError, ConditionFailed) as exc:
        logger.warning("bulk.retry", cause=type(exc).__name__)
        return False
    logger.info("bulk.part", bulk_id=key.bulk.bulk_id, part=key.number, outcome=outcome)
    return True


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

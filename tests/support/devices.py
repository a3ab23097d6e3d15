"""Devices over the engine's tables, with fakes for IoT; the fixture `world` is in the conftests."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace
from typing import Any

from karma.billing.plans import all_archived_days
from karma.core.ids import DeviceId, UserId, new_id
from karma.devices.allowance import HourlyAllowance
from karma.devices.commands import CommandService
from karma.devices.dispatch import Dispatcher
from karma.devices.domain import CurrentDevice, Device, DeviceModel, DeviceState
from karma.devices.hearing import DeviceMessage
from karma.devices.ingest import IngestService
from karma.devices.lookup import DeviceLookup
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.hours import HourRepository
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.service import Created, DeviceService, NewDevice
from karma.integrations.s3 import S3Archives
from karma.telemetry.archive_repository import ArchiveRepository
from karma.telemetry.archives import ArchivedBatches
from karma.telemetry.reading import TelemetryReader
from karma.telemetry.repository import RollupRepository
from tests.fakes.devices import FakeClock, FakePublisher, FakeRegistry, FakeWakeUps
from tests.support.accounts import open_account
from tests.support.plans import allowance
from tests.support.stack import Stack


def new_device(**fields: Any) -> NewDevice:
    serial = fields.pop("serial_number", f"EOS-{new_id()}")
    given: dict[str, Any] = {
        "name": "Greenhouse",
        "model": DeviceModel.EOS_3A,
        "mac": "AA:BB:CC:00:11:22",
        "serial_number": serial,
        "capabilities": {},
        "hardware": {},
        "network": {},
        **fields,
    }
    return NewDevice(**given)


def provisioning_device(user_id: UserId, **changes: Any) -> Device:
    """Make a device as its owner asked for it, which is not stored yet."""
    device_id = DeviceId(new_id())
    made = Device(
        id=device_id,
        user_id=user_id,
        name="Greenhouse",
        model=DeviceModel.EOS_3A,
        mac="AA:BB:CC:00:11:22",
        serial_number=f"EOS-{device_id}",
        state=DeviceState.PROVISIONING,
        ip=None,
        firmware_version=None,
        capabilities={},
        hardware={},
        network={},
        location=None,
        tags=(),
        version=0,
        created_at="",
        updated_at="",
    )
    return replace(made, **changes)


@dataclass
class World:
    """One account's devices."""

    stack: Stack
    user: UserId = field(default_factory=lambda: UserId(new_id()))
    clock: FakeClock = field(default_factory=FakeClock)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    publisher: FakePublisher = field(default_factory=FakePublisher)
    pauses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        open_account(self.user)
        self.wake_ups = FakeWakeUps(self.clock)
        self.repository = DeviceRepository()
        self.command_repository = CommandRepository()
        self.telemetry = TelemetryRepository()
        self.dead_letters = DeadLetterRepository()
        self.devices = DeviceService(self.repository, self.registry, self.clock)
        self.commands = CommandService(
            self.repository,
            self.command_repository,
            self.publisher,
            self.wake_ups,
            self.clock,
            pause=self.pauses.append,
        )
        self.rollups = RollupRepository()
        self.notes = ArchiveRepository()
        self.archives = S3Archives(self.stack.bucket, kept_days=all_archived_days())
        self.kept_days = 365
        self.batches = ArchivedBatches(self.telemetry, self.notes, self.archives, self.clock)
        self.reader = TelemetryReader(
            DeviceLookup(self.repository),
            self.batches,
            self.rollups,
            self.clock,
            kept_days=lambda _: self.kept_days,
        )
        self.restart_ingest()

    def restart_ingest(self) -> None:
        """Start a fresh process of ingest, with nothing cached."""
        self.ingest = IngestService(
            devices=self.repository,
            telemetry=self.telemetry,
            dead_letters=self.dead_letters,
            allowance=HourlyAllowance(HourRepository()),
            dispatcher=Dispatcher(self.command_repository, self.publisher, self.wake_ups, self.clock),
            clock=self.clock,
        )

    def create(self, **fields: Any) -> Created:
        return self.devices.create(self.user, new_device(**fields), allowance=allowance(self.user))

    def message(self, created: Created, kind: str, body: Any, **changes: Any) -> DeviceMessage:
        thing = created.current.device.serial_number
        root = "cmd" if kind in ("ready", "response") else "dt"
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        given: dict[str, Any] = {
            "id": new_id(),
            "topic": f"{root}/karma/{thing}/{kind}",
            "certificate_id": created.certificate.id,
            "payload": payload,
            "received_ms": self.clock.ms,
            **changes,
        }
        return DeviceMessage(**given)

    def samples(self, *values: tuple[int, float], seq: int = 0, metric: str = "temp_c", boot: str = "b1") -> Any:
        """Return a telemetry body; times are relative to now in milliseconds."""
        return {
            "boot": boot,
            "seq": seq,
            "samples": [{"ts": self.clock.ms + offset, "m": {metric: value}} for offset, value in values],
        }

    def presence(
        self, created: Created, kind: str, version: int, offset_ms: int = 0, session: str = "s1"
    ) -> DeviceMessage:
        thing = created.current.device.serial_number
        body = {
            "clientId": thing,
            "timestamp": self.clock.ms + offset_ms,
            "eventType": kind,
            "sessionIdentifier": session,
            "principalIdentifier": created.certificate.id,
            "versionNumber": version,
        }
        topic = f"$aws/events/presence/{kind}/{thing}"
        return DeviceMessage(new_id(), topic, "", json.dumps(body).encode(), self.clock.ms + offset_ms)

    def tell(self, *messages: DeviceMessage) -> None:
        assert self.ingest.take(messages) == []

    def wake_up(self) -> None:
        """Deliver the wake-ups whose time has come."""
        assert self.ingest.take([], self.wake_ups.due()) == []

    def connect(self, created: Created, version: int = 0) -> None:
        ready = self.message(created, "ready", {"boot": "b1", "ts": self.clock.ms})
        self.tell(self.presence(created, "connected", version), ready)

    def current(self, created: Created) -> CurrentDevice:
        return self.devices.get(self.user, created.current.device.id)

    def items(self, table: str = "devices") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.stack.aws("dynamodb").scan(TableName=self.stack.tables[table])["Items"]
        return found

    def kinds(self, table: str = "devices") -> list[str]:
        return sorted(item["type"]["S"] for item in self.items(table) if "type" in item)


def sqs_record(message_id: str, topic: str, payload: bytes, principal: str | None, received_ms: int) -> dict[str, Any]:
    """Return a message as our rule writes it into the queue."""
    body: dict[str, Any] = {
        "payload_b64": base64.b64encode(payload).decode(),
        "topic": topic,
        "received_ms": received_ms,
    }
    if principal is not None:
        body["principal"] = principal
    return {"messageId": message_id, "body": json.dumps(body)}

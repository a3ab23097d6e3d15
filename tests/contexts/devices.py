"""Declarations of devices, commands and telemetry for the tests of all rings; see tests/support/contexts.py.

One file of more than 450 lines: what a context declares is one table, which is read as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import pytest

from karma.billing.allowances import Reservation
from karma.core.clock import SystemClock, epoch_ms, from_epoch_ms, iso
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound
from karma.core.ids import BulkId, CommandId, DeviceId, UserId, new_id
from karma.core.requests import RETENTION, RepeatableRequest
from karma.devices.bulk import BulkCommand, BulkKey, BulkPart, parts_of
from karma.devices.bulk_commands import BulkCommandService
from karma.devices.bulk_parts import QueuedBulkParts
from karma.devices.commands import CommandService
from karma.devices.credentials import Certificate
from karma.devices.domain import (
    COMMAND_RETENTION_S,
    DEAD_LETTER_RETENTION_S,
    Command,
    CommandStatus,
    Device,
    LateResult,
    Latest,
    PresenceEvent,
)
from karma.devices.payloads import Refused
from karma.devices.repository.bulk_commands import BulkCommandRepository, require_sending
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.devices.repository.deleted_devices import DeletedDeviceRepository
from karma.devices.repository.device_mapping import GoneDevice, SerialClaim
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.hours import Cost, HourRepository
from karma.devices.repository.rotations import RotationRepository
from karma.devices.repository.settings_changes import SettingsChangeRepository
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.repository.transfers import StoredDevice, TransferRepository
from karma.devices.rotation import CertificateRotation, RotationOutcome, RotationStage
from karma.devices.samples import Batch
from karma.devices.shadow import CHANGE_RETENTION_S, SettingsChange
from karma.devices.transactional import require_device
from karma.devices.transfer import OFFER_TTL, DeviceOffer, OfferDeclined, TransferChanged, taken_over
from tests.fakes.commands import MemoryCommands
from tests.fakes.devices import FakeClock, FakeIngestQueue, FakePublisher, FakeWakeUps
from tests.integration.permissions.world import PASSWORD, Bodies, Objects, World
from tests.support.contexts import Call, Checks, Fakes, Scenarios, made
from tests.support.devices import provisioning_device
from tests.support.plans import reserved
from tests.support.requests import asked
from tests.support.rows import DAY, LATER, NOW, AccountRows
from tests.support.transfers import Transfers

NEXT = Certificate("c2", "arn:aws:iot:us-east-1:000000000000:cert/c2", "pem", None)
THIRD = Certificate("c3", "arn:aws:iot:us-east-1:000000000000:cert/c3", "pem", None)


class DeviceRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.devices = DeviceRepository()
        self.commands = CommandRepository()
        self.bulks = BulkCommandRepository()
        self.rotations = RotationRepository()
        self.settings = SettingsChangeRepository()
        self.transfers = TransferRepository()
        self.letters = DeadLetterRepository()
        self.hours = HourRepository()
        self.telemetry = TelemetryRepository()
        self.leftovers = DeletedDeviceRepository(retention_s=0)

    def new_device(self, **changes: Any) -> Device:
        given = {"capabilities": {"a": 1}, "tags": ("x",), "version": 1, "created_at": iso(NOW), "updated_at": iso(NOW)}
        return provisioning_device(self.ada.id, **{**given, **changes})

    def claim(self, device: Device, *, attempt: str, now: datetime) -> None:
        self.devices.claim(device, reservation=reserved(self.ada.id), attempt=attempt, now=now)

    def claimed(self, **changes: Any) -> Device:
        device = self.new_device(**changes)
        self.claim(device, attempt="a1", now=NOW)
        return device

    def activate(self, device: Device, *, request: RepeatableRequest | None = None) -> Device:
        return self.devices.activate(device, attempt="a1", certificate_id="c1", now=NOW, request=request)

    def active(self, *, request: RepeatableRequest | None = None, **changes: Any) -> Device:
        return self.activate(self.claimed(**changes), request=request)

    @cached_property
    def device(self) -> Device:
        return self.active()

    @cached_property
    def half_made(self) -> Device:
        return self.claimed()

    @cached_property
    def half_deleted(self) -> Device:
        self.devices.begin_delete(self.device, now=NOW)
        return self.device

    @cached_property
    def left(self) -> GoneDevice:
        self.sent  # noqa: B018  a command and a dead letter are left
        self.letters.store(
            self.device.id, refused=[Refused("", "NOT_JSON")], topic="t", payload=b"x" * 5000, received_ms=epoch_ms(NOW)
        )
        self.telemetry.store(self.device.id, self.batch())
        self.devices.finish_delete(self.half_deleted, now=NOW)
        return GoneDevice(self.ada.id, self.device.id)

    @property
    def serial_claim(self) -> SerialClaim:
        found = self.devices.claim_of(self.device.serial_number, consistent=True)
        assert found is not None
        return found

    def new_rotation(self, **changes: Any) -> CertificateRotation:
        made = CertificateRotation(
            device_id=self.device.id,
            user_id=self.ada.id,
            serial_number=self.device.serial_number,
            attempt="r1",
            stage=RotationStage.ISSUING,
            began_ms=epoch_ms(NOW),
            ends_ms=epoch_ms(LATER),
            old_certificate_id="c1",
        )
        return replace(made, **changes)

    def new_change(self) -> SettingsChange:
        return SettingsChange(
            id=new_id(), device_id=self.device.id, changed_by=self.ada.id, patch={"interval_s": 30}, at=NOW
        )

    @cached_property
    def change(self) -> SettingsChange:
        """A change of settings that is asked for."""
        made = self.new_change()
        self.settings.ask(self.ada.id, made, entry=self.entry)
        return made


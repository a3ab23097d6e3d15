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
    Reading,
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
from karma.devices.repository.telemetry import OwnedBatch, TelemetryRepository
from karma.devices.repository.transfers import StoredDevice, TransferRepository
from karma.devices.rotation import CertificateRotation, RotationOutcome, RotationStage
from karma.devices.samples import Batch
from karma.devices.shadow import CHANGE_RETENTION_S, ChangeState, SettingsChange
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
        return self.claim_of(self.device)

    def claim_of(self, device: Device) -> SerialClaim:
        found = self.devices.claim_of(device.serial_number, consistent=True)
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

    def new_renewal(self) -> CertificateRotation:
        own = new_id()  # none is given twice, in tables that other rows share, too
        arn = f"{NEXT.arn.rpartition('/')[0]}/{own}"
        return self.new_rotation(stage=RotationStage.OVERLAP, certificate_id=own, certificate_arn=arn, is_renewal=True)

    def new_settings_change(self) -> SettingsChange:
        return SettingsChange(
            id=new_id(), device_id=self.device.id, changed_by=self.ada.id, patch={"interval_s": 30}, at=NOW
        )

    @cached_property
    def settings_change(self) -> SettingsChange:
        """A change of settings that is asked for."""
        made = self.new_settings_change()
        self.settings.ask(self.ada.id, made, entry=self.entry)
        return made

    @cached_property
    def rotation(self) -> CertificateRotation:
        """A rotation whose certificate is made, and tied to nothing yet."""
        rotation = self.new_rotation()
        self.rotations.begin(rotation, due=NOW)
        self.rotations.note_certificate(rotation, NEXT)
        return rotation

    @cached_property
    def overlap(self) -> CertificateRotation:
        self.rotations.open(self.rotation, NEXT, now=NOW)
        return self.rotation

    @cached_property
    def ending(self) -> CertificateRotation:
        self.overlap  # noqa: B018  its certificate has connected
        assert self.settle()
        return self.rotation

    def settle(self) -> bool:
        return self.rotations.end(
            self.serial_claim, removed="c1", outcome=RotationOutcome.CONNECTED, removed_ms=epoch_ms(NOW), now=NOW
        )

    def new_offer(self, **changes: Any) -> DeviceOffer:
        """Return Ada's offer of her device to somebody."""
        made = DeviceOffer(
            device_id=self.device.id,
            offered_by=self.ada.id,
            user_id=self.receiver,
            email=None,
            offered_at=NOW,
            expires_at=NOW + OFFER_TTL,
        )
        return replace(made, **changes)

    @cached_property
    def receiver(self) -> UserId:
        return self.stored().id

    def put_offer(self, offer: DeviceOffer) -> DeviceOffer:
        self.transfers.put_offer(offer, made_with=None, known=self.receiver, entries=[self.entry], mails=[])
        return offer

    @cached_property
    def offer(self) -> DeviceOffer:
        return self.put_offer(self.new_offer())

    @property
    def as_stored(self) -> StoredDevice:
        found = self.transfers.stored(self.ada.id, self.device.id)
        assert found is not None
        return found

    def move(
        self,
        offer: DeviceOffer,
        before: StoredDevice,
        *,
        now: datetime = LATER,
        reservation: Reservation | None = None,
    ) -> DeviceId:
        after = taken_over(before.current, by=self.receiver, as_id=DeviceId(new_id()), at=iso(now))
        taken = reservation or reserved(self.receiver)
        self.transfers.move(offer, before, after, reservation=taken, entries=[self.entry], now=now)
        return after.device.id

    def command(self, **changes: Any) -> Command:
        made = Command(
            id=CommandId(new_id()),
            device_id=self.device.id,
            user_id=self.ada.id,
            serial_number=self.device.serial_number,
            command="led.on",
            params={"brightness": 1},
            status=CommandStatus.QUEUED,
            serial=False,
            issued_ms=epoch_ms(NOW),
            expires_ms=epoch_ms(LATER),
        )
        return replace(made, **changes)

    @cached_property
    def queued(self) -> Command:
        command = self.command()
        self.commands.add(command, self.device, now=NOW)
        return command

    @cached_property
    def sent(self) -> Command:
        command = self.queued
        assert self.commands.move(self.device.id, command.id, CommandStatus.SENT, at=NOW)
        return command

    def new_bulk(self, **changes: Any) -> BulkCommand:
        made = BulkCommand(
            key=BulkKey(self.ada.id, BulkId(new_id())),
            command="led.on",
            params={"brightness": 1},
            serial=False,
            tag="x",
            created_ms=epoch_ms(NOW),
            expires_ms=epoch_ms(LATER),
            total=1,
            open_parts=1,
        )
        return replace(made, **changes)

    @cached_property
    def bulk(self) -> BulkCommand:
        return self.added(self.new_bulk())

    def added(self, bulk: BulkCommand, *, request: RepeatableRequest | None = None) -> BulkCommand:
        self.bulks.add(bulk, parts_of([DeviceId(new_id())]), due=NOW, request=request)
        return bulk

    @property
    def part(self) -> BulkPart:
        [part] = self.bulks.parts(self.bulk.key, limit=1)
        return part

    def batch(self, seq: int = 1, *, at_ms: int = epoch_ms(NOW), digest: str = "d") -> Batch:
        return Batch("b1", seq, at_ms, at_ms, 1, b'[[1,{"temp_c":1.5}]]', digest, {})


FAKES: Fakes = {MemoryCommands: (CommandRepository,)}


def _active(r: DeviceRows) -> Call:
    device = r.half_made
    return lambda: r.activate(device, request=asked())


def _taken_over(r: DeviceRows) -> Call:
    device = replace(r.new_device(name="Other"), serial_number=r.half_made.serial_number)
    return lambda: r.devices.take_over(device, attempt="a2", now=LATER)


def _required(r: DeviceRows) -> Call:
    device = r.device

    def commit() -> None:
        tx = Transaction()
        require_device(tx, r.ada.id, device.id)
        tx.commit()

    return commit


def _still_sending(r: DeviceRows) -> Call:
    bulk = r.bulk

    def commit() -> None:
        tx = Transaction()
        require_sending(tx, bulk.key)
        tx.commit()

    return commit


def _part_sent(r: DeviceRows) -> Call:
    bulk, part = r.bulk, r.part
    sent = replace(part, sent={part.device_ids[0]: CommandId(new_id())})
    return lambda: r.bulks.finish_part(bulk, sent, at=LATER)


def _emptied(r: DeviceRows) -> Call:
    gone, purge = r.left, r.purge()
    return lambda: r.leftovers.empty(gone.device_id, purge, now=NOW)


def _ended_command(r: DeviceRows) -> Command:
    command = r.sent
    assert r.commands.move(command.device_id, command.id, CommandStatus.EXPIRED, at=NOW)
    return command


SCENARIOS = Scenarios[DeviceRows](
    DeviceRows,
    {
        "devices.transactional.require_device": _required,
        "DeviceRepository.claim_of": made(lambda r: r.device, lambda r, d: r.devices.claim_of(d.serial_number)),
        "DeviceRepository.row": made(lambda r: r.device, lambda r, d: r.devices.row(d.user_id, d.id)),
        "DeviceRepository.current": made(lambda r: r.device, lambda r, d: r.devices.current(d.user_id, d.id)),
        "DeviceRepository.versioned": made(lambda r: r.device, lambda r, d: r.devices.versioned(d.user_id, d.id)),
        "DeviceRepository.active_of": made(lambda r: r.device, lambda r, d: r.devices.active_of([(d.user_id, d.id)])),
        "DeviceRepository.among": made(lambda r: r.device, lambda r, d: r.devices.among(d.user_id, [d.id])),
        "DeviceRepository.each_of": made(lambda r: r.device, lambda r, d: r.devices.each_of([(d.user_id, d.id)])),
        "DeviceRepository.by_age": made(
            lambda r: r.device, lambda r, d: r.devices.by_age(d.user_id, newest_first=True, limit=5)
        ),
        "DeviceRepository.by_name": made(
            lambda r: r.device, lambda r, d: r.devices.by_name(d.user_id, descending=False, limit=5)
        ),
        "DeviceRepository.count": made(lambda r: r.device, lambda r, d: r.devices.count(d.user_id)),
        "DeviceRepository.made_by": made(lambda r: r.device, lambda r, d: r.devices.made_by(d.user_id, asked())),
        "DeviceRepository.claim": made(lambda r: r.new_device(), lambda r, d: r.claim(d, attempt="a1", now=NOW)),
        "DeviceRepository.take_over": _taken_over,
        "DeviceRepository.activate": _active,
        "DeviceRepository.discard": made(lambda r: r.half_made, lambda r, d: r.devices.discard(d, attempt="a1")),
        "DeviceRepository.change": made(
            lambda r: r.device,
            lambda r, d: r.devices.change(d.user_id, d.id, {"name": "Shed"}, version=d.version, now=LATER),
        ),
        "DeviceRepository.begin_delete": made(lambda r: r.device, lambda r, d: r.devices.begin_delete(d, now=LATER)),
        "DeviceRepository.finish_delete": made(
            lambda r: r.half_deleted, lambda r, d: r.devices.finish_delete(d, now=LATER)
        ),
        "DeviceRepository.unfinished": made(
            lambda r: r.half_made, lambda r, _: r.devices.unfinished(before=LATER, limit=5)
        ),
        "DeviceRepository.rows": made(lambda r: r.device, lambda r, d: r.devices.rows(d.user_id, limit=5)),
        "DeviceRepository.merge_latest": made(
            lambda r: r.serial_claim,
            lambda r, claim: (
                r.devices.merge_latest(claim, Latest(last_seen_ms=1), now=NOW)
                and r.devices.merge_latest(claim, Latest(last_seen_ms=2, ip_ms=2, ip="192.0.2.1"), now=NOW)
            ),
        ),
        "DeviceRepository.freshen_each": made(
            lambda r: r.serial_claim,
            lambda r, claim: r.devices.freshen_each(
                [(claim, Latest(readings={"t": Reading(1.5, 1)}, last_seen_ms=1))], now=NOW
            ),
        ),
        "DeviceRepository.merge_presence": made(
            lambda r: r.serial_claim,
            lambda r, claim: r.devices.merge_presence(claim, [PresenceEvent(1, 0, True, "s")], now=NOW),
        ),
        "CommandRepository.add": made(
            lambda r: (r.command(), r.device), lambda r, n: r.commands.add(n[0], n[1], now=NOW, request=asked())
        ),
        "CommandRepository.made_by": made(lambda r: r.device, lambda r, d: r.commands.made_by(d, asked())),
        "CommandRepository.made_by_request": made(
            lambda r: r.device, lambda r, d: r.commands.made_by_request(d.user_id, d.id, asked())
        ),
        "CommandRepository.several": made(lambda r: r.sent, lambda r, c: r.commands.several([(c.device_id, c.id)])),
        "devices.repository.bulk_commands.require_sending": _still_sending,
        "BulkCommandRepository.add": made(
            lambda r: r.new_bulk(),
            lambda r, b: r.bulks.add(b, parts_of([DeviceId(new_id())]), due=NOW, request=asked()),
        ),
        "BulkCommandRepository.made_by": made(lambda r: r.bulk, lambda r, _: r.bulks.made_by(r.ada.id, asked())),
        "BulkCommandRepository.get": made(lambda r: r.bulk, lambda r, b: r.bulks.get(b.key)),
        "BulkCommandRepository.page": made(lambda r: r.bulk, lambda r, _: r.bulks.page(r.ada.id, limit=5)),
        "BulkCommandRepository.parts": made(lambda r: r.bulk, lambda r, b: r.bulks.parts(b.key, limit=5)),
        "BulkCommandRepository.finish_part": _part_sent,
        "BulkCommandRepository.cancel": made(lambda r: r.bulk, lambda r, b: r.bulks.cancel(b, at=LATER)),
        "BulkCommandRepository.due": made(lambda r: r.bulk, lambda r, _: r.bulks.due(before=LATER, limit=5)),
        "BulkCommandRepository.put_off": made(lambda r: r.bulk, lambda r, b: r.bulks.put_off(b.key, until=LATER)),
        "BulkCommandRepository.close": made(lambda r: r.bulk, lambda r, b: r.bulks.close(b)),
        "CommandRepository.get": made(lambda r: r.sent, lambda r, c: r.commands.get(c.device_id, c.id)),
        "CommandRepository.page": made(lambda r: r.sent, lambda r, c: r.commands.page(c.device_id, limit=5)),
        "CommandRepository.pending": made(lambda r: r.sent, lambda r, c: r.commands.pending(c.device_id, limit=5)),
        "CommandRepository.overdue": made(
            lambda r: r.sent, lambda r, c: r.commands.overdue(int(c.device_id[-4:], 16), before=LATER + DAY, limit=5)
        ),
        "CommandRepository.begin_publish": made(
            lambda r: r.commands.pending(r.queued.device_id, limit=1)[0],
            lambda r, entry: r.commands.begin_publish(entry, at=LATER),
        ),
        "CommandRepository.publish_failed": made(
            lambda r: r.commands.pending(r.sent.device_id, limit=1)[0],
            lambda r, entry: r.commands.publish_failed(entry),
        ),
        "CommandRepository.move": made(
            lambda r: r.sent,
            lambda r, c: r.commands.move(c.device_id, c.id, CommandStatus.SUCCEEDED, at=LATER, result={"ok": True}),
        ),
        "CommandRepository.keep_late": made(
            _ended_command,
            lambda r, c: r.commands.keep_late(
                c.device_id,
                c.id,
                LateResult(status=CommandStatus.SUCCEEDED, result=None, error=None, received_ms=1),
                at=NOW,
            ),
        ),
        "SettingsChangeRepository.ask": made(
            lambda r: r.new_settings_change(), lambda r, o: r.settings.ask(r.ada.id, o, entry=r.entry)
        ),
        "SettingsChangeRepository.keep": made(
            lambda r: r.new_settings_change(),
            lambda r, o: r.settings.keep(r.ada.id, replace(o, changed_by=None, state=ChangeState.REPORTED)),
        ),
        "SettingsChangeRepository.settle": made(
            lambda r: r.settings_change, lambda r, o: r.settings.settle(o, version=3)
        ),
        "SettingsChangeRepository.refuse": made(lambda r: r.settings_change, lambda r, o: r.settings.refuse(o)),
        "SettingsChangeRepository.page": made(
            lambda r: r.settings_change, lambda r, o: r.settings.page(o.device_id, limit=5, after="", now=NOW)
        ),
        "RotationRepository.get": made(lambda r: r.rotation, lambda r, o: r.rotations.get(o.device_id)),
        "RotationRepository.made_by": made(lambda r: r.device, lambda r, _: r.rotations.made_by(r.ada.id, asked())),
        "RotationRepository.begin": made(lambda r: r.new_rotation(), lambda r, o: r.rotations.begin(o, due=NOW)),
        "RotationRepository.renew": made(lambda r: r.new_renewal(), lambda r, o: r.rotations.renew(o, now=NOW)),
        "RotationRepository.note_certificate": made(
            lambda r: r.rotation, lambda r, o: r.rotations.note_certificate(o, NEXT)
        ),
        "RotationRepository.open": made(
            lambda r: r.rotation, lambda r, o: r.rotations.open(o, NEXT, now=NOW, request=asked())
        ),
        "RotationRepository.end": made(lambda r: r.overlap, lambda r, _: r.settle()),
        "RotationRepository.finish": made(lambda r: r.ending, lambda r, o: r.rotations.finish(o, now=NOW)),
        "RotationRepository.discard": made(lambda r: r.rotation, lambda r, o: r.rotations.discard(o)),
        "RotationRepository.due": made(lambda r: r.rotation, lambda r, _: r.rotations.due(before=LATER, limit=5)),
        "TransferRepository.offer": made(lambda r: r.offer, lambda r, o: r.transfers.offer(o.device_id)),
        "TransferRepository.offers_to": made(
            lambda r: r.offer, lambda r, o: r.transfers.offers_to([o.receiver, "0" * 64])
        ),
        "TransferRepository.offered": made(lambda r: r.offer, lambda r, o: r.transfers.offered([o])),
        "TransferRepository.refused_until": made(
            lambda r: r.offer, lambda r, o: r.transfers.refused_until(o.device_id, r.receiver)
        ),
        "TransferRepository.taken": made(
            lambda r: r.offer, lambda r, o: r.transfers.taken(r.receiver, o.device_id, now=NOW)
        ),
        "TransferRepository.stored": made(lambda r: r.device, lambda r, d: r.transfers.stored(d.user_id, d.id)),
        "TransferRepository.put_offer": made(lambda r: r.new_offer(), lambda r, o: r.put_offer(o)),
        "TransferRepository.withdraw": made(lambda r: r.offer, lambda r, o: r.transfers.withdraw(o)),
        "TransferRepository.decline": made(
            lambda r: r.offer, lambda r, o: r.transfers.decline(o, by=r.receiver, at=LATER, entry=r.entry)
        ),
        "TransferRepository.move": made(lambda r: (r.offer, r.as_stored), lambda r, n: r.move(*n)),
        "TransferRepository.purge_account": made(
            lambda r: (r.offer, r.purge()), lambda r, n: r.transfers.purge_account(n[1])
        ),
        "DeadLetterRepository.store": made(
            lambda r: r.device,
            lambda r, d: r.letters.store(
                d.id, refused=[Refused("", "NOT_JSON")], topic="t", payload=b"x", received_ms=epoch_ms(NOW)
            ),
        ),
        "DeadLetterRepository.sum_up": made(lambda r: r.device, lambda r, d: r.letters.sum_up(d.id, hour=1, more=2)),
        "HourRepository.take": made(lambda r: r.device, lambda r, d: r.hours.take(d.id, Cost.UNITS, 1, hour=1, most=2)),
        "DeadLetterRepository.get": made(
            lambda r: r.device, lambda r, d: r.letters.get(d.id, f"{epoch_ms(NOW)}-{'0' * 16}")
        ),
        "DeadLetterRepository.page": made(lambda r: r.device, lambda r, d: r.letters.page(d.id, limit=5)),
        "TelemetryRepository.store": made(lambda r: r.device, lambda r, d: r.telemetry.store(d.id, r.batch())),
        "TelemetryRepository.store_new": made(
            lambda r: r.device,
            lambda r, d: r.telemetry.store_new(
                [OwnedBatch(d.id, r.batch(0), d.user_id), OwnedBatch(d.id, r.batch(1), d.user_id)]
            ),
        ),
        "TelemetryRepository.holds": made(lambda r: r.device, lambda r, d: r.telemetry.holds(d.id, r.batch())),
        "TelemetryRepository.batches": made(
            lambda r: r.device,
            lambda r, d: list(r.telemetry.batches(d.id, from_ms=epoch_ms(NOW), to_ms=epoch_ms(LATER))),
        ),
        "DeletedDeviceRepository.remove": made(
            lambda r: r.left, lambda r, gone: r.leftovers.remove(gone, now=NOW, limit=50)
        ),
        "DeletedDeviceRepository.empty": _emptied,
        "DeletedDeviceRepository.gone": made(lambda r: r.left, lambda r, gone: r.leftovers.gone(gone.user_id)),
        "DeletedDeviceRepository.empty_owner": made(
            lambda r: (r.left, r.purge()), lambda r, n: r.leftovers.empty_owner(n[1])
        ),
        "DeletedDeviceRepository.forget": made(lambda r: r.left, lambda r, gone: r.leftovers.forget(gone)),
    },
)


def _serial() -> str:
    return f"EOS-{new_id()[-12:]}"


def _device(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/devices", _new_device(world, owner))["device"]["id"])


def _command(world: World, owner: str, ids: Mapping[str, str]) -> str:
    made = world.create(owner, f"/api/v1/devices/{ids['device_id']}/commands", {"command": "blink"})
    return str(made["command"]["id"])


def _letter(world: World, _: str, ids: Mapping[str, str]) -> str:
    letters, device_id = DeadLetterRepository(), DeviceId(ids["device_id"])
    refused, at_ms = [Refused("boot", "WRONG_VALUE")], epoch_ms(datetime.now(UTC))
    letters.store(device_id, refused=refused, topic="dt/karma/EOS-1/telemetry", payload=b"{}", received_ms=at_ms)
    [letter], _more = letters.page(device_id, limit=1)
    return letter.id


def _new_device(_: World, __: str) -> dict[str, Any]:
    return {"name": "Greenhouse", "model": "EOS-3A", "mac": "AA:BB:CC:00:11:22", "serial_number": _serial()}


def _bulk(world: World, owner: str, ids: Mapping[str, str]) -> str:
    body = {"device_ids": [ids.get("device_id", new_id())], "command": "blink"}
    return str(world.create(owner, "/api/v1/commands/bulk", body)["bulk"]["id"])


def _certificate(world: World, owner: str, ids: Mapping[str, str]) -> str:
    made = world.create(owner, f"/api/v1/devices/{ids['device_id']}/certificates", {})
    return str(made["credentials"]["certificate_id"])


def _device_for(world: World, owner: str, ids: Mapping[str, str]) -> str:
    """Make a device of a stranger's that is offered to the person."""
    world.person(owner)
    giver = world.stranger()
    rows = DeviceRepository()
    device = provisioning_device(giver.id)
    rows.claim(device, reservation=reserved(giver.id), attempt="a", now=datetime.now(UTC))
    rows.activate(device, attempt="a", certificate_id="c1", now=datetime.now(UTC))
    Transfers(SystemClock()).offer(giver.id, device.id, world.person(owner).id)
    return str(device.id)


def _offered(world: World, owner: str, ids: Mapping[str, str]) -> str:
    """Make a device of the person's that is offered to a stranger."""
    device_id = _device(world, owner, ids)
    Transfers(SystemClock()).offer(world.person(owner).id, device_id, world.stranger().id)
    return device_id


OBJECTS: Objects = {
    "device_id of POST /api/v1/devices/{device_id}/transfer/accept": _device_for,
    "device_id of POST /api/v1/devices/{device_id}/transfer/decline": _device_for,
    "device_id of GET /api/v1/devices/{device_id}/transfer": _offered,
    "device_id of DELETE /api/v1/devices/{device_id}/transfer": _offered,
    "device_id": _device,
    "certificate_id": _certificate,
    "command_id": _command,
    "letter_id": _letter,
    "bulk_id": _bulk,
}


def _list(_: World, __: str) -> dict[str, Any]:
    return {"csv": f"name,model,mac,serial_number\nGreenhouse,EOS-3A,AA:BB:CC:00:11:22,{_serial()}\n"}


BODIES: Bodies = {
    "POST /api/v1/devices/import": _list,
    "POST /api/v1/devices": _new_device,
    "PATCH /api/v1/devices/{device_id}": lambda *_: {"name": "Kitchen"},
    "POST /api/v1/devices/{device_id}/commands": lambda *_: {"command": "blink"},
    "PATCH /api/v1/devices/{device_id}/settings": lambda *_: {"desired": {"interval_s": 30}},
    "POST /api/v1/devices/{device_id}/certificates": lambda *_: {"overlap_s": 3_600},
    "POST /api/v1/devices/{device_id}/transfer": lambda world, _: {
        "user_id": world.stranger().id,
        "current_password": PASSWORD,
    },
    "POST /api/v1/commands/bulk": lambda *_: {"device_ids": [new_id()], "command": "blink"},
}


def _made_device_over(rows: DeviceRows) -> None:
    rows.active(request=asked())
    assert rows.devices.made_by(rows.ada.id, asked(at=NOW + RETENTION - timedelta(seconds=1)))
    assert not rows.devices.made_by(rows.ada.id, asked(at=NOW + RETENTION))
    rows.active(request=asked(at=NOW + RETENTION))


def _sent_command_over(rows: DeviceRows) -> None:
    rows.commands.add(rows.command(), rows.device, now=NOW, request=asked())
    assert rows.commands.made_by(rows.device, asked(at=NOW + RETENTION - timedelta(seconds=1)))
    assert not rows.commands.made_by(rows.device, asked(at=NOW + RETENTION))
    rows.commands.add(rows.command(), rows.device, now=NOW, request=asked(at=NOW + RETENTION))


def _command_over(rows: DeviceRows) -> None:
    command = rows.sent
    end = from_epoch_ms(command.expires_ms) + timedelta(seconds=COMMAND_RETENTION_S)
    for now, shown in ((end - timedelta(seconds=1), 1), (end, 0)):
        clock = FakeClock(now)
        service = CommandService(rows.devices, rows.commands, FakePublisher(), FakeWakeUps(clock), clock)
        commands, _ = service.list(rows.ada.id, command.device_id)
        assert len(commands) == shown
        if shown:
            service.get(rows.ada.id, command.device_id, command.id)
            continue
        with pytest.raises(NotFound):
            service.get(rows.ada.id, command.device_id, command.id)


def _bulk_over(rows: DeviceRows) -> None:
    bulk = rows.bulk
    end = from_epoch_ms(bulk.expires_ms) + timedelta(seconds=COMMAND_RETENTION_S)
    for now, shown in ((end - timedelta(seconds=1), 1), (end, 0)):
        clock = FakeClock(now)
        service = BulkCommandService(rows.bulks, rows.devices, rows.commands, QueuedBulkParts(FakeIngestQueue()), clock)
        assert len(service.list(rows.ada.id, limit=5)[0]) == shown
        if shown:
            service.get(rows.ada.id, bulk.key.bulk_id)
            continue
        with pytest.raises(NotFound):
            service.get(rows.ada.id, bulk.key.bulk_id)


def _made_bulk_over(rows: DeviceRows) -> None:
    rows.added(rows.new_bulk(), request=asked())
    assert rows.bulks.made_by(rows.ada.id, asked(at=NOW + RETENTION - timedelta(seconds=1)))
    assert not rows.bulks.made_by(rows.ada.id, asked(at=NOW + RETENTION))
    rows.added(rows.new_bulk(), request=asked(at=NOW + RETENTION))


def _made_certificate_over(rows: DeviceRows) -> None:
    rows.rotations.open(rows.rotation, NEXT, now=NOW, request=asked())
    assert rows.rotations.made_by(rows.ada.id, asked(at=NOW + RETENTION - timedelta(seconds=1)))
    assert not rows.rotations.made_by(rows.ada.id, asked(at=NOW + RETENTION))
    assert rows.settle()
    assert rows.rotations.finish(rows.rotation, now=NOW)
    again = rows.new_rotation(attempt="r2", old_certificate_id="c2")
    rows.rotations.begin(again, due=NOW)
    rows.rotations.open(again, THIRD, now=NOW, request=asked(at=NOW + RETENTION))


def _offer_over(rows: DeviceRows) -> None:
    offer = rows.offer
    second, end = timedelta(seconds=1), offer.expires_at
    with pytest.raises(TransferChanged):
        rows.move(offer, rows.as_stored, now=end)
    rows.move(offer, rows.as_stored, now=end - second)


def _refusal_over(rows: DeviceRows) -> None:
    assert rows.transfers.decline(rows.offer, by=rows.receiver, at=NOW, entry=rows.entry)
    end = rows.offer.expires_at
    with pytest.raises(OfferDeclined):
        rows.put_offer(rows.new_offer(offered_at=end - timedelta(seconds=1)))
    rows.put_offer(rows.new_offer(offered_at=end))


def _taken_over_before(rows: DeviceRows) -> None:
    became, old = rows.move(rows.offer, rows.as_stored, now=NOW), rows.offer.device_id
    end = NOW + OFFER_TTL
    assert rows.transfers.taken(rows.receiver, old, now=end - timedelta(seconds=1)) == became
    assert rows.transfers.taken(rows.receiver, old, now=end) is None


def _change_over(rows: DeviceRows) -> None:
    end = NOW + timedelta(seconds=CHANGE_RETENTION_S)
    for now, shown in ((end - timedelta(seconds=1), 1), (end, 0)):
        assert len(rows.settings.page(rows.settings_change.device_id, limit=5, after="", now=now)[0]) == shown


def _letter_over(rows: DeviceRows) -> None:
    rows.letters.store(rows.device.id, refused=[Refused("", "R")], topic="t", payload=b"", received_ms=epoch_ms(NOW))
    end_s = epoch_ms(NOW) // 1000 + DEAD_LETTER_RETENTION_S
    assert len(rows.letters.page(rows.device.id, limit=5, now_s=end_s - 1)[0]) == 1
    assert rows.letters.page(rows.device.id, limit=5, now_s=end_s)[0] == []


EXPIRES = Checks[DeviceRows](
    DeviceRows,
    {
        "device_request": _made_device_over,
        "idempotency": _sent_command_over,
        "command": _command_over,
        "bulk_command": _bulk_over,
        "bulk_part": _bulk_over,
        "bulk_request": _made_bulk_over,
        "rotation_request": _made_certificate_over,
        "dead_letter": _letter_over,
        "device_offer": _offer_over,
        "device_refusal": _refusal_over,
        "device_taken": _taken_over_before,
        "settings_change": _change_over,
    },
)


def _counted_hour(rows: DeviceRows) -> None:
    assert rows.hours.take(rows.device.id, Cost.UNITS, 1, hour=1, most=2)


OUTLIVES = Checks[DeviceRows](
    DeviceRows,
    {
        # Read by the messages of its own hour alone.
        "device_hour": _counted_hour,
    },
)

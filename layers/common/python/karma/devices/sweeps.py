"""The scheduled sweep of devices: overdue commands end, unfinished creations and deletions are finished.

Called every minute; each call does a bounded amount of work and may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from karma.core.clock import Clock, epoch_ms
from karma.core.errors import Upstream
from karma.core.ids import DeviceId
from karma.core.observability import count, logger
from karma.core.sweeping import sweep_each
from karma.devices.dispatch import expire, leave_wake_up
from karma.devices.domain import RAW_STORED_S, DeviceState
from karma.devices.ports import DataOfDevices, Registry, WakeUps
from karma.devices.repository.commands import CommandRepository, Pending
from karma.devices.repository.deleted_devices import DeletedDeviceRepository
from karma.devices.repository.device_mapping import GoneDevice, SerialClaim
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.items import EXPIRY_SHARDS
from karma.devices.service import DeviceService

COMMANDS_A_SHARD: Final = 50
DEVICES_A_SWEEP: Final = 20
ITEMS_A_DEVICE: Final = 500
LOOK_AHEAD: Final = timedelta(seconds=90)
"""Time ahead for which wake-ups are enqueued: beyond the minute until the next sweep, so that a late one leaves no gap.
"""
GRACE: Final = timedelta(minutes=2)
"""Time before a sweep finishes a creation or deletion: above a request's time and the cache of ingest."""
CERTIFICATE_GRACE_S: Final = 900.0
CERTIFICATES_A_SWEEP: Final = 250
"""Largest number of certificates looked at in a sweep, newest first: an unused one is removed while it is young."""


def expire_commands(commands: CommandRepository, wake_ups: WakeUps, clock: Clock) -> int:
    """End unfinished commands whose time is over; return how many.

    A wake-up is enqueued for each device with an ended command, and for the end of each that ends before the next
    sweep:
    commands that waited for it are published then.
    """
    ended = 0
    called: dict[tuple[DeviceId, int], bool] = {}

    def deal_with(entry: Pending) -> int:
        delay_s = max(0, -((epoch_ms(now) - entry.expires_ms) // 1000))
        call = (entry.device_id, delay_s)
        if call not in called:
            called[call] = leave_wake_up(wake_ups, entry.user_id, entry.device_id, delay_s=delay_s)
        # The call first: a command that has ended is not found again.
        if called[call] and entry.expires_ms <= epoch_ms(now):
            return expire(commands, entry.device_id, entry.id, at=now)
        return 0

    for shard in range(EXPIRY_SHARDS):
        now = clock.now()
        due = commands.overdue(shard, before=now + LOOK_AHEAD, limit=COMMANDS_A_SHARD)
        ended += sweep_each("commands", due, deal_with, name=lambda entry: entry.id, clock=clock)
    return ended


def sweep_orphans(
    *,
    registry: Registry,
    clock: Clock,
    others: Sequence[DataOfDevices] = (),
    retention_s: int = RAW_STORED_S,
) -> int:
    """Finish creations and deletions that requests left unfinished, and remove the data of deleted devices.

    Data of `others` is removed first: the tombstone, by which a deleted device is found, is removed last.

    Returns:
        Number of devices and certificates dealt with.
    """
    devices = DeviceRepository()
    service = DeviceService(devices, registry, clock)
    leftovers = DeletedDeviceRepository(retention_s=retention_s)

    def finish(orphan: SerialClaim | GoneDevice) -> int:
        if isinstance(orphan, SerialClaim):
            _finish(orphan, devices, service, registry)
        elif all(other.remove(orphan.device_id, limit=ITEMS_A_DEVICE) < ITEMS_A_DEVICE for other in others):
            leftovers.remove(orphan, now=clock.now(), limit=ITEMS_A_DEVICE)
        return 1

    due = devices.unfinished(before=clock.now() - GRACE, limit=DEVICES_A_SWEEP)
    done = sweep_each("orphans", due, finish, name=lambda orphan: orphan.device_id, clock=clock)
    return done + _remove_unused_certificates(registry, clock)


def _finish(claim: SerialClaim, devices: DeviceRepository, service: DeviceService, iot: Registry) -> None:
    row = devices.row(claim.user_id, claim.device_id, consistent=True)
    if row is None:
        return
    if row.state is DeviceState.PROVISIONING:
        # Rows last: while they stand, the next sweep finds what could not be removed.
        iot.remove_thing(claim.serial_number)
        devices.discard(row, attempt=None)
        count("DeviceOrphanRemoved")
    elif row.state is DeviceState.DELETING:
        service.finish_delete(row)


def _remove_unused_certificates(iot: Registry, clock: Clock) -> int:
    try:
        arns = iot.unused_certificates(
            older_than_s=CERTIFICATE_GRACE_S, now_s=clock.now().timestamp(), limit=CERTIFICATES_A_SWEEP
        )
    except Upstream as exc:
        logger.warning("sweep.certificates_left", cause=type(exc).__name__)
        return 0

    def remove(arn: str) -> int:
        iot.remove_certificate(arn)
        return 1

    return sweep_each("certificates", arns, remove, name=lambda arn: arn.rpartition("/")[2], clock=clock)

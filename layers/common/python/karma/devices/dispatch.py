"""The device's queue of commands: what may be published now, in which order.

The broker is not the queue: a command is published when its device listens, again at each `ready` until the device has
taken it, and never after its time. A `serial` command goes out alone: it waits until all before it are answered, and
what follows waits for its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from karma.core.clock import Clock
from karma.core.ids import DeviceId
from karma.core.observability import count
from karma.devices.domain import MAX_PENDING_COMMANDS, CommandStatus
from karma.devices.ports import CommandPublisher
from karma.devices.repository.commands import CommandRepository, Pending


def publishable(pending: Sequence[Pending]) -> list[Pending]:
    """Return the head of a queue that may be on its way at once; entries are unfinished and in order."""
    head: list[Pending] = []
    for entry in pending:
        if entry.serial and head:
            break
        head.append(entry)
        if entry.serial:
            break
    return head


class Dispatcher:
    """Publishes what a device may hear now."""

    def __init__(self, commands: CommandRepository, publisher: CommandPublisher, clock: Clock) -> None:
        self._commands = commands
        self._publisher = publisher
        self._clock = clock

    def dispatch(self, device_id: DeviceId, *, again: bool) -> int:
        """Publish the head of the device's queue; return how many requests went out.

        Args:
            device_id: device that listens now.
            again: also what was sent before and not acknowledged (the device has said `ready`: it may have lost it).

        A crash between a publish and its record sends the request twice; the device remembers ids.

        Raises:
            Upstream: IoT or the database did not answer; what was not sent stays queued.
        """
        now = self._clock.now()
        now_ms = now.timestamp() * 1000
        alive: list[Pending] = []
        for entry in self._commands.pending(device_id, limit=MAX_PENDING_COMMANDS):
            if entry.expires_ms <= now_ms:
                expire(self._commands, entry, at=now)
            else:
                alive.append(entry)
        published = 0
        for entry in publishable(alive):
            if entry.status is CommandStatus.ACKNOWLEDGED or (entry.status is CommandStatus.SENT and not again):
                continue
            remaining_s = int((entry.expires_ms - now_ms) / 1000)
            self._publisher.publish_command(
                entry.serial_number, request_body(entry), command_id=entry.id, expires_in_s=remaining_s
            )
            published += 1
            if entry.status is CommandStatus.QUEUED:
                self._commands.move(device_id, entry.id, CommandStatus.SENT, at=now)
        return published


def expire(commands: CommandRepository, entry: Pending, *, at: datetime) -> bool:
    """End an overdue command; tell whether it was still unfinished."""
    # The entry may be older than the record, so both ends are tried: `expired`, or `timed_out` once it was taken.
    for status in (CommandStatus.EXPIRED, CommandStatus.TIMED_OUT):
        if commands.move(entry.device_id, entry.id, status, at=at):
            count("CommandExpired", outcome=status)
            return True
    return False


def request_body(pending: Pending) -> dict[str, Any]:
    """Return the body of `cmd/karma/<thing>/request`."""
    return {
        "id": pending.id,
        "command": pending.command,
        "params": pending.params,
        "issued_at": pending.issued_ms,
        "expires_at": pending.expires_ms,
        "serial": pending.serial,
    }

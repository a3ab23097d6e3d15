"""The device's queue of commands: what may be published now, in which order, and what an answer changes.

The broker is not the queue: a command is published when its device listens, again at each `ready` until the device has
taken it, and never after its time. A `serial` command goes out alone: it waits until all before it are over, and what
follows waits for its end.

What waits behind another goes on at the next of: the other's final answer; its end, for which a wake-up call was left
(a delayed message of the ingest queue, which costs about 2 millionths of a dollar); the sweep of the minute, which
leaves that call where the end was further away, or where whoever should have left it died.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.ids import CommandId, DeviceId, UserId
from karma.core.observability import count, logger
from karma.devices.domain import MAX_PENDING_COMMANDS, CommandStatus, LateResult, is_final
from karma.devices.payloads import Answer
from karma.devices.ports import CommandPublisher, WakeUps
from karma.devices.repository.commands import CommandRepository, Pending

WAKE_AHEAD_S: Final = 120
"""Ends that are further away are left to the sweep, which comes by every minute and looks 90 seconds ahead."""


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
    """Publishes what a device may hear now, and records what it answers."""

    def __init__(
        self, commands: CommandRepository, publisher: CommandPublisher, wake_ups: WakeUps, clock: Clock
    ) -> None:
        self._commands = commands
        self._publisher = publisher
        self._wake_ups = wake_ups
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
        alive = self.unfinished(device_id)
        head = publishable(alive)
        if len(head) < len(alive):
            # Before the publish, so that a failure there does not leave the others without their call.
            self._leave_wake_up(head, now_ms)
        published = 0
        for entry in head:
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

    def unfinished(self, device_id: DeviceId) -> list[Pending]:
        """End what is overdue in a device's queue; return the rest, in order."""
        now = self._clock.now()
        now_ms = now.timestamp() * 1000
        alive: list[Pending] = []
        for entry in self._commands.pending(device_id, limit=MAX_PENDING_COMMANDS):
            if entry.expires_ms <= now_ms:
                expire(self._commands, device_id, entry.id, at=now)
            else:
                alive.append(entry)
        return alive

    def take_answer(self, device_id: DeviceId, answer: Answer, *, received_ms: int) -> str:
        """Record what a device says of a command; return `moved`, `late`, `repeated` or `unknown`.

        An answer counts when the broker had it before the command's end and nobody has recorded that end. A final
        answer to a command that is over is kept beside it, the first one of those, and changes nothing.
        """
        now = self._clock.now()
        if self._commands.move(
            device_id,
            answer.command_id,
            answer.status,
            at=now,
            result=answer.result,
            error=answer.error,
            answered_ms=received_ms,
        ):
            return "moved"
        command = self._commands.get(device_id, answer.command_id, consistent=True)
        if command is not None and not command.finished and received_ms >= command.expires_ms:
            expire(self._commands, device_id, command.id, at=now)
            command = self._commands.get(device_id, command.id, consistent=True)
        if command is None:
            return "unknown"
        late = LateResult(status=answer.status, result=answer.result, error=answer.error, received_ms=received_ms)
        if not (is_final(answer.status) and command.is_news(late)):
            return "repeated"
        return "late" if self._commands.keep_late(device_id, command.id, late, at=now) else "repeated"

    def _leave_wake_up(self, head: Sequence[Pending], now_ms: float) -> None:
        """Ask to be called when the last of the head is over for want of an answer."""
        last = max(head, key=lambda entry: entry.expires_ms)
        delay_s = math.ceil((last.expires_ms - now_ms) / 1000)
        if delay_s <= WAKE_AHEAD_S:
            leave_wake_up(self._wake_ups, last.user_id, last.device_id, delay_s=delay_s)


def leave_wake_up(wake_ups: WakeUps, user_id: UserId, device_id: DeviceId, *, delay_s: int) -> bool:
    """Ask that a device's queue be looked at after a delay; False when that failed: a sweep tries again."""
    try:
        wake_ups.leave(user_id, device_id, delay_s=delay_s)
    except Upstream as exc:
        logger.warning("command.wake_up_failed", device_id=device_id, cause=type(exc).__name__)
        count("CommandWakeUpFailed")
        return False
    return True


def expire(commands: CommandRepository, device_id: DeviceId, command_id: CommandId, *, at: datetime) -> bool:
    """End an overdue command; tell whether it was still unfinished."""
    # What is known of it may be older than the record, so both ends are tried: `timed_out` once it was taken.
    for status in (CommandStatus.EXPIRED, CommandStatus.TIMED_OUT):
        if commands.move(device_id, command_id, status, at=at):
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

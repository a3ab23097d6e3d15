"""A device's queue of commands: publishing them in order, and recording answers.

The broker is not the queue: a command is published when its device listens, again at `ready` until the device has
taken it, and never after its time. A `serial` command is sent alone: it waits until all before it have ended, and later
ones wait for its end.

Each publish is recorded just before, on condition that the command is still as it was read and its device active. So
what was cancelled or deleted in the meantime is not sent from a list that was read earlier.

A command that waits for another is published at the next of: the other's final answer; its end, for which a wake-up
was enqueued (a delayed message of the ingest queue, which costs about 2 millionths of a dollar); the sweep of each
minute, which enqueues that wake-up where the end was further away, or a crash came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from karma.core.clock import Clock, epoch_ms
from karma.core.errors import NotFound, Upstream
from karma.core.ids import CommandId, DeviceId, UserId
from karma.core.observability import count, logger
from karma.devices.domain import MAX_PENDING_COMMANDS, CommandStatus, LateResult, is_final
from karma.devices.payloads import CommandAnswer
from karma.devices.ports import CommandPublisher, WakeUps
from karma.devices.repository.commands import CommandRepository, Pending

RESEND_AFTER_S: Final = 5
"""Seconds after a publish before which the same command is not sent again, however often its device says `ready`.

They double with each publish, up to `RESEND_AT_LEAST_EVERY_S`.
"""
RESEND_AT_LEAST_EVERY_S: Final = 60
READY_EVERY_S: Final = 5
"""Seconds until a process looks into a device's queue for a `ready` again; those that come before share that look."""
SLOW_READY_EVERY_S: Final = 60
"""The same for a device that has used up its hour: one that connects over and over still gets its commands."""
AT_ONCE: Final = 20
"""Commands of one device that ingest sends before it turns to other devices; a wake-up brings the others."""
_SKEW_MS: Final = 2_000
"""Milliseconds by which the broker's clock, which tells when a device was ready, may be behind ours."""
_MAX_TURNS: Final = 10_000
WAKE_AHEAD_S: Final = 120
"""Ends that are further away, in seconds, are left to the sweep, which runs every minute and looks 90 seconds ahead."""


def publishable(pending: Sequence[Pending]) -> list[Pending]:
    """Return the head of a queue that may be sent at the same time; entries are unfinished and in order."""
    head: list[Pending] = []
    for entry in pending:
        if entry.serial and head:
            break
        head.append(entry)
        if entry.serial:
            break
    return head


class Dispatcher:
    """Publishes the commands that a device may receive now, and records its answers."""

    def __init__(
        self, commands: CommandRepository, publisher: CommandPublisher, wake_ups: WakeUps, clock: Clock
    ) -> None:
        self._commands = commands
        self._publisher = publisher
        self._wake_ups = wake_ups
        self._clock = clock
        self._turns: dict[DeviceId, tuple[int, bool]] = {}
        """Time in milliseconds of a device's next look for a `ready`, and whether a wake-up was left for it."""

    def take_ready(self, user_id: UserId, device_id: DeviceId, *, ready_ms: int, every_s: int) -> None:
        """Publish what a device that has said `ready` may receive, now or when its next turn comes.

        Args:
            user_id: owner.
            device_id: device.
            ready_ms: broker's time of the message; what was sent before and not acknowledged may be lost.
            every_s: seconds until the device's turn after this one.

        Raises:
            Upstream: as of `dispatch`.
        """
        now_ms, again_ms = epoch_ms(self._clock.now()), ready_ms + _SKEW_MS
        turn_ms, left = self._turns.get(device_id, (0, False))
        if now_ms < turn_ms:
            delay_s = -((now_ms - turn_ms) // 1000)
            # The one that is left has the time of an earlier `ready`: what is sent between the two came behind both.
            if left or leave_wake_up(self._wake_ups, user_id, device_id, delay_s=delay_s, again_ms=turn_ms):
                self._turns[device_id] = (turn_ms, True)
                return
        if len(self._turns) >= _MAX_TURNS:
            self._turns.clear()
        self._turns[device_id] = (now_ms + every_s * 1000, False)
        self.dispatch(device_id, again_ms=again_ms, at_most=AT_ONCE)

    def dispatch(self, device_id: DeviceId, *, again_ms: int = 0, at_most: int = MAX_PENDING_COMMANDS) -> int:
        """Publish the head of the device's queue; return how many requests went out.

        Args:
            device_id: a device that listens now.
            again_ms: also those that were sent before this time and not acknowledged: the device has said `ready` and
                may have lost them; 0: none.
            at_most: publish no more than this now; the others are left to a wake-up.

        Each is recorded as `sent` before it is published, so nobody is told that it is cancelled while it goes out. A
        crash in between leaves it unsent until the delivery that crashed comes again, or the device's next `ready`.

        Raises:
            Upstream: IoT or the database did not answer; commands that were not sent are sent by a later call.
        """
        alive = self.unfinished(device_id)
        head = publishable(alive)
        if len(head) < len(alive):
            # Before the publish, so that a failure there does not leave the others without their call.
            self._leave_wake_up(head)
        published, held = 0, list[tuple[int, Pending]]()
        for entry in head:
            if not (entry.status is CommandStatus.QUEUED or _may_be_lost(entry, again_ms)):
                continue
            now = self._clock.now()
            if entry.expires_ms <= epoch_ms(now):
                expire(self._commands, device_id, entry.id, at=now)
                continue
            due_ms = _due_ms(entry)
            if epoch_ms(now) < due_ms:
                held.append((due_ms - epoch_ms(now), entry))
                continue
            if published >= at_most and leave_wake_up(
                self._wake_ups, entry.user_id, device_id, delay_s=0, again_ms=again_ms
            ):
                return published
            try:
                if not self._commands.begin_publish(entry, at=now):
                    continue
            except NotFound:
                return published
            self._publish(entry, at=now)
            published += 1
        if held:
            # The device may have lost its connection just then, and have told us: it is heard, a little later.
            wait_ms, entry = min(held, key=lambda each: each[0])
            leave_wake_up(self._wake_ups, entry.user_id, device_id, delay_s=-(-wait_ms // 1000), again_ms=again_ms)
        return published

    def _publish(self, entry: Pending, *, at: datetime) -> None:
        remaining_s = (entry.expires_ms - epoch_ms(at)) // 1000
        try:
            self._publisher.publish_command(
                entry.serial_number, request_body(entry), command_id=entry.id, expires_in_s=remaining_s
            )
        except Upstream:
            self._commands.publish_failed(entry)
            raise

    def unfinished(self, device_id: DeviceId) -> list[Pending]:
        """End the overdue commands in a device's queue; return the others, in order."""
        now = self._clock.now()
        now_ms = now.timestamp() * 1000
        alive: list[Pending] = []
        for entry in self._commands.pending(device_id, limit=MAX_PENDING_COMMANDS):
            if entry.expires_ms <= now_ms:
                expire(self._commands, device_id, entry.id, at=now)
            else:
                alive.append(entry)
        return alive

    def take_answer(self, device_id: DeviceId, answer: CommandAnswer, *, received_ms: int) -> str:
        """Record a device's answer to a command; return `moved`, `late`, `repeated` or `unknown`.

        An answer counts when the broker received it before the command's end and that end is not recorded. The first
        final answer after the end is stored as `late_result`, and changes nothing.
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

    def _leave_wake_up(self, head: Sequence[Pending]) -> None:
        """Enqueue a wake-up for the moment at which the last command of the head ends without an answer."""
        last = max(head, key=lambda entry: entry.expires_ms)
        delay_s = -((epoch_ms(self._clock.now()) - last.expires_ms) // 1000)
        if delay_s <= WAKE_AHEAD_S:
            leave_wake_up(self._wake_ups, last.user_id, last.device_id, delay_s=delay_s)


def _may_be_lost(entry: Pending, again_ms: int) -> bool:
    return entry.status is CommandStatus.SENT and entry.published_ms < again_ms


def _due_ms(entry: Pending) -> int:
    """Return the time in milliseconds before which a command is not sent again; 0: it may go at once."""
    if entry.status is CommandStatus.QUEUED:
        return 0
    wait_s = min(RESEND_AFTER_S * 2 ** min(entry.publishes - 1, 9), RESEND_AT_LEAST_EVERY_S) if entry.publishes else 0
    return entry.published_ms + int(wait_s) * 1000


def leave_wake_up(wake_ups: WakeUps, user_id: UserId, device_id: DeviceId, *, delay_s: int, again_ms: int = 0) -> bool:
    """Enqueue a wake-up of a device's queue after a delay; return False when that failed: a sweep tries again."""
    try:
        wake_ups.leave(user_id, device_id, delay_s=delay_s, again_ms=again_ms)
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
        "device_id": pending.addressee or pending.device_id,
        "command": pending.command,
        "params": pending.params,
        "issued_at": pending.issued_ms,
        "expires_at": pending.expires_ms,
        "serial": pending.serial,
    }

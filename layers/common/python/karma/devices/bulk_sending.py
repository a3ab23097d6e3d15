"""Sending the parts of bulk commands; called at least once for each, late, and side by side (docs/adr/0066).

    1. read       the bulk command and the part, strongly consistent; a part that is as it is to be is passed over
    2. send       each device its command, or find the one that an earlier attempt has sent; or cancel what waits
    3. record     what became of each, and count the part, in one transaction under the part's stage
    4. go on      with the next part of the lane

A process that dies in between leaves commands without the part's record; who handles it again finds them by the record
of their request. A death before 4 is found by the repeat, which goes on, or by the sweep.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial

from karma.core.clock import Clock
from karma.core.errors import Forbidden, NotFound, RateLimited
from karma.core.ids import CommandId, DeviceId, UserId
from karma.devices.bulk import LANES, BulkCancelled, BulkCommand, BulkPart, BulkRefusal, PartKey, PartStage
from karma.devices.bulk_parts import QueuedBulkParts
from karma.devices.commands import CommandService, PlannedCommand
from karma.devices.domain import CommandStatus
from karma.devices.repository.bulk_commands import BulkCommandRepository, require_sending
from karma.devices.repository.commands import CommandRepository
from karma.devices.sharing import ReachableDevices


class BulkSender:
    """Handles parts."""

    def __init__(
        self,
        bulks: BulkCommandRepository,
        sender: CommandService,
        commands: CommandRepository,
        queue: QueuedBulkParts,
        clock: Clock,
        reach: ReachableDevices,
    ) -> None:
        self._reach = reach
        self._bulks = bulks
        self._sender = sender
        self._commands = commands
        self._queue = queue
        self._clock = clock

    def take(self, key: PartKey) -> str:
        """Bring a part to what its bulk command wants, and send the next of its lane; return what was done.

        Raises:
            Upstream: the database or IoT did not answer; the part must be delivered again.
        """
        bulk = self._bulks.get(key.bulk)
        found = self._bulks.parts(key.bulk, first=key.number, limit=1) if bulk is not None else []
        if bulk is None or not found:
            return "gone"
        [part] = found
        outcome = "repeated"
        if part.stage is not bulk.wanted:
            try:
                part = self._cancelled(bulk, part) if bulk.cancelled else self._sent(bulk, part)
            except BulkCancelled:
                # It was cancelled as its commands were being sent: what was sent is cancelled with the others.
                return self.take(key)
            done = self._bulks.finish_part(bulk, part, at=self._clock.now())
            outcome = bulk.wanted.value if done else "raced"
        if key.number + LANES < bulk.parts:
            self._queue.leave(PartKey(key.bulk, key.number + LANES))
        return outcome

    def _sent(self, bulk: BulkCommand, part: BulkPart) -> BulkPart:
        sent: dict[DeviceId, CommandId] = {}
        refused: dict[DeviceId, BulkRefusal] = {}
        for device_id in part.device_ids:
            try:
                sent[device_id] = self._send(bulk, device_id)
            except (NotFound, Forbidden, RateLimited) as exc:
                refused[device_id] = BulkRefusal(exc.code, exc.message)
            except _Over:
                refused[device_id] = BulkRefusal("EXPIRED", "The time of the command was over before it was sent")
        return replace(part, sent=sent, refused=refused)

    def _send(self, bulk: BulkCommand, device_id: DeviceId) -> CommandId:
        if not bulk.may_send(self._clock.now()):
            made = self._made(bulk, device_id)
            if made is None:
                raise _Over
            return made

        def send(owner: UserId) -> CommandId:
            sender, is_own = bulk.key.user_id, owner == bulk.key.user_id
            planned = PlannedCommand(
                command=bulk.command,
                params=bulk.params,
                serial=bulk.serial,
                expires_ms=bulk.expires_ms,
                requested_by=f"bulk:{bulk.key.bulk_id}" if is_own else f"member:{sender}",
                request=bulk.request,
                also=partial(require_sending, key=bulk.key),
            )
            return self._sender.send_planned(owner, device_id, planned).id

        return self._reach.to_control(bulk.key.user_id, device_id, send)

    def _made(self, bulk: BulkCommand, device_id: DeviceId) -> CommandId | None:
        """Return the command that an earlier attempt has sent a device; a record of one's own tells most."""

        def find(owner: UserId) -> CommandId:
            made = self._commands.made_by_request(owner, device_id, bulk.request)
            if made is None:
                raise NotFound(f"Device {device_id} was sent nothing")
            return made

        try:
            return self._reach.to_read(bulk.key.user_id, device_id, find)
        except NotFound:
            return None

    def _cancelled(self, bulk: BulkCommand, part: BulkPart) -> BulkPart:
        now = self._clock.now()
        sent, refused = dict(part.sent), dict(part.refused)
        if part.stage is PartStage.OPEN:
            for device_id in part.device_ids:
                made = self._made(bulk, device_id)
                if made is None:
                    refused[device_id] = BulkRefusal("CANCELLED", "The bulk command was cancelled")
                else:
                    sent[device_id] = made
        for device_id, command_id in sent.items():
            self._cancel(device_id, command_id, at=now)
        return replace(part, sent=sent, refused=refused)

    def _cancel(self, device_id: DeviceId, command_id: CommandId, *, at: datetime) -> None:
        self._commands.move(device_id, command_id, CommandStatus.CANCELLED, at=at, only_from=CommandStatus.QUEUED)


class _Over(Exception):
    """The time of the bulk command is over."""

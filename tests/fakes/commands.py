"""In-memory stand-in for the commands of a table. It passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from karma.core.clock import epoch_ms
from karma.core.errors import NotFound, RateLimited
from karma.core.ids import CommandId, DeviceId, UserId
from karma.core.requests import RepeatableRequest
from karma.devices.domain import (
    COMMAND_RETENTION_S,
    FINAL_ANSWERS,
    MAX_COMMAND_UNITS,
    Command,
    CommandStatus,
    Device,
    LateResult,
    sources_of,
)
from karma.devices.ports import Join
from karma.devices.repository.commands import Pending
from karma.devices.repository.hours import HOUR_S
from karma.devices.repository.items import EXPIRY_SHARDS, expiry_partition
from tests.fakes.requests import MemoryRequests


@dataclass
class MemoryCommands:
    """CommandRepository in a dictionary, in the order in which commands were given."""

    commands: dict[CommandId, Command] = field(default_factory=dict)
    gone: set[DeviceId] = field(default_factory=set)
    """Devices that are no longer active."""
    unsent: set[CommandId] = field(default_factory=set)
    """Commands whose publish failed."""
    published: dict[CommandId, list[int]] = field(default_factory=dict)
    """Times of the publishes of a command, in milliseconds."""
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    units: dict[tuple[DeviceId, int], int] = field(default_factory=dict)
    """Kilobytes of commands by device and hour."""

    def add(
        self,
        command: Command,
        device: Device,
        *,
        now: datetime,
        request: RepeatableRequest | None = None,
        also: Join | None = None,
    ) -> None:
        assert also is None, "conditions of other items are the table's"
        if device.id in self.gone:
            raise NotFound(f"Device {device.id} not found")
        self.requests.require_new(device.id, request)
        place = (device.id, int(now.timestamp()) // HOUR_S)
        if self.units.get(place, 0) > MAX_COMMAND_UNITS - command.units:
            raise RateLimited("too many this hour", retry_after_s=HOUR_S - int(now.timestamp()) % HOUR_S)
        self.units[place] = self.units.get(place, 0) + command.units
        self.requests.note(device.id, request, command.id)
        self.commands[command.id] = command

    def made_by(self, device: Device, request: RepeatableRequest) -> CommandId | None:
        return self.made_by_request(device.user_id, device.id, request)

    def made_by_request(self, user_id: UserId, device_id: DeviceId, request: RepeatableRequest) -> CommandId | None:
        made = self.requests.noted(device_id, request)
        return CommandId(made) if made else None

    def several(self, ids: Sequence[tuple[DeviceId, CommandId]]) -> list[Command]:
        return [each for device_id, command_id in ids if (each := self.get(device_id, command_id)) is not None]

    def get(self, device_id: DeviceId, command_id: CommandId, *, consistent: bool = False) -> Command | None:
        found = self.commands.get(command_id)
        return found if found is not None and found.device_id == device_id else None

    def page(
        self, device_id: DeviceId, *, limit: int, after: str = "", now_s: float = 0
    ) -> tuple[list[Command], str | None]:
        newest_first = sorted(self.commands.values(), key=lambda each: each.id, reverse=True)
        found = [
            each
            for each in newest_first
            if each.device_id == device_id
            and (not after or each.id < after)
            and each.expires_ms // 1000 + COMMAND_RETENTION_S > int(now_s)
        ]
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    def pending(self, device_id: DeviceId, *, limit: int) -> list[Pending]:
        in_order = sorted(self.commands.values(), key=lambda each: each.id)
        return [self._entry(each) for each in in_order if each.device_id == device_id and not each.finished][:limit]

    def overdue(self, shard: int, *, before: datetime, limit: int) -> list[Pending]:
        partition = f"EXPIRING#{shard % EXPIRY_SHARDS}"
        by_end = sorted(self.commands.values(), key=lambda each: (each.expires_ms, each.id))
        return [
            self._entry(each)
            for each in by_end
            if expiry_partition(each.device_id) == partition
            and not each.finished
            and each.expires_ms < epoch_ms(before)
        ][:limit]

    def begin_publish(self, entry: Pending, *, at: datetime) -> bool:
        if entry.device_id in self.gone:
            raise NotFound(f"Device {entry.device_id} not found")
        found = self.get(entry.device_id, entry.id)
        if found is None or found.finished:
            return False
        now = self._entry(found)
        if (now.status, now.published_ms) != (entry.status, entry.published_ms):
            return False
        self.unsent.discard(entry.id)
        self.published.setdefault(entry.id, []).append(epoch_ms(at))
        if entry.status is CommandStatus.QUEUED:
            self.commands[entry.id] = replace(found, status=CommandStatus.SENT, sent_ms=epoch_ms(at))
        return True

    def publish_failed(self, entry: Pending) -> None:
        found = self.get(entry.device_id, entry.id)
        if found is not None and found.status is CommandStatus.SENT:
            self.unsent.add(entry.id)

    def move(
        self,
        device_id: DeviceId,
        command_id: CommandId,
        to: CommandStatus,
        *,
        at: datetime,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        answered_ms: int = 0,
        only_from: CommandStatus | None = None,
    ) -> bool:
        found = self.get(device_id, command_id)
        if found is None or found.status not in sources_of(to) or (answered_ms and found.expires_ms <= answered_ms):
            return False
        if only_from is not None and found.status is not only_from:
            return False
        times = {CommandStatus.SENT: "sent_ms", CommandStatus.ACKNOWLEDGED: "acknowledged_ms"}
        changes: dict[str, Any] = {"status": to, times.get(to, "finished_ms"): epoch_ms(at)}
        for name, said in (("result", result), ("error", error)):
            if said is not None or to in FINAL_ANSWERS:
                changes[name] = None if said is None else dict(said)
        self.commands[command_id] = replace(found, **changes)
        return True

    def keep_late(self, device_id: DeviceId, command_id: CommandId, late: LateResult, *, at: datetime) -> bool:
        found = self.get(device_id, command_id)
        if found is None or not found.finished or found.late_result is not None:
            return False
        self.commands[command_id] = replace(found, late_result=late)
        return True

    def _entry(self, command: Command) -> Pending:
        must_go = command.id in self.unsent and command.status is CommandStatus.SENT
        return Pending(
            id=command.id,
            device_id=command.device_id,
            user_id=command.user_id,
            serial_number=command.serial_number,
            command=command.command,
            params=command.params,
            serial=command.serial,
            issued_ms=command.issued_ms,
            expires_ms=command.expires_ms,
            status=CommandStatus.QUEUED if must_go else command.status,
            published_ms=max(self.published.get(command.id, [0])),
            publishes=len(self.published.get(command.id, [])),
        )

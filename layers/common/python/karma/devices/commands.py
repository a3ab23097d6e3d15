"""Use cases of commands: send, read, list, wait, cancel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson

from karma.core import freeform
from karma.core.clock import Clock, epoch_ms, monotonic
from karma.core.errors import (
    AlreadyExists,
    Forbidden,
    InvalidTransition,
    NotFound,
    RateLimited,
    Upstream,
    ValidationFailed,
)
from karma.core.ids import CommandId, DeviceId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, RepeatableRequest, repeatable
from karma.devices.dispatch import Dispatcher, expire
from karma.devices.domain import (
    COMMAND_FORM,
    COMMAND_NAME,
    DEFAULT_TTL_S,
    MAX_PARAMS_BYTES,
    MAX_PENDING_COMMANDS,
    MAX_TTL_S,
    MAX_WAIT_S,
    MIN_TTL_S,
    SERIAL,
    Command,
    CommandStatus,
    Device,
    DeviceState,
    is_connected,
)
from karma.devices.ports import CommandPublisher, Join, WakeUps
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.devices import DeviceRepository

MEMBER: Final = "member:"
"""Beginning of `requested_by` where a member of a project has sent a command to a device of another account."""
OWNERS_COMMANDS: Final = "certificate."
"""Beginning of the names of commands that change what a device proves itself by: members of projects send none."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


def require_of_members(command: str) -> None:
    """Require that a command is one that members of a project may send to a device of its owner's.

    Raises:
        Forbidden: it changes what the device proves itself by.
    """
    if command.startswith(OWNERS_COMMANDS):
        raise Forbidden(f"Only the device's owner sends commands whose names begin with {OWNERS_COMMANDS}")


class PlannedCommand(Record, kw_only=True):
    """A command of which its sender has fixed all but its id; its content was validated as that of `send`."""

    command: str
    params: Mapping[str, Any]
    serial: bool
    expires_ms: int
    requested_by: str
    request: RepeatableRequest
    """Its record keeps a device from being sent it twice."""
    also: Join | None = None
    """Conditions of the sender, in the transaction that queues it."""


class CommandService:
    """Use cases of owners, and of agents on their behalf, with commands."""

    def __init__(
        self,
        devices: DeviceRepository,
        commands: CommandRepository,
        publisher: CommandPublisher,
        wake_ups: WakeUps,
        clock: Clock,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Build the service.

        `pause` waits, in seconds, between two reads of a command.
        """
        self._devices = devices
        self._commands = commands
        self._dispatcher = Dispatcher(commands, publisher, wake_ups, clock)
        self._clock = clock
        self._pause = pause

    def send(
        self,
        user_id: UserId,
        device_ref: str,
        command: str,
        params: Mapping[str, Any] | None = None,
        *,
        ttl_s: int = DEFAULT_TTL_S,
        serial_order: bool = False,
        requested_by: str = "",
        idempotency_key: IdempotencyKey | None = None,
    ) -> Command:
        """Queue a command, and publish it at once if the device listens.

        Args:
            user_id: owner.
            device_ref: device id or serial number.
            command: name, `[A-Za-z][A-Za-z0-9_.:-]{0,63}`.
            params: JSON object of at most 16 KB.
            ttl_s: seconds after which the device must not carry it out any more, 1 to 604,800.
            serial_order: sent alone: after all before it have ended, and all later ones wait for its end.
            requested_by: sender as shown in the record (`user`, `run:<id>`).
            idempotency_key: a repeat to the same device returns the first command, as it is by then.

        Raises:
            NotFound: the device does not exist or has another owner.
            Forbidden: a member of a project sends what only the owner may.
            ValidationFailed: name, params or ttl_s is not as above.
            RateLimited: 100 commands wait for this device already, or it has had too many in this hour.
            IdempotencyKeyReused: the first request asked for another command.
        """
        body = _validated(command, dict(params or {}), ttl_s)
        device = self._device(user_id, device_ref)
        now = self._clock.now()
        request = repeatable(idempotency_key, command, body, ttl_s, serial_order, at=now)
        queued = Command(
            id=CommandId(new_id()),
            device_id=device.id,
            user_id=user_id,
            serial_number=device.serial_number,
            command=command,
            params=body,
            status=CommandStatus.QUEUED,
            serial=serial_order,
            issued_ms=epoch_ms(now),
            expires_ms=epoch_ms(now) + ttl_s * 1000,
            requested_by=requested_by,
        )
        return self._queue(device, queued, request)

    def send_planned(self, user_id: UserId, device_id: DeviceId, planned: PlannedCommand) -> Command:
        """Queue a command as `send` does; a repeat to the same device returns the first one, as it is by then.

        Raises:
            NotFound: the device does not exist or has another owner.
            RateLimited: 100 commands wait for this device already, or it has had too many in this hour.
            AppError: what `also` refuses.
        """
        device = self._device(user_id, device_id)
        queued = Command(
            id=CommandId(new_id()),
            device_id=device.id,
            user_id=user_id,
            serial_number=device.serial_number,
            command=planned.command,
            params=planned.params,
            status=CommandStatus.QUEUED,
            serial=planned.serial,
            issued_ms=epoch_ms(self._clock.now()),
            expires_ms=planned.expires_ms,
            requested_by=planned.requested_by,
        )
        return self._queue(device, queued, planned.request, also=planned.also)

    def _queue(
        self, device: Device, queued: Command, request: RepeatableRequest | None, *, also: Join | None = None
    ) -> Command:
        if queued.requested_by.startswith(MEMBER):
            require_of_members(queued.command)
        try:
            self._require_room(device)
            self._commands.add(queued, device, now=self._clock.now(), request=request, also=also)
        except (AlreadyExists, RateLimited):
            earlier = self._made_before(device, request) if request else None
            if earlier is None:
                raise
            return earlier
        count("CommandQueued")
        self._publish_if_connected(device)
        return self._commands.get(device.id, queued.id, consistent=True) or queued

    def _require_room(self, device: Device) -> None:
        if len(self._commands.pending(device.id, limit=MAX_PENDING_COMMANDS)) >= MAX_PENDING_COMMANDS:
            raise RateLimited(f"{MAX_PENDING_COMMANDS} commands wait for this device already", retry_after_s=60)

    def _publish_if_connected(self, device: Device) -> None:
        # After the put, and consistently: either this sees the connection, or the device's `ready` sees the command.
        current = self._devices.current(device.user_id, device.id, consistent=True)
        if current is None or not is_connected(current.presence, current.latest):
            return
        try:
            self._dispatcher.dispatch(device.id)
        except Upstream as exc:
            # The command is safe in the queue; the device's next `ready` or the next command sends it.
            logger.warning("command.publish_failed", device_id=device.id, cause=type(exc).__name__)
            count("CommandPublishFailed")

    def _made_before(self, device: Device, request: RepeatableRequest) -> Command | None:
        made = self._commands.made_by(device, request)
        if made is None:
            return None
        command = self._commands.get(device.id, made, consistent=True)
        if command is not None and command.status is CommandStatus.QUEUED:
            # The first request may have died between the put and the publish.
            self._publish_if_connected(device)
            command = self._commands.get(device.id, made, consistent=True)
        return self._ended(command) if command is not None else None

    def _ended(self, command: Command) -> Command:
        """Record the end of an overdue command, so that a state once shown is not taken back."""
        now = self._clock.now()
        if not command.is_overdue(now):
            return command
        expire(self._commands, command.device_id, command.id, at=now)
        return self._commands.get(command.device_id, command.id, consistent=True) or command

    def get(self, user_id: UserId, device_id: str, command_id: str) -> Command:
        """Return one command; the end of an overdue one is recorded first.

        Raises:
            NotFound: the command does not exist, or its device is deleted or has another owner.
        """
        if is_id(device_id):
            self._device(user_id, device_id)
        return self._look(user_id, device_id, command_id)

    def _look(self, user_id: UserId, device_id: str, command_id: str) -> Command:
        command = None
        if is_id(device_id) and is_id(command_id):
            command = self._commands.get(DeviceId(device_id), CommandId(command_id), consistent=True)
        now = self._clock.now()
        if command is None or command.user_id != user_id or command.is_forgotten(now):
            raise NotFound(f"Command {command_id} not found")
        return self._ended(command)

    def list(
        self, user_id: UserId, device_ref: str, *, limit: int = 20, after: str = ""
    ) -> tuple[tuple[Command, ...], str | None]:
        """Return a device's commands, newest first, and the `after` of the next page; None: nothing follows.

        A page may hold fewer than `limit`, even none, and be followed.

        Raises:
            NotFound: the device does not exist or has another owner.
        """
        device = self._device(user_id, device_ref)
        now_s = self._clock.now().timestamp()
        found, following = self._commands.page(device.id, limit=limit, after=after, now_s=now_s)
        return tuple(map(self._ended, found)), following

    def wait(self, user_id: UserId, command: Command, *, timeout_s: float) -> Command:
        """Wait until a command has ended; return it as last read. Arguments and errors as of `watch`."""
        *_, last = self.watch(user_id, command, timeout_s=timeout_s)
        return last

    def watch(self, user_id: UserId, command: Command, *, timeout_s: float) -> Iterator[Command]:
        """Read a command again, ever less often, until it has ended; yield it first, and with each other status.

        Args:
            user_id: owner.
            command: what `send` returned.
            timeout_s: seconds; at most 20 are waited.

        Raises:
            NotFound: the command has another owner.
        """
        deadline = monotonic() + min(timeout_s, MAX_WAIT_S)
        pause_s = _FIRST_PAUSE_S
        status: CommandStatus | None = None
        while True:
            seen = self._look(user_id, command.device_id, command.id)
            left_s = deadline - monotonic()
            if seen.status != status:
                yield seen
                status = seen.status
            if seen.finished or left_s <= 0:
                return
            self._pause(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    def cancel(self, user_id: UserId, device_id: str, command_id: str, *, force: bool = False) -> Command:
        """Cancel a command that has not been published; commands that waited for its end may be published.

        Args:
            user_id: owner.
            device_id: the command's device.
            command_id: id of the command.
            force: cancel also one that the device has, or may have: it is not sent again and no command waits for it
            any
                more, though the device, which is not told, may still carry it out. Its answer is then a late one.

        Raises:
            NotFound: the command does not exist, or its device is deleted or has another owner.
            InvalidTransition: the command has been sent and `force` is not set, or it has ended otherwise.
        """
        command = self.get(user_id, device_id, command_id)
        moved = self._commands.move(
            command.device_id,
            command.id,
            CommandStatus.CANCELLED,
            at=self._clock.now(),
            only_from=None if force else CommandStatus.QUEUED,
        )
        if moved and (command.serial or command.status is not CommandStatus.QUEUED):
            self._publish_if_connected(self._device(user_id, device_id))
        seen = self._look(user_id, device_id, command_id)
        if moved or seen.status is CommandStatus.CANCELLED:
            return seen
        way_out = "it is over" if seen.finished else "the device may have it; `force=true` gives it up"
        raise InvalidTransition(f"Command {command_id} is {seen.status}: {way_out}")

    def _device(self, user_id: UserId, ref: str) -> Device:
        device_id: DeviceId | None = DeviceId(ref) if is_id(ref) else None
        if device_id is None and SERIAL.fullmatch(ref):
            claim = self._devices.claim_of(ref)
            device_id = claim.device_id if claim is not None and claim.user_id == user_id else None
        row = self._devices.row(user_id, device_id) if device_id is not None else None
        if row is None or row.state is not DeviceState.ACTIVE:
            raise NotFound(f"Device {ref} not found")
        return row


def _validated(command: str, params: dict[str, Any], ttl_s: int) -> dict[str, Any]:
    ValidationFailed.together(
        lambda: _validate_name(command), lambda: _validate_ttl(ttl_s), lambda: _validate_params(params)
    )
    return params


def _validate_name(command: str) -> None:
    if not COMMAND_NAME.fullmatch(command):
        raise ValidationFailed.of("command", f"must be {COMMAND_FORM}")


def _validate_ttl(ttl_s: int) -> None:
    if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
        raise ValidationFailed.of("ttl_s", f"{MIN_TTL_S} to {MAX_TTL_S} seconds")


def _validate_params(params: Mapping[str, Any]) -> None:
    if freeform.is_deeper(params):
        raise ValidationFailed.of("params", freeform.TOO_DEEP)
    try:
        size = len(orjson.dumps(params))
    except TypeError:
        raise ValidationFailed.of("params", "not a JSON object") from None
    if size > MAX_PARAMS_BYTES:
        raise ValidationFailed.of("params", f"at most {MAX_PARAMS_BYTES} bytes as JSON")

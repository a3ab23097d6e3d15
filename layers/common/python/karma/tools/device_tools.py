"""Karma's own tools: finding, reading and controlling the caller's devices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from karma.core.ids import DeviceId, UserId
from karma.core.records import Record
from karma.core.requests import IdempotencyKey
from karma.tools.domain import COMMAND
from karma.tools.failures import OutcomeUnknown, ToolFailed
from karma.tools.toolbox import Tool, ToolContext, WhenLost, described

if TYPE_CHECKING:
    from karma.core.search_rows import SearchType
    from karma.devices.domain import Command, CurrentDevice
    from karma.identity.domain import Caller
    from karma.search.domain import SearchRow
    from karma.search.service import SearchAnswer, SearchRequest

COMMAND_WAIT_S = 15.0
COMMAND_TTL_S = 60
_THREADS = 16
_TOLD_BY_DEVICE = frozenset({"failed", "rejected"})
"""States of a command in which its device has said what became of it."""
_T = TypeVar("_T")


class Devices(Protocol):
    """The part of karma.devices.reading.DeviceReader that tools use; calls block."""

    def each_of(self, devices: Sequence[tuple[UserId, DeviceId]]) -> Sequence[CurrentDevice]:
        """Read those of several owners' devices that there are."""
        ...

    def find_by_ref(self, user_id: UserId, ref: str) -> CurrentDevice:
        """Find a device by id or serial number."""
        ...


class Commands(Protocol):
    """The part of karma.devices.commands.CommandService that tools use; calls block."""

    def send(
        self,
        user_id: UserId,
        device_ref: str,
        command: str,
        params: Mapping[str, Any],
        *,
        ttl_s: int,
        requested_by: str,
        idempotency_key: IdempotencyKey,
    ) -> Command:
        """Queue a command and publish it."""
        ...

    def get(self, user_id: UserId, device_id: str, command_id: str) -> Command:
        """Return a command in its current state."""
        ...

    def watch(self, user_id: UserId, command: Command, *, timeout_s: float) -> Iterator[Command]:
        """Yield the command as it is, and with each other status, until it has ended or `timeout_s` is over."""
        ...


class Reach(Protocol):
    """The part of karma.devices.sharing.ReachableDevices that tools use; calls block."""

    def to_read(self, viewer: UserId, device_ref: str, use: Callable[[UserId], _T]) -> _T:
        """Return what `use` makes of a device of this owner: the viewer, or whoever shares it with them."""
        ...

    def to_control(self, viewer: UserId, device_ref: str, use: Callable[[UserId], _T]) -> _T:
        """Return what `to_read` does, for whoever may send the device commands."""
        ...


class Finder(Protocol):
    """The part of karma.search.service.SearchService that tools use; calls block."""

    @property
    def types(self) -> Mapping[str, SearchType]:
        """Types of objects that are found, by their names."""
        ...

    def search(self, owner: UserId, asked: SearchRequest) -> SearchAnswer:
        """Find objects by words."""
        ...


class DeviceServices(NamedTuple):
    """The services behind the tools."""

    finder: Finder
    devices: Devices
    commands: Commands
    reach: Reach


class SearchDatabase(Record):
    """Arguments of searchDatabase."""

    query: str = described("Words to look for; status and model words filter, as in 'online devices'", maxLength=200)
    type: str = described(
        "What to search: device, project, file, task, run, thread or avatar", default="device", maxLength=20
    )
    limit: int = described("At most this many results", default=10, minimum=1, maximum=50)


class ControlDevice(Record):
    """Arguments of controlDevice."""

    device_id: str = described("Id or serial number of the device", maxLength=64)
    command: str = described("Name of the command, as in 'move'", maxLength=64)
    params: dict[str, object] | None = described("The command's parameters", default=None)


class ReadTelemetry(Record):
    """Arguments of readTelemetry."""

    device_id: str = described("Id or serial number of the device", maxLength=64)


class DeviceTools:
    """The tools over the services of karma.devices, which are imported and built at the first call."""

    def __init__(self, services: Callable[[], DeviceServices], *, command_wait_s: float = COMMAND_WAIT_S) -> None:
        self._services = services
        self._command_wait_s = command_wait_s
        # Their own threads: a wait for a device must never keep a run's log from being written.
        self._threads: ThreadPoolExecutor | None = None

    def tools(self) -> list[Tool]:
        """Return the tools."""
        return [
            Tool(
                name="searchDatabase",
                description="Find what the user has, or is shown by a project, by words in any order: devices by name, "
                "serial number, tag, model or status, with their status, location and latest readings; also projects, "
                "files, tasks, runs, threads and avatars.",
                parameters=SearchDatabase,
                permission="device:read",
                when_lost=WhenLost.CALL_AGAIN,
                timeout_s=15,
                run=self.search_database,
            ),
            Tool(
                name="controlDevice",
                description="Send a command to one device and wait for its answer. Search for the device first unless "
                "its id or serial number is known.",
                parameters=ControlDevice,
                permission="device:control",
                when_lost=WhenLost.CALL_AGAIN,  # a command knows its run and call: it is sent once
                timeout_s=self._command_wait_s + 10,
                run=self.control_device,
                look_again=self.command_by_now,
            ),
            Tool(
                name="readTelemetry",
                description="Read a device's status and the newest value of each of its metrics, with their times.",
                parameters=ReadTelemetry,
                permission="device:read",
                when_lost=WhenLost.CALL_AGAIN,
                timeout_s=15,
                run=self.read_telemetry,
            ),
        ]

    async def search_database(self, asked: SearchDatabase, context: ToolContext) -> object:
        """Search what the caller has, and devices that projects show them, of one type.

        Raises:
            ToolFailed: there is no such type, or the caller may not read its objects.
        """
        return {"results": await self._in_thread(lambda: self._found(asked, context.caller))}

    async def control_device(self, asked: ControlDevice, context: ToolContext) -> object:
        """Send a command and wait for the device's answer.

        Raises:
            NotFound: the caller has no such device, and no project shows it to them.
            Forbidden: a project shows it to them, and their role there may not control it.
            ToolFailed: the device refused or failed.
            OutcomeUnknown: it did not answer in time, or not before the command was cancelled.
        """
        user_id = context.caller.user_id

        def send_to(owner: UserId) -> Command:
            return self._services().commands.send(
                owner,
                asked.device_id,
                asked.command,
                asked.params or {},
                ttl_s=COMMAND_TTL_S,
                requested_by="agent" if owner == user_id else f"member:{user_id}",
                # The same call never moves the device twice, whoever repeats it; a call of another run does.
                idempotency_key=IdempotencyKey(
                    caller=user_id, route="controlDevice", value=f"agent:{context.run_id} {context.call_id}"
                ),
            )

        def send() -> Command:
            sent = self._services().reach.to_control(user_id, asked.device_id, send_to)
            # From here on it may take effect, whatever becomes of this call.
            context.known.update(device_id=sent.device_id, command_id=sent.id, status=sent.status)
            return sent

        command = await self._in_thread(send)
        states = self._services().commands.watch(command.user_id, command, timeout_s=self._command_wait_s)

        def following() -> Command | None:
            seen = next(states, None)
            if seen is not None:
                context.known["status"] = seen.status
            return seen

        while (seen := await self._in_thread(following)) is not None:
            command = seen
            context.show(COMMAND, _shown_command(seen))
        if command.status == "succeeded":
            result = {"success": True, "device_id": asked.device_id, "command": asked.command}
            return {**result, "result": command.result if command.result is not None else {}}
        # Whatever else ended a command that was sent, the device may have carried it out.
        failed = ToolFailed if command.status in _TOLD_BY_DEVICE else OutcomeUnknown
        if command.error is not None:
            raise failed(f"Device {asked.device_id} answered {command.status}: {command.error.get('message', '')}")
        if command.finished:
            raise failed(f"Command {asked.command} on device {asked.device_id}: {command.status}")
        raise OutcomeUnknown(
            f"Device {asked.device_id} has not answered within {self._command_wait_s:g} s; the command is "
            f"{command.status} and may still be carried out"
        )

    async def command_by_now(self, known: Mapping[str, object], caller: Caller) -> object:
        """Return the state of a command that was under way when its call ended; None: unchanged or unknown."""
        device_id, command_id, status = (known.get(name) for name in ("device_id", "command_id", "status"))
        if not isinstance(device_id, str) or not isinstance(command_id, str):
            return None

        def look(owner: UserId) -> Command:
            return self._services().commands.get(owner, device_id, command_id)

        seen = await self._in_thread(lambda: self._services().reach.to_read(caller.user_id, device_id, look))
        if seen.status == status:
            return None
        more = {"result": seen.result} if seen.result is not None else {"error": seen.error} if seen.error else {}
        return {"status": seen.status, **more}

    async def read_telemetry(self, asked: ReadTelemetry, context: ToolContext) -> object:
        """Read a device and its latest telemetry.

        Raises:
            NotFound: the caller has no such device, and no project shows it to them.
        """

        def find(owner: UserId) -> CurrentDevice:
            return self._services().devices.find_by_ref(owner, asked.device_id)

        user_id = context.caller.user_id
        return _shown(await self._in_thread(lambda: self._services().reach.to_read(user_id, asked.device_id, find)))

    def _found(self, asked: SearchDatabase, caller: Caller) -> list[Mapping[str, object]]:
        from karma.search.service import SearchRequest  # local: most runs look for nothing

        services, user_id = self._services(), caller.user_id
        kind = services.finder.types.get(asked.type)
        if kind is None:
            raise ToolFailed(f"Unknown type: {asked.type}")
        if not caller.may(kind.permission):
            raise ToolFailed(f"Searching type {asked.type} needs {kind.permission}")
        request = SearchRequest(query=asked.query, types=[kind.name], limit=asked.limit)
        hits = services.finder.search(user_id, request).found.hits
        if asked.type != "device":
            return [_shown_row(hit.row) for hit in hits]
        # As they are now: a device's status and readings change more often than its row.
        found = [(hit.row.key.owner, DeviceId(hit.row.key.id)) for hit in hits]
        return [_shown(each) for each in services.devices.each_of(found)]

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tool")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _shown_row(row: SearchRow) -> Mapping[str, object]:
    shown: dict[str, object] = {"type": row.key.type, "id": row.key.id, "name": row.text.name}
    more = {"tags": list(row.text.tags), "status": row.text.status, "text": row.text.text}
    return shown | {name: value for name, value in more.items() if value}


def _shown_command(command: Command) -> dict[str, object]:
    return {
        "deviceId": command.device_id,
        "commandId": command.id,
        "command": command.command,
        "status": command.status,
    }


def _shown(current: CurrentDevice) -> dict[str, object]:
    from karma.devices.answers import device_view

    device: Mapping[str, object] = device_view(current)
    names = ("id", "name", "model", "serial_number", "status", "location", "tags", "last_heartbeat", "latest")
    return {name: device[name] for name in names}

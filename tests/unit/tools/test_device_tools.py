"""The device tools over fakes of the device services."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import orjson
import pytest

from karma.conversations.domain import Message, ToolCall
from karma.core.errors import Forbidden, NotFound
from karma.core.ids import CommandId, DeviceId, RunId, UserId
from karma.core.requests import IdempotencyKey
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.core.searchables import declared_types
from karma.devices.domain import (
    Command,
    CommandStatus,
    CurrentDevice,
    Device,
    DeviceModel,
    DeviceState,
    Latest,
    PresenceState,
)
from karma.identity.domain import Role
from karma.search.cache import IndexCache
from karma.search.ports import StampedChange
from karma.search.service import SearchService
from karma.tools.device_tools import DeviceServices, DeviceTools
from karma.tools.toolbox import Toolbox, ToolOutcome, schema_of
from tests.fakes.runs import SetClock, caller
from tests.fakes.search import MemorySearchRows
from tests.fakes.segments import no_segments
from tests.support.rows import NOW

T = TypeVar("T")

ARM = CurrentDevice(
    device=Device(
        id=DeviceId("d1"),
        user_id=caller().user_id,
        name="Arm",
        model=DeviceModel.EOS_3A,
        mac="00:00:00:00:00:01",
        serial_number="EOS-1",
        state=DeviceState.ACTIVE,
        ip=None,
        firmware_version=None,
        capabilities={"secret_hint": 1},
        hardware={},
        network={"password": "x"},
        location=None,
        tags=(),
        version=1,
        created_at="2026-11-21T12:00:00.000Z",
        updated_at="2026-11-21T12:00:00.000Z",
    ),
    latest=Latest(),
    presence=PresenceState(),
)


class FakeDevices:
    def each_of(self, devices: Sequence[tuple[UserId, DeviceId]]) -> list[CurrentDevice]:
        return [ARM] if (caller().user_id, "d1") in devices else []

    def find_by_ref(self, user_id: UserId, ref: str) -> CurrentDevice:
        if ref not in {"d1", "EOS-1"}:
            raise NotFound(f"Device {ref} not found")
        return ARM


OWNER = UserId("01890000-0000-7000-8000-0000000000aa")


class Shares:
    """Devices of another's, of which the caller may read or control some."""

    def __init__(self, *, reads: Sequence[str] = (), controls: Sequence[str] = ()) -> None:
        self.reads, self.controls = [*reads, *controls], controls

    def to_read(self, viewer: UserId, device_ref: str, use: Callable[[UserId], T]) -> T:
        return use(OWNER if device_ref in self.reads else viewer)

    def to_control(self, viewer: UserId, device_ref: str, use: Callable[[UserId], T]) -> T:
        if device_ref in self.reads and device_ref not in self.controls:
            raise Forbidden.lacking("control_devices", where=" in this project")
        return use(OWNER if device_ref in self.controls else viewer)


def finder() -> SearchService:
    owner, rows = caller().user_id, MemorySearchRows()
    found = {
        ("device", "d1"): SearchText(name="Arm", code="EOS-1", status="offline"),
        ("device", "d2"): SearchText(name="Arm that has just gone"),
        ("project", "p1"): SearchText(name="Robot arm", text="Six axes", status="active"),
    }
    changes = [StampedChange(RowChange(SearchKey(owner, *key, 1), text), "1") for key, text in found.items()]
    rows.write(owner, changes, at=NOW)
    return SearchService(IndexCache(rows, SetClock(NOW), no_segments()), declared_types())


class FakeCommands:
    def __init__(self, **answer: Any) -> None:
        self.answer = {"status": CommandStatus.SUCCEEDED, "result": {"at": 7}, **answer}
        self.sent: list[dict[str, Any]] = []
        self.passes: Sequence[CommandStatus] = ()
        """States that the command is seen in before its end."""

    def send(self, user_id: UserId, device_ref: str, command: str, params: Mapping[str, Any], **more: Any) -> Command:
        device = FakeDevices().find_by_ref(user_id, device_ref).device
        self.sent.append({"owner": user_id, "command": command, "params": params, **more})
        return Command(
            id=CommandId("c"),
            device_id=device.id,
            user_id=user_id,
            serial_number=device.serial_number,
            command=command,
            params=params,
            status=CommandStatus.QUEUED,
            serial=False,
            issued_ms=0,
            expires_ms=60_000,
        )

    def get(self, user_id: UserId, device_id: str, command_id: str) -> Command:
        made = self.send(user_id, device_id, "move", {})
        if command_id != made.id:
            raise NotFound(f"Command {command_id} not found")
        return replace(made, **self.answer)

    def watch(self, user_id: UserId, command: Command, *, timeout_s: float) -> Iterator[Command]:
        for status in self.passes:
            yield replace(command, status=status)
        yield replace(command, **self.answer)


def call(
    name: str,
    commands: FakeCommands | None = None,
    *,
    role: Role = Role.USER,
    run: str = "run-1",
    shares: Shares | None = None,
    **arguments: Any,
) -> ToolOutcome:
    services = DeviceServices(finder(), FakeDevices(), commands or FakeCommands(), shares or Shares())
    toolbox = Toolbox(DeviceTools(lambda: services).tools(), caller(role), shorten=str)
    asked = ToolCall("call-1", name, orjson.dumps(arguments).decode())
    return asyncio.run(toolbox.call(asked, run_id=RunId(run)))


@pytest.mark.req("R-K-41")
def test_search_gives_what_a_user_may_see_of_devices() -> None:
    (found,) = orjson.loads(call("searchDatabase", query="arm").content)["results"]

    assert (found["id"], found["name"], found["serial_number"]) == ("d1", "Arm", "EOS-1")
    assert "network" not in found


@pytest.mark.req("R-K-41")
def test_objects_of_other_types_are_found_too() -> None:
    [found] = orjson.loads(call("searchDatabase", query="arm robot", type="project").content)["results"]
    assert found == {
        "type": "project",
        "id": "p1",
        "name": "Robot arm",
        "status": "active",
        "text": "Six axes",
    }


def test_who_may_not_read_objects_of_a_type_does_not_find_them() -> None:
    key = replace(caller(), method="api_key", scopes=frozenset({"device:read"}))
    toolbox = Toolbox(
        DeviceTools(lambda: DeviceServices(finder(), FakeDevices(), FakeCommands(), Shares())).tools(), key, shorten=str
    )
    asked = ToolCall("call-1", "searchDatabase", '{"query":"arm","type":"project"}')
    outcome = asyncio.run(toolbox.call(asked, run_id=RunId("run-1")))
    assert outcome == ToolOutcome('{"error":"Searching type project needs project:read"}', True)


@pytest.mark.req("R-K-41")
def test_an_unknown_type_fails_in_the_specs_words() -> None:
    assert call("searchDatabase", query="arm", type="planet") == ToolOutcome('{"error":"Unknown type: planet"}', True)


@pytest.mark.req("R-K-42")
def test_a_command_s_answer_comes_back() -> None:
    commands = FakeCommands()

    outcome = call("controlDevice", commands, device_id="EOS-1", command="move", params={"x": 1})

    assert orjson.loads(outcome.content) == {
        "success": True,
        "device_id": "EOS-1",
        "command": "move",
        "result": {"at": 7},
    }
    assert commands.sent == [
        {
            "owner": caller().user_id,
            "command": "move",
            "params": {"x": 1},
            "ttl_s": 60,
            "requested_by": "agent",
            "idempotency_key": IdempotencyKey(
                caller=caller().user_id, route="controlDevice", value="agent:run-1 call-1"
            ),
        }
    ]


@pytest.mark.fault("F-07a")
def test_a_call_of_another_run_is_another_command_though_it_has_the_same_id() -> None:
    commands = FakeCommands()

    for run in ("run-1", "run-2", "run-2"):
        call("controlDevice", commands, run=run, device_id="EOS-1", command="move")

    one, other, again = (sent["idempotency_key"] for sent in commands.sent)
    assert one != other == again


@pytest.mark.req("R-K-43")
def test_an_unknown_device_is_not_found() -> None:
    outcome = call("controlDevice", device_id="d9", command="move")

    assert outcome == ToolOutcome('{"error":"Device d9 not found"}', True)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            {"status": CommandStatus.REJECTED, "error": {"code": "X", "message": "door open"}},
            "Device d1 answered rejected: door open",
        ),
        ({"status": CommandStatus.EXPIRED}, "Command move on device d1: expired"),
        (
            {"status": CommandStatus.SENT},
            "Device d1 has not answered within 15 s; the command is sent and may still be carried out",
        ),
    ],
)
def test_what_the_device_did_not_do_is_a_failure(answer: dict[str, Any], error: str) -> None:
    outcome = call("controlDevice", FakeCommands(**answer), device_id="d1", command="move")

    assert outcome.failed
    assert orjson.loads(outcome.content) == {
        "error": error,
        "device_id": "d1",
        "command_id": "c",
        "status": answer["status"],
    }


@pytest.mark.req("R-K-42")
def test_who_watches_is_shown_each_state_of_a_command_while_its_call_waits() -> None:
    commands = FakeCommands()
    commands.passes = [CommandStatus.QUEUED, CommandStatus.SENT, CommandStatus.ACKNOWLEDGED]
    toolbox = Toolbox(
        DeviceTools(lambda: DeviceServices(finder(), FakeDevices(), commands, Shares())).tools(), caller(), shorten=str
    )
    shown: list[tuple[str, str, object]] = []
    toolbox.show_by(lambda call_id, kind, content: shown.append((call_id, kind, content)))
    asked = ToolCall("call-1", "controlDevice", '{"device_id":"EOS-1","command":"move"}')

    asyncio.run(toolbox.call(asked, run_id=RunId("run-1")))

    command = {"deviceId": "d1", "commandId": "c", "command": "move"}
    states = ["queued", "sent", "acknowledged", "succeeded"]
    assert shown == [("call-1", "karma.command", {**command, "status": each}) for each in states]


@pytest.mark.fault("F-06f")
def test_a_call_that_was_cut_off_leaves_its_command_and_the_model_is_told_what_became_of_it() -> None:
    waits, go_on = threading.Event(), threading.Event()

    class Slow(FakeCommands):
        def watch(self, user_id: UserId, command: Command, *, timeout_s: float) -> Iterator[Command]:
            waits.set()
            go_on.wait(5)
            yield command

    commands = Slow(status=CommandStatus.ACKNOWLEDGED)
    tools = DeviceTools(lambda: DeviceServices(finder(), FakeDevices(), commands, Shares())).tools()
    toolbox = Toolbox(tools, caller(), shorten=str)
    asked = ToolCall("call-1", "controlDevice", '{"device_id":"EOS-1","command":"move"}')

    async def go() -> list[list[Any]]:
        known: dict[str, object] = {}
        calling = asyncio.ensure_future(toolbox.call(asked, run_id=RunId("run-1"), known=known))
        await asyncio.to_thread(waits.wait, 5)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        go_on.set()
        assert {**known, "status": ""} == {"device_id": "d1", "command_id": "c", "status": ""}
        turn = Message(id="a", role="assistant", tool_calls=(asked,))
        kept = [
            orjson.dumps({"error": "cut off", **known, "status": "queued", **more}).decode()
            for more in ({}, {"command_id": "x"}, {"command_id": 7})
        ] + ["[]", "no JSON"]
        told = []
        for status in (CommandStatus.QUEUED, CommandStatus.SUCCEEDED):
            commands.answer["status"] = status
            results = [
                Message(id=str(i), role="tool", tool_call_id="call-1", content=each, failed=True)
                for i, each in enumerate(kept)
            ]
            told.append([m.content for m in await toolbox.refreshed([turn, *results[-1:], *results[:-1]])][1:])
        assert told[0] == [kept[-1], *kept[:-1]]
        return told

    told = asyncio.run(go())[1]

    assert orjson.loads(told[1])["by_now"] == {"status": "succeeded", "result": {"at": 7}}
    assert all("by_now" not in each for i, each in enumerate(told) if i != 1)


def test_readings_are_read() -> None:
    assert orjson.loads(call("readTelemetry", device_id="d1").content)["latest"] == {}


def test_a_viewer_may_search_but_not_control() -> None:
    assert not call("searchDatabase", role=Role.VIEWER, query="arm").failed
    assert call("controlDevice", role=Role.VIEWER, device_id="d1", command="move").failed


def test_models_are_told_each_parameter() -> None:
    tools = {tool.name: schema_of(tool.parameters) for tool in DeviceTools(lambda: pytest.fail("not called")).tools()}

    assert tools["controlDevice"] == {
        "type": "object",
        "properties": {
            "device_id": {
                "type": "string",
                "description": "Id or serial number of the device",
                "maxLength": 64,
            },
            "command": {"type": "string", "description": "Name of the command, as in 'move'", "maxLength": 64},
            "params": {"type": "object", "description": "The command's parameters"},
        },
        "required": ["device_id", "command"],
        "additionalProperties": False,
    }
    assert tools["searchDatabase"]["required"] == ["query"]


@pytest.mark.fault("F-44c")
def test_a_device_of_another_s_is_controlled_and_read_by_whom_a_project_lets() -> None:
    commands = FakeCommands()
    done = call("controlDevice", commands, shares=Shares(controls=["d1"]), device_id="d1", command="move")
    assert orjson.loads(done.content)["success"] is True
    [sent] = commands.sent[:1]
    assert (sent["owner"], sent["requested_by"]) == (OWNER, f"member:{caller().user_id}")
    commands = FakeCommands()
    refused = call("controlDevice", commands, shares=Shares(reads=["d1"]), device_id="d1", command="move")
    assert ("Insufficient permissions in this project" in refused.content, commands.sent) == (True, [])
    assert orjson.loads(call("readTelemetry", shares=Shares(reads=["d1"]), device_id="d1").content)["id"] == "d1"

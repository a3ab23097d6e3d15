"""Agents of members find, read and control the devices that projects show, as their role lets them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_names
from karma.core.happenings import ItemChange
from karma.core.ids import DeviceId, UserId, new_id
from karma.core.searchables import declared
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.devices import DeviceRepository
from karma.projects.domain import ProjectRole
from karma.search.feed import Feed
from karma.search.repository import SearchRepository
from karma.tools.device_tools import DeviceTools
from tests.fakes.runs import events_of
from tests.integration.agent_stream.conftest import Background, Streams
from tests.integration.agent_stream.test_app import hello
from tests.support.accounts import open_account
from tests.support.devices import provisioning_device
from tests.support.model_server import message, text, tool_use
from tests.support.plans import reserved
from tests.support.projects import show

HOST = UserId("01890000-0000-7000-8000-00000000000b")


def a_shown_device(streams: Streams, role: ProjectRole) -> DeviceId:
    """Store a device of another's that a project shows to whoever runs agents; its row of search is there, too."""
    bind_names(streams.stack.tables)
    open_account(HOST)
    device, now = (
        provisioning_device(HOST, name="Cellar pump", serial_number=f"CELLAR-{new_id()[-4:]}"),
        datetime.now(UTC),
    )
    DeviceRepository().claim(device, reservation=reserved(HOST), attempt="a", now=now)
    DeviceRepository().activate(device, attempt="a", certificate_id="c", now=now)
    show(device.id, of=HOST, to=streams.user_id, role=role)
    engine = streams.stack.aws("dynamodb")
    items = [
        item
        for name in ("devices", "work")
        for item in engine.scan(TableName=streams.stack.tables[name], ConsistentRead=True)["Items"]
    ]
    Feed(SearchRepository(), declared(), SystemClock()).fill(ItemChange(None, item) for item in items)
    return device.id


def calls(streams: Streams, *made: tuple[str, dict[str, Any]]) -> None:
    """Let the model call tools one after the other."""
    for n, (tool, arguments) in enumerate(made):
        asked = tool_use(f"c{n}", tool, json.dumps(arguments))
        streams.model.answer(message(asked, stop_reason="tool_use"))
    streams.model.answer(message(text("Done.")))


def results(events: list[dict[str, Any]]) -> list[Any]:
    return [json.loads(event["content"]) for event in events if event["type"] == "TOOL_CALL_RESULT"]


@pytest.mark.fault("F-44a", "F-44c")
@pytest.mark.parametrize("role", [ProjectRole.MEMBER, ProjectRole.VIEWER])
def test_an_agent_does_what_its_member_may(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, role: ProjectRole
) -> None:
    monkeypatch.setattr("karma.tools.server_tools.DeviceTools", partial(DeviceTools, command_wait_s=0.1))
    device_id = a_shown_device(streams, role)
    named = {"device_id": device_id}
    calls(
        streams,
        ("searchDatabase", {"query": "cellar"}),
        ("readTelemetry", named),
        ("controlDevice", {**named, "command": "move"}),
    )
    found, read, sent = results(events_of(streams.run(streams.agent(hello())).data))
    assert [each["id"] for each in found["results"]] == [device_id]
    assert read["id"] == device_id
    queued, _ = CommandRepository().page(device_id, limit=9)
    if role is ProjectRole.VIEWER:
        assert (sent["error"], queued) == ("Insufficient permissions in this project", [])
    else:
        assert "the command is queued" in sent["error"], "the device does not listen"
        assert [(each.user_id, each.requested_by) for each in queued] == [(HOST, f"member:{streams.user_id}")]


@pytest.mark.fault("F-44a", "F-44c")
def test_a_run_in_the_background_does_so_too(background: Background) -> None:
    streams = background.streams
    device_id = a_shown_device(streams, ProjectRole.VIEWER)
    calls(streams, ("searchDatabase", {"query": "cellar"}), ("readTelemetry", {"device_id": device_id}))
    status, data, _ = background.call("POST", "/api/v1/runs", {"message": "Look at the cellar's pump"})
    assert status == 202
    background.execute()
    found, read = results(background.events(data["run"]["id"]))
    assert [each["id"] for each in found["results"]] == [device_id] == [read["id"]]

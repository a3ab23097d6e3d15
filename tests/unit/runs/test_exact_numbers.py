"""Whole numbers beyond 64 bits: what a person approves, a client sends or a tool finds is never another number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpcore2  # noqa: F401  a process loads it in a thread, before it first asks a server
import orjson
import pytest

from karma.core.errors import ValidationFailed
from karma.core.freeform import TOO_LARGE
from karma.integrations.mcp_messages import to_model
from karma.integrations.mcp_streams import StreamPlace, read
from karma.models.ports import StopReason
from karma.runs.decisions import with_edit
from karma.runs.requests import parse_json, parse_run_input
from karma.tools.toolbox import ToolOutcome
from tests.fakes.runs import ended, tool
from tests.support.run_world import FIND_TOOL, World, asked, user
from tests.unit.runs.test_interrupts import DONE, Approving

pytestmark = [pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.fault("F-29k")]

BEYOND = 20000000000000000001


def calling(name: str, arguments: str) -> list[Any]:
    return [*tool("c1", name, arguments), *ended(StopReason.TOOL_USE)]


def test_a_call_fails_before_anybody_is_asked_and_the_model_is_told_why() -> None:
    world = Approving(calling("echo", f'{{"word": "a", "more": [{BEYOND}]}}'), DONE)
    events = world.run(world.ask(user("go", "u1"), run="r1"))
    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert events[-1]["outcome"]["type"] == "success"
    assert orjson.loads(result["content"]) == {"error": f"more.0: {TOO_LARGE}"}
    (own,) = [call for each in world.model.requests[-1].messages for call in each.tool_calls]
    assert str(BEYOND) in own.arguments


def test_arguments_that_somebody_edits_are_refused_by_name() -> None:
    world = Approving(calling("echo", '{"word": "a"}'), DONE)
    world.run(world.ask(user("go", "u1"), run="r1"))
    body = (
        '{"threadId": "t1", "runId": "r2", "messages": [], "resume": [{"interruptId": "r1/1", "status": "resolved", '
        f'"payload": {{"approved": true, "editedArgs": {{"word": {BEYOND}}}}}}}]}}'
    )
    with pytest.raises(ValidationFailed) as caught:
        parse_run_input(body.encode())
    assert caught.value.details == [
        {"field": "resume.0.payload.editedArgs.word", "message": TOO_LARGE, "type": "value_error"}
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"state": {"a": [1, %d]}}', "state.a.1"),
        ('{"forwardedProps": {"b": -%d}}', "forwardedProps.b"),
        ('{"tools": [{"name": "t", "parameters": {"maximum": %d}}]}', "tools.0.parameters.maximum"),
        (
            '{"messages": [{"id": "u1", "role": "user", "content": [{"type": "text", "text": %d}]}]}',
            "messages.0.content",
        ),
    ],
)
def test_a_member_of_a_request_is_named(body: str, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_run_input((body % BEYOND).encode())
    told = {str(entry["field"]): entry["message"] for entry in caught.value.details}  # type: ignore[union-attr, index]
    assert [name for name, message in told.items() if message == TOO_LARGE and name.startswith(field)]
    with pytest.raises(ValidationFailed):
        parse_json((body % BEYOND).encode())


def test_an_earlier_message_does_not_refuse_the_conversation_that_its_client_cannot_take_back() -> None:
    shown = f'{{"id": "a1", "role": "activity", "activityType": "x", "content": {{"n": {BEYOND}}}}}'
    body = f'{{"messages": [{shown}, {{"id": "u1", "role": "user", "content": "hi"}}]}}'
    assert [message.content for message in parse_run_input(body.encode()).messages] == ["hi"]


def test_a_call_of_the_client_s_own_tool_keeps_its_digits() -> None:
    world = World(calling("askUser", f'{{"name": {BEYOND}}}'))
    events = world.run(asked(user("go", "u1"), tools=[FIND_TOOL]))
    assert events[-1]["outcome"]["pendingToolCallIds"] == ["c1"]
    assert str(BEYOND) in "".join(event["delta"] for event in events if event["type"] == "TOOL_CALL_ARGS")


def test_a_result_beside_edited_arguments_keeps_its_digits() -> None:
    told = with_edit(ToolOutcome(str(BEYOND)), '{"word":"b"}').content
    assert told == f'{{"arguments_changed_by_user":{{"word":"b"}},"result":{BEYOND}}}'


def test_what_a_server_of_mcp_found_keeps_its_digits_and_its_tools_schemas_stay_schemas() -> None:
    async def read_all(body: str) -> dict[str, Any] | None:
        async def chunks() -> AsyncIterator[bytes]:
            yield body.encode()

        return await read(chunks(), {"content-type": "application/json"}, 1, StreamPlace(is_resumable=False))

    found = f'{{"content": [], "structuredContent": {{"wei": {BEYOND}, "n": 1}}}}'
    message = asyncio.run(read_all(f'{{"jsonrpc": "2.0", "id": 1, "result": {found}}}'))
    assert message is not None
    assert to_model(message["result"]) == {"wei": str(BEYOND), "n": 1}
    listed = f'{{"tools": [{{"name": "t", "inputSchema": {{"maximum": {BEYOND}}}}}]}}'
    message = asyncio.run(read_all(f'{{"jsonrpc": "2.0", "id": 1, "result": {listed}}}'))
    assert message is not None
    assert message["result"]["tools"][0]["inputSchema"] == {"maximum": float(BEYOND)}

"""Calls of MCP servers' tools that are stopped: a model may make them again where the server says so alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from karma.conversations.branches import add_later, merge
from karma.conversations.domain import Message, Thread, ToolCall
from karma.conversations.history import STOPPED, STOPPED_READING, STOPPED_REPEATABLE
from karma.conversations.messages import Sent
from karma.mcp.domain import MODERN, McpServerId, RemoteTool
from karma.mcp.listing import read_tools
from karma.mcp.offering import Offer, OfferedTool
from karma.runs.calls import OpenCalls
from karma.runs.domain import LEASE
from karma.runs.gate import SortedCalls
from karma.runs.setup import dump_setup, load_setup
from karma.tools.device_tools import DeviceTools
from karma.tools.state_tools import update_state_tool
from karma.tools.toolbox import Toolbox
from tests.fakes.runs import KeptFrames, SetClock, caller
from tests.support.lost_runs import KEY, THREAD, Killed, Life, World, begin, cancel
from tests.support.run_services import no_mcp_tools

HINTS = [
    ({"readOnlyHint": True}, True),
    ({"readOnlyHint": True, "idempotentHint": False}, True),
    ({"readOnlyHint": False, "idempotentHint": True, "destructiveHint": True}, True),
    ({"destructiveHint": False, "openWorldHint": False}, False),
    ({"readOnlyHint": "true"}, False),
    (None, False),
]


def offered(hints: object) -> OfferedTool:
    described = {"name": "search", "inputSchema": {"type": "object"}, "annotations": hints}
    (tool,), _ = read_tools("docs", [described])
    return offered_tool(tool)


def offered_tool(tool: RemoteTool) -> OfferedTool:
    return OfferedTool(server_id=McpServerId("s1"), server_name="docs", version=MODERN, timeout_s=5, tool=tool)


@pytest.mark.parametrize(("hints", "may_repeat"), HINTS)
def test_a_call_that_is_stopped_with_its_run_says_what_its_server_says(hints: object, may_repeat: bool) -> None:
    mine = offered(hints)
    devices = DeviceTools(lambda: pytest.fail("not called")).tools()
    remote = no_mcp_tools(SetClock()).tools([mine], thread_id="t1")
    toolbox = Toolbox([*devices, update_state_tool(), *remote], caller(), lambda text: text)
    assert toolbox.repeatable == ({mine.name} if may_repeat else set())

    async def stopped() -> str:
        calls = OpenCalls(toolbox.repeatable)
        calls.expect(SortedCalls([ToolCall("c1", mine.name, "{}")], [], []), said_at=1)
        found = calls.missing_results(THREAD, 1, n=2)
        assert found is not None
        return str(found.messages[0].content)

    assert asyncio.run(stopped()) == (STOPPED_REPEATABLE if may_repeat else STOPPED)


@pytest.mark.parametrize(("hints", "may_repeat"), HINTS)
def test_a_call_of_a_lost_run_that_is_cancelled_says_it_too(hints: object, may_repeat: bool) -> None:
    mine, world = offered(hints), World()
    tools = world.tools

    def dying(life: Life) -> list[object]:
        async def run(*_: object) -> object:
            life.is_dead = True
            raise Killed

        return [replace(tool, run=run) for tool in tools(life)]

    world.tools = dying  # type: ignore[assignment,method-assign]
    begin(world, Life(None), KeptFrames())
    setup = load_setup(world.store.setups[KEY])
    world.store.setups[KEY] = dump_setup(replace(setup, mcp_tools=(mine,)))
    thread = world.store.threads[THREAD]
    said = thread.messages[-1]
    assert [call.name for call in said.tool_calls] == ["again", "ask"]
    named = replace(said, tool_calls=tuple(call._replace(name=mine.name) for call in said.tool_calls))
    world.store.threads[THREAD] = replace(thread, messages=(*thread.messages[:-1], named))
    world.clock.pass_by(2 * LEASE)

    cancel(world)

    results = [str(each.content) for each in world.store.thread(THREAD).messages if each.role == "tool"]
    assert results == [STOPPED_REPEATABLE if may_repeat else STOPPED] * 2


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(("hints", "may_repeat"), HINTS)
def test_a_request_that_completes_the_turn_of_a_lost_run_says_it_too(
    hints: object, may_repeat: bool, waits: bool
) -> None:
    offer = Offer(tools=(offered(hints),))
    (name,) = offer.names
    asked, again = (Message(id=f"u{n}", role="user", content="go") for n in (1, 2))
    reads = ToolCall("c2", "readTelemetry", "{}")
    called = Message(id="a1", role="assistant", content="", tool_calls=(ToolCall("c1", name, "{}"), reads))
    thread = Thread(key=THREAD, messages=(asked, called), next_message=2)

    if waits:
        new = add_later(thread, [again], own={name, reads.name}, waiting={}, repeatable=offer.repeatable)
    else:
        new = merge(thread, [Sent(2, again)], own={name, reads.name}, repeatable=offer.repeatable).new

    results = [str(each.content) for each in new if each.role == "tool"]
    assert results == [STOPPED_REPEATABLE if may_repeat else STOPPED, STOPPED_READING]

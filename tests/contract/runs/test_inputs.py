"""Questions of the official MCP server in the middle of a call, answered by the stock client of AG-UI 1.0."""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from karma.core.ids import UserId
from karma.integrations.mcp import McpClient
from karma.mcp.domain import McpServer
from karma.mcp.offering import McpTools
from karma.mcp.secrets import Endpoints
from karma.models.ports import ModelEvent, ModelRequest, StopReason
from karma.runs.requests import parse_run_input
from tests.contract.runs.test_client import NODE, needs_client
from tests.contract.runs.test_interrupts import serving
from tests.contract.stores.test_mcp import server as stored_server
from tests.fakes.mcp import MemoryMcpServers, OpenSeal
from tests.fakes.runs import ScriptedModel, SetClock, caller, ended, events_of, text, tool
from tests.support import mcp_server
from tests.support.agui import verify
from tests.support.run_world import World

DECLINED = (
    '{"error":"Error executing tool ask: Resolver for parameter \'answer\' could not resolve: elicitation was decline"}'
)
"""The words of the official package, which has been told."""

pytestmark = needs_client


class Asking(ScriptedModel):
    """Calls the tool that asks for a user's words, and says something behind its result."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        turn: list[Any] = [*text("Done."), *ended()]
        if len(request.messages) == 1:
            turn = [*tool("c1", "server-1__ask", "{}"), *ended(StopReason.TOOL_USE)]
        for step in turn:
            yield step


class Served(World):
    """A world whose user has an MCP server, which is asked for its tools when a run begins."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.model: ScriptedModel = Asking()
        self.clock = SetClock(datetime.now(UTC))  # the client compares `expiresAt` with its own
        self.servers, self.endpoints = MemoryMcpServers(), Endpoints(OpenSeal())
        of = self._server(caller().user_id)
        self.servers.servers[of.id] = of

    def _server(self, user: UserId) -> McpServer:
        of = replace(stored_server(1, user=user), url=self.url)
        long_ago = self.clock.now() - timedelta(days=30)
        return replace(of, listed_at=long_ago, sealed=self.endpoints.sealed(user, of.id, mcp_server.HEADERS))

    async def answer_one(self, value: dict[str, Any]) -> bytes:
        client = McpClient(is_allowed=lambda _: True)
        self.mcp = McpTools(self.servers, lambda: client, lambda: self.endpoints, self.clock)
        try:
            return (await self.go(parse_run_input(orjson.dumps(value)))).data
        finally:
            await client.close()


class Server:
    """Answers the requests of one client, each conversation in a world of its own."""

    def __init__(self, mcp_url: str) -> None:
        self._mcp_url = mcp_url
        self._worlds: dict[str, Served] = {}

    def answer(self, body: bytes) -> tuple[int, bytes]:
        value = orjson.loads(body)
        world = self._worlds.setdefault(value["threadId"], Served(self._mcp_url))
        interrupts = world.store.interrupts_by_id
        held = [each.awaited.id for each in interrupts.values()]
        data = asyncio.run(world.answer_one(value))
        verify(events_of(data), held=held, asked=[each.awaited.id for each in interrupts.values() if not each.answer])
        return 200, data


@functools.cache
def heard() -> tuple[dict[str, Any], list[str]]:
    """Let the client hold its conversations; return what it holds, and what was called at the MCP server."""
    with mcp_server.serving() as (mcp_url, seen), serving(Server(mcp_url)) as url:
        script = str(Path(__file__).with_name("inputs.mjs"))
        done = subprocess.run([str(NODE), script, url], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    return told, seen.calls


def test_the_client_is_asked_what_the_server_asks() -> None:
    told, _ = heard()
    assert told["warnings"] == []
    for conversation in told["found"].values():
        (question,), (schema,) = conversation["asked"], conversation["forms"]
        assert question == {"reason": "input_required", "message": "server-1__ask asks: May it be done?"}
        (form,) = schema["properties"].values()
        assert form["properties"]["content"]["properties"]["ok"]["type"] == "boolean"
        assert conversation["left"] == 0


@pytest.mark.parametrize(("name", "result"), [("accept", "True"), ("decline", DECLINED)])
def test_its_answer_is_the_server_s_and_the_conversation_goes_on(name: str, result: str) -> None:
    told, called = heard()
    messages = told["found"][name]["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[2]["content"] == result
    assert messages[-1]["content"] == "Done."
    assert called == ["ask True"]

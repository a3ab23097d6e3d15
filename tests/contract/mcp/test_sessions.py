"""A session with a server from before 2026-07-28 belongs to one account, one server and one thread."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import groupby
from typing import Any

from karma.core.clock import SystemClock
from karma.core.ids import RunId, UserId, new_id
from karma.integrations.mcp import McpClient
from karma.mcp.domain import HANDSHAKE, McpEndpoint, McpServer, RemoteTool
from karma.mcp.offering import McpTools, OfferedTool
from karma.mcp.secrets import Endpoints
from karma.tools.toolbox import SharedState, ToolContext
from tests.contract.stores.test_mcp import server
from tests.fakes.mcp import MemoryMcpServers, OpenSeal
from tests.fakes.runs import caller
from tests.support.mcp_server import HEADERS, Seen, serving

ECHO = RemoteTool(name="echo", description="Echo.", schema={"type": "object"}, is_repeatable=True)


class Accounts:
    """Runs that call tools of servers, all at one address and with the same headers."""

    def __init__(self, url: str, seen: Seen) -> None:
        self.seen = seen
        self.url = url
        self.store = MemoryMcpServers()
        self.client = McpClient(is_allowed=lambda _: True)
        self.endpoints = Endpoints(OpenSeal())
        self.tools = McpTools(self.store, lambda: self.client, lambda: self.endpoints, SystemClock())

    def server(self, number: int, user: UserId) -> McpServer:
        made = replace(server(number, user=user), url=self.url)
        made = replace(made, sealed=self.endpoints.sealed(user, made.id, HEADERS))
        self.store.servers[made.id] = made
        return made

    async def call(self, of: McpServer, thread_id: str) -> str:
        """Call a tool in a new run; return the session in which the server was called."""
        offered = OfferedTool(server_id=of.id, server_name=of.name, version=HANDSHAKE[0], timeout_s=10, tool=ECHO)
        tool = self.tools.tools([offered], thread_id=thread_id)[0]
        by = caller(user_id=of.user_id)
        assert await tool.run({"text": "a"}, ToolContext(by, RunId(new_id()), "c1", {}, SharedState({}))) == "a"
        return self.seen.headers[-1]["mcp-session-id"]


def test_a_session_is_shared_by_calls_of_one_thread_alone() -> None:
    async def calls(accounts: Accounts) -> dict[tuple[Any, ...], list[str]]:
        one, other = UserId(new_id()), UserId(new_id())
        servers = [accounts.server(1, one), accounts.server(2, one), accounts.server(3, other)]
        pairs = [(each, thread) for each in servers for thread in ("thread-a", "thread-b")]
        made = [((each.id, thread), await accounts.call(each, thread)) for _ in range(2) for each, thread in pairs]
        await accounts.client.close()
        grouped = groupby(sorted(made), key=lambda entry: entry[0])
        return {whose: [session for _, session in entries] for whose, entries in grouped}

    with serving(is_modern=False) as (url, seen):
        sessions = asyncio.run(calls(Accounts(url, seen)))

    assert all(len(set(each)) == 1 for each in sessions.values()), "a thread goes on with its session"
    assert len({each[0] for each in sessions.values()}) == len(sessions) == 6, "and no two share one"


def test_a_session_of_nobody_is_not_kept() -> None:
    async def lists(url: str) -> int:
        client = McpClient(is_allowed=lambda _: True)
        await client.list_tools(McpEndpoint(url=url, headers=HEADERS), server="w")
        kept = len(client._sessions)
        await client.close()
        return kept

    with serving(is_modern=False) as (url, _):
        assert asyncio.run(lists(url)) == 0

"""Changes of its tools that a server tells in the middle of a call: the next run asks it for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.core.clock import SystemClock
from karma.core.ids import RunId, new_id
from karma.integrations.mcp import McpClient
from karma.mcp.domain import DEFAULT_FRESH, HANDSHAKE, MODERN, Listing, McpErrorCode, McpFailed, McpServer, McpServerId
from karma.mcp.offering import McpTools, OfferedTool
from karma.mcp.secrets import Endpoints
from karma.mcp.service import renewed
from karma.tools.failures import ToolFailed
from karma.tools.toolbox import SharedState, ToolContext
from tests.contract.mcp.test_faults import TOOL, answer, result
from tests.contract.stores.test_mcp import server
from tests.fakes.mcp import MemoryMcpServers, OpenSeal
from tests.fakes.runs import caller
from tests.support.faulty_server import Behaviour, FaultyServer, stream
from tests.support.mcp_server import HEADERS

pytestmark = pytest.mark.fault("F-29af")

CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


class Counting(MemoryMcpServers):
    """A store that counts its writes, which somebody else may come before."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.comes_before: dict[str, Any] = {}

    def replace(self, old: McpServer, new: McpServer, **more: Any) -> None:
        self.writes += 1
        if self.comes_before:
            other = replace(old, version=old.version + 1, **self.comes_before)
            self.comes_before, self.servers[old.id] = {}, other
        super().replace(old, new, **more)


def unknown(code: int) -> Behaviour:
    return answer(json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": "Unknown tool"}}).encode())


def done(*before: dict[str, Any]) -> Behaviour:
    last = json.loads(result(content=[{"type": "text", "text": "done"}])) | {"id": None}
    events = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in (*before, last)]
    return stream(*events)


def called(store: Counting, *runs: Sequence[Behaviour], version: str = MODERN) -> McpServer:
    """Call a tool in runs, once for each answer; return the server as it is stored then."""
    endpoints, by = Endpoints(OpenSeal()), caller()

    async def calls(url: str) -> McpServerId:
        of = server(1, user=by.user_id)
        of = replace(of, url=url, sealed=endpoints.sealed(by.user_id, of.id, HEADERS))
        store.servers.setdefault(of.id, of)
        client = McpClient(is_allowed=lambda _: True)
        offered = OfferedTool(server_id=of.id, server_name=of.name, version=version, timeout_s=10, tool=TOOL)
        for answers in runs:
            tools = McpTools(store, lambda: client, lambda: endpoints, SystemClock())
            (tool,) = tools.tools([offered], thread_id="t1")
            for _ in answers:
                try:
                    await tool.run({}, ToolContext(by, RunId(new_id()), "c1", {}, SharedState({})))
                except ToolFailed as exc:
                    assert "-32" in str(exc)  # noqa: PT017
        await client.close()
        return of.id

    with FaultyServer() as served:
        if version != MODERN:
            hello = json.dumps({"id": 1, "result": {"protocolVersion": version}}).encode()
            served.next(answer(hello, mcp_session_id="s"), answer(b"", 202))
        served.next(*(each for answers in runs for each in answers))
        return store.servers[asyncio.run(calls(served.url))]


@pytest.mark.parametrize("version", [MODERN, HANDSHAKE[0]])
@pytest.mark.parametrize("said", [done(CHANGED), unknown(-32602)], ids=["changed", "unknown"])
def test_the_next_run_lists_them_anew_and_one_run_writes_once(version: str, said: Behaviour) -> None:
    store = Counting()
    found = called(store, [said, said, done(CHANGED, CHANGED), unknown(-32602)], [said], version=version)
    assert (found.is_outdated, store.writes) == (True, 1)
    assert found.revision == 1, "its owner has changed nothing"
    now = found.listed_at + timedelta(seconds=1)
    assert found.is_stale(now)
    new = renewed(found, Listing(version=MODERN, tools=(TOOL,)), at=now)
    assert not new.is_stale(now)
    failed = renewed(found, McpFailed(McpErrorCode.UNREACHABLE, "away"), at=now)
    assert not failed.is_stale(now), "its pause holds"
    assert failed.is_stale(failed.health.retry_at)


@pytest.mark.parametrize("said", [done(), done({"method": "notifications/message"}), unknown(-32603)])
def test_whatever_else_is_said_marks_nothing(said: Behaviour) -> None:
    store = Counting()
    assert not called(store, [said]).is_outdated
    assert store.writes == 0


def test_a_change_of_the_server_that_comes_between_stays() -> None:
    store = Counting()
    store.comes_before = {"name": "v", "revision": 2}
    found = called(store, [done(CHANGED)])
    assert (found.name, found.revision, found.is_outdated) == ("v", 2, True)


def test_a_listing_that_comes_between_is_not_marked() -> None:
    store = Counting()
    at = server(1).listed_at + DEFAULT_FRESH
    store.comes_before = {"listed_at": at}
    found = called(store, [done(CHANGED)])
    assert (found.listed_at, found.is_outdated) == (at, False)

"""The progress of a call, as the official server and hostile ones tell it, and as clients are shown it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from karma.core.clock import SystemClock
from karma.core.ids import RunId, new_id
from karma.integrations.mcp import McpClient
from karma.integrations.mcp_progress import MAX_MESSAGE_CHARS, MAX_NUMBER
from karma.mcp.domain import HANDSHAKE, MODERN, McpEndpoint, RemoteTool
from karma.mcp.offering import McpTools, OfferedTool
from karma.mcp.ports import CallOutcome, CallProgress
from karma.mcp.secrets import Endpoints
from karma.tools.toolbox import SharedState, ToolContext
from tests.contract.mcp.test_faults import TOOL, ask, result
from tests.contract.stores.test_mcp import server
from tests.fakes.mcp import MemoryMcpServers, OpenSeal
from tests.fakes.runs import caller
from tests.support.faulty_server import Behaviour, FaultyServer, Wire, stream
from tests.support.mcp_server import HEADERS, serving

ADVANCE = RemoteTool(name="advance", description="Work.", schema={"type": "object"}, is_repeatable=True)


async def told_by(url: str, version: str, tool: RemoteTool, **arguments: Any) -> tuple[CallOutcome, list[CallProgress]]:
    told: list[CallProgress] = []
    client = McpClient(is_allowed=lambda _: True)
    try:
        endpoint = McpEndpoint(url=url, headers=HEADERS, timeout_s=10)
        return await client.call(endpoint, tool, arguments, version=version, tell=told.append), told
    finally:
        await client.close()


@pytest.mark.parametrize("kind", ["modern", "before", "resumable", "json"])
def test_the_official_server_s_progress_is_told_in_both_eras(kind: str) -> None:
    is_modern = kind == "modern"
    with serving(is_modern=is_modern, is_resumable=kind == "resumable", json_response=kind == "json") as (url, _):
        version = MODERN if is_modern else HANDSHAKE[0]
        outcome, told = asyncio.run(told_by(url, version, ADVANCE, steps=3))

    assert outcome == CallOutcome("done", is_error=False)
    expected = [CallProgress(step, 3, f"step {step}") for step in range(4)]
    assert told == ([] if kind == "json" else expected)


def progress(token: object, *told: dict[str, Any]) -> bytes:
    """Return notifications of progress, each an event of a stream."""
    messages = [{"method": "notifications/progress", "params": {"progressToken": token, **each}} for each in told]
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in messages)


def answering(told: Callable[[int], bytes]) -> Callable[[Any], Behaviour]:
    """Answer a call by a stream that begins with what is told for its token."""

    def choose(request: Any) -> Behaviour:
        token = request["params"]["_meta"]["progressToken"]
        done = json.loads(result(content=[{"type": "text", "text": "done"}])) | {"id": request["id"]}
        return stream(told(token), b"data: " + json.dumps(done).encode() + b"\n\n")

    return choose


def heard(told: Callable[[int], bytes]) -> list[CallProgress]:
    with FaultyServer() as served:
        served.choose = answering(told)
        outcome, found = asyncio.run(told_by(served.url, MODERN, TOOL))
    assert outcome.value == "done"
    return found


def test_numbers_and_words_are_told_in_their_bounds() -> None:
    long = "é" * 10_000
    found = heard(
        lambda token: progress(
            token,
            {"progress": 0},
            {"progress": 0.5, "total": 2, "message": long},
            {"progress": 1, "total": 0.5, "message": 7},
            {"progress": 2, "total": True, "message": "\ud800 half"},
            {"progress": MAX_NUMBER, "total": 1e300},
        )
    )
    assert found == [
        CallProgress(0, None, ""),
        CallProgress(0.5, 2, long[:MAX_MESSAGE_CHARS]),
        CallProgress(1, None, ""),
        CallProgress(2, None, "\ufffd half"),
        CallProgress(MAX_NUMBER, None, ""),
    ]


def test_what_goes_back_or_is_no_number_is_passed_over() -> None:
    numbers: tuple[object, ...] = (-1, -0.1, 1, 0.5, True, "2", None, [], {}, 1e16, 10**30, MAX_NUMBER + 1)
    odd = [{"progress": each} for each in numbers]
    found = heard(lambda token: progress(token, {"progress": 1}, *odd, {}, {"progress": 3}))
    assert [each.progress for each in found] == [1, 3]


def test_other_tokens_and_other_notifications_are_passed_over() -> None:
    others = (
        {"method": "notifications/progress"},
        {"method": "notifications/progress", "params": [1]},
        {"method": "notifications/progress", "params": "x"},
        {"method": ["notifications/progress"], "params": {}},
        {"method": "notifications/message", "params": {"level": "info", "data": "x"}},
    )

    def told(token: int) -> bytes:
        tokens = (0, -token, True, str(token), float(token), None, [token], {"a": token}, 10**30)
        events = [progress(each, {"progress": 2}) for each in tokens]
        return b"".join([*events, *(b"data: " + json.dumps(each).encode() + b"\n\n" for each in others)])

    assert heard(told) == []


def test_who_does_not_listen_asks_for_no_progress() -> None:
    with FaultyServer() as served:
        served.next(stream(b"data: " + result(content=[]) + b"\n\n"))
        ask(served.url, lambda client, endpoint: client.call(endpoint, TOOL, {}, version=MODERN))
    assert "progressToken" not in served.requests[0]["params"]["_meta"]


def shown_of(served: FaultyServer, shown: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Call a tool of a server in a run; note in `shown` what its clients are shown."""
    store, endpoints, by = MemoryMcpServers(), Endpoints(OpenSeal()), caller()
    of = server(1, user=by.user_id)
    of = store.servers[of.id] = replace(of, url=served.url, sealed=endpoints.sealed(by.user_id, of.id, HEADERS))
    offered = OfferedTool(server_id=of.id, server_name=of.name, version=MODERN, timeout_s=10, tool=TOOL)

    async def called() -> None:
        client = McpClient(is_allowed=lambda _: True)
        (tool,) = McpTools(store, lambda: client, lambda: endpoints, SystemClock()).tools([offered], thread_id="t1")
        context = ToolContext(by, RunId(new_id()), "c1", {}, SharedState({}), show=lambda *now: shown.append(now))
        assert await tool.run({}, context) == "done"
        await client.close()

    asyncio.run(called())
    return shown


def test_a_flood_is_shown_by_its_first_its_last_and_a_few_in_between() -> None:
    n = 40_000
    flood = lambda token: progress(token, *({"progress": each, "total": n} for each in range(1, n + 1)))  # noqa: E731
    with FaultyServer() as served:
        served.choose = answering(flood)
        shown = shown_of(served, [])

    of = {"server": "server-1", "tool": "t", "total": n}
    assert shown[0] == ("karma.mcp", {**of, "progress": 1})
    assert shown[-1] == ("karma.mcp", {**of, "progress": n})
    assert len(shown) < 30, "two a second"


def test_the_last_of_a_moment_is_shown_soon_though_nothing_follows_it() -> None:
    shown: list[tuple[str, Any]] = []
    at_the_end: list[Any] = []

    def choose(request: Any) -> Behaviour:
        def answer_late(wire: Wire) -> None:
            for _ in range(500):
                if len(shown) == 2 or wire.closing.wait(0.01):
                    break
            at_the_end.extend(content["progress"] for _, content in shown)
            done = json.loads(result(content=[{"type": "text", "text": "done"}])) | {"id": request["id"]}
            wire.chunk(b"data: " + json.dumps(done).encode() + b"\n\n")

        token = request["params"]["_meta"]["progressToken"]
        return stream(progress(token, {"progress": 1}, {"progress": 2}, {"progress": 3}), end=answer_late)

    with FaultyServer() as served:
        served.choose = choose
        assert len(shown_of(served, shown)) == 2
    assert at_the_end == [1, 3]

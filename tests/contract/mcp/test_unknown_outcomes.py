"""Ends of calls without a result: whether anybody knows what became of them, and whether the server is still there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from karma.core.clock import SystemClock
from karma.core.ids import RunId, new_id
from karma.integrations.mcp import McpClient
from karma.mcp.domain import HANDSHAKE, MODERN, McpErrorCode, McpFailed
from karma.mcp.offering import McpTools, OfferedTool
from karma.mcp.secrets import Endpoints
from karma.tools.failures import ToolFailed
from karma.tools.toolbox import SharedState, ToolContext
from tests.contract.mcp.test_faults import FAULTS, IMPATIENT_S, TIMEOUT_S, TOOL, answer, ask, list_tools, result
from tests.contract.stores.test_mcp import server as stored_server
from tests.fakes.mcp import MemoryMcpServers, OpenSeal
from tests.fakes.runs import caller
from tests.support.faulty_server import CUT, RESET, Behaviour, FaultyServer, Wire, hang_up, stream
from tests.support.mcp_server import HEADERS


class Failing:
    """A client whose calls all fail in one way."""

    def __init__(self, failure: McpFailed) -> None:
        self.failure = failure

    async def call(self, *_: Any, **__: Any) -> Any:
        raise self.failure


def failed(
    client: Callable[[], Any], url: str = "", version: str = MODERN, timeout_s: float = TIMEOUT_S
) -> tuple[ToolFailed, bool]:
    """Call a tool that fails, in a run; return the failure, and whether the stored listing counts as outdated then."""
    store, endpoints, by = MemoryMcpServers(), Endpoints(OpenSeal()), caller()
    of = stored_server(1, user=by.user_id)
    more: dict[str, Any] = {"timeout_s": timeout_s}
    of = replace(of, url=url, **more, sealed=endpoints.sealed(by.user_id, of.id, HEADERS))
    store.servers[of.id] = of
    offered = OfferedTool(server_id=of.id, server_name=of.name, version=version, timeout_s=1, tool=TOOL)

    async def call() -> ToolFailed:
        made = client()
        (tool,) = McpTools(store, lambda: made, lambda: endpoints, SystemClock()).tools([offered], thread_id="t1")
        with pytest.raises(ToolFailed) as raised:
            await tool.run({}, ToolContext(by, RunId(new_id()), "c1", {}, SharedState({})))
        return raised.value

    return asyncio.run(call()), store.servers[of.id].is_outdated


REFUSED = {"ADDRESS_REFUSED", "VERSION_UNKNOWN", "UNAUTHORIZED", "FAILED", "INPUT_REQUIRED"}
AWAY = {"ADDRESS_REFUSED", "UNREACHABLE", "TIMED_OUT", "UNAUTHORIZED", "REDIRECTED"}


@pytest.mark.fault("F-32cb")
@pytest.mark.parametrize("is_unknown", [False, True], ids=["", "lost"])
@pytest.mark.parametrize("code", McpErrorCode, ids=lambda code: code.name)
def test_a_call_has_failed_only_by_the_codes_that_say_so(code: McpErrorCode, is_unknown: bool) -> None:
    found, is_outdated = failed(lambda: Failing(McpFailed(code, "m", is_unknown=is_unknown)))
    assert found.effect == ("told" if code.name in REFUSED and not is_unknown else "unknown")
    assert is_outdated == (code.name in AWAY)


SAID = {"an error of its own", "an error without a code", "forbidden", "input required"}
"""Faults in which the server itself says that it has not done it."""


@pytest.mark.fault("F-32cb")
@pytest.mark.parametrize(("name", "fault", "code"), [pytest.param(*each, id=each[0]) for each in FAULTS])
def test_a_request_that_was_sent_is_of_unknown_outcome_without_a_word_of_its_server(
    name: str, fault: Behaviour, code: McpErrorCode
) -> None:
    version = HANDSHAKE[0]
    with FaultyServer() as server:

        def choose(request: Any) -> Behaviour:
            if request is not None and request.get("method") == "initialize":
                hello = {"id": request["id"], "result": {"protocolVersion": version}}
                return answer(json.dumps(hello).encode())
            if request is not None and "id" not in request:
                return answer(b"", 202)
            return fault

        server.choose = choose
        found, _ = failed(
            lambda: McpClient(is_allowed=lambda _: True),
            server.url,
            version,
            IMPATIENT_S if code is McpErrorCode.TIMED_OUT else TIMEOUT_S,
        )
        assert "tools/call" in [each.get("method") for each in server.requests if each]
    assert found.effect == ("told" if name in SAID else "unknown")


def erring(code: int, status: int) -> Behaviour:
    return answer(json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": "m"}}).encode(), status)


@pytest.mark.fault("F-32cb")
@pytest.mark.parametrize(
    ("code", "status", "effect"),
    [
        (-32700, 400, "told"),
        (-32600, 400, "told"),
        (-32601, 404, "told"),
        (-32602, 200, "told"),
        (-32603, 200, "told"),
        (0, 200, "told"),
        (-32000, 400, "told"),
        (-32000, 200, "unknown"),
        (-32001, 200, "unknown"),
        (-32603, 500, "unknown"),
        (-32000, 500, "unknown"),
    ],
)
def test_an_error_that_says_that_the_answer_was_lost_says_nothing_of_the_call(
    code: int, status: int, effect: str
) -> None:
    with FaultyServer() as server:
        server.next(erring(code, status))
        found, _ = failed(lambda: McpClient(is_allowed=lambda _: True), server.url)
    assert (found.effect, "MCP_FAILED" in str(found)) == (effect, True)


@pytest.mark.fault("F-32cb")
def test_a_stream_that_is_taken_up_at_a_name_that_leads_inside_by_now_is_of_unknown_outcome() -> None:
    answers = iter([["127.0.0.1"]] * 3)

    async def resolve(_: str, __: int) -> list[str]:
        return next(answers, ["10.0.0.1"])

    with FaultyServer() as server:
        hello = json.dumps({"id": 1, "result": {"protocolVersion": HANDSHAKE[0]}}).encode()
        left = stream(b"id: 7\nretry: 100\ndata: \n\n")
        server.next(answer(hello), answer(b"", 202), left)
        with pytest.raises(McpFailed) as raised:
            ask(
                server.url.replace("127.0.0.1", "mcp.example.com"),
                lambda client, at: client.call(at, TOOL, {}, version=HANDSHAKE[0]),
                is_allowed=lambda address: not address.startswith("10."),
                resolve=resolve,
            )
    assert raised.value.code is McpErrorCode.UNREACHABLE


def sending(*parts: bytes, end: Behaviour = CUT) -> Behaviour:
    def behave(wire: Wire) -> None:
        for each in parts:
            wire.send(each)
        end(wire)

    return behave


OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"content-type: application/json\r\n"
EVENTS = OK + b"content-type: text/event-stream\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"

ENDED: Sequence[tuple[str, Behaviour]] = [
    ("at once", hang_up),
    ("reset at once", RESET),
    ("within the status line", sending(b"HTTP/1.1 20")),
    ("behind the status line", sending(OK)),
    ("within the headers", sending(JSON + b"content-le")),
    ("behind an interim answer", sending(b"HTTP/1.1 102 Processing\r\n\r\n")),
    ("behind the headers, chunked", sending(JSON + CHUNKED)),
    ("within a chunk", sending(JSON + CHUNKED + b"ff\r\n{")),
    ("between chunks", sending(JSON + CHUNKED + b"1\r\n{\r\n")),
    ("within a chunk's size", sending(JSON + CHUNKED + b"1")),
    ("before the last chunk", sending(JSON + CHUNKED + b"2\r\n{}\r\n")),
    ("short of its length", sending(JSON + b"content-length: 9\r\n\r\n{}")),
    ("short of its length, reset", sending(JSON + b"content-length: 9\r\n\r\n{}", end=RESET)),
    ("within an event", sending(EVENTS + CHUNKED + b"6\r\ndata: \r\n")),
    ("between events", sending(EVENTS + CHUNKED + b"5\r\n: x\n\n\r\n")),
    ("within an event without a length", sending(EVENTS + b"\r\ndata: {")),
    ("between events without a length", sending(EVENTS + b"\r\n: x\n\n")),
    ("within an event, reset", sending(EVENTS + CHUNKED + b"6\r\ndata: \r\n", end=RESET)),
]

NO_HTTP: Sequence[tuple[str, Behaviour]] = [
    ("TLS", sending(b"\x16\x03\x01\x02\x00\r\n\r\n")),
    ("another protocol", sending(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")),
    ("a status that is none", sending(b"HTTP/1.1 abc OK\r\n\r\n")),
    ("a header that is none", sending(OK + b"no header\r\n\r\n")),
    ("a length that is none", sending(JSON + b"content-length: x\r\n\r\n{}")),
    ("a chunk that is none", sending(JSON + CHUNKED + b"zz\r\n{}\r\n")),
    ("a chunk of events that is none", sending(EVENTS + CHUNKED + b"zz\r\n{}\r\n")),
]


def call_modern(client: McpClient, at: Any) -> Any:
    return client.call(at, TOOL, {}, version=MODERN)


@pytest.mark.fault("F-32cd")
@pytest.mark.parametrize("act", [call_modern, list_tools], ids=["call", "list"])
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        *(pytest.param(each, McpErrorCode.UNREACHABLE, id=f"ends {name}") for name, each in ENDED),
        *(pytest.param(each, McpErrorCode.BAD_ANSWER, id=name) for name, each in NO_HTTP),
    ],
)
def test_a_server_that_died_is_told_from_one_that_speaks_no_http(
    fault: Behaviour, code: McpErrorCode, act: Callable[..., Any]
) -> None:
    with FaultyServer() as server:
        server.next(fault)
        with pytest.raises(McpFailed) as raised:
            ask(server.url, act)
    assert raised.value.code is code
    if code is McpErrorCode.BAD_ANSWER:
        assert raised.value.message == "The server's answer is not HTTP"


@pytest.mark.fault("F-32cd")
@pytest.mark.parametrize("head", [JSON, JSON.replace(b"1.1", b"1.0"), JSON + b"connection: close\r\n"])
def test_a_body_whose_end_is_that_of_its_connection_is_whole(head: bytes) -> None:
    with FaultyServer() as server:
        server.next(sending(head + b"\r\n", result(content=[{"type": "text", "text": "done"}])))
        assert ask(server.url, call_modern).value == "done"
        server.next(sending(head + b"\r\n", result(content=[]), end=RESET))
        with pytest.raises(McpFailed):
            ask(server.url, call_modern)

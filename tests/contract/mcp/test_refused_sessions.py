"""A call that is answered by 400 is made again where the server says that its session is over, and only there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from karma.integrations.mcp import McpClient
from karma.mcp.domain import HANDSHAKE, McpEndpoint, McpErrorCode, McpFailed
from tests.contract.mcp.test_faults import ANSWER, TOOL, answer, ask
from tests.support.faulty_server import Behaviour, FaultyServer

pytestmark = pytest.mark.fault("F-33o")


def plain(text: str, kind: str = "text/plain; charset=utf-8") -> Behaviour:
    return answer(text.encode(), 400, content_type=kind)


def as_json(body: object) -> Behaviour:
    return answer(json.dumps(body).encode(), 400, content_type="application/json")


def error(message: str, **more: Any) -> Behaviour:
    return as_json({"jsonrpc": "2.0", "error": {"code": -32000, "message": message}, **more})


OVER = {
    "no valid session": error("Bad Request: No valid session ID provided", id=None),
    "a session by another id": error("Session not found", id="server-error"),
    "without an id": error("Bad Request: Mcp-Session-Id header is required"),
    "not initialized": error("Bad Request: Server not initialized", id=None),
    "not been initialized": error("The server has not been initialized", id=None),
    "in plain words": plain("Invalid session ID\n"),
    "a transport": plain("No transport found for sessionId"),
    "of no kind": plain("session terminated", ""),
    "an error of its own form": as_json({"error": "Unknown session"}),
    "a detail": as_json({"detail": "Invalid or missing session ID"}),
}
WORDLESS = {
    "nothing": answer(b"", 400),
    "bad request": plain("Bad Request"),
    "a page": plain("<html><title>400</title>your session cookie is too large</html>", "text/html"),
    "an object": as_json({}),
    "an error of its own form": as_json({"error": "upstream failed"}),
    "what was asked": as_json({"detail": [{"msg": "x", "input": {"session": "s"}}]}),
    "what was asked, as a member": as_json({"error": "bad", "request": {"session": "s"}}),
    "no JSON": answer(b"{", 400, content_type="application/json"),
    "bytes": answer(b"\xff\xfe", 400, content_type="text/plain"),
}
SAID = {
    "an answer": error("the session of the tool's own server is over", id=2),
    "an answer by a text": error("no session", id="2"),
    "nobody's answer": error("Bad Request: Unsupported tool", id=None),
}


def called(server: FaultyServer, times: int, *answers: Behaviour) -> list[str]:
    """Call a tool in one session, as often as that; return what the server was asked, by method."""
    hello = json.dumps({"id": 1, "result": {"protocolVersion": HANDSHAKE[0]}}).encode()
    begins = [answer(hello, mcp_session_id="s"), answer(b"", 202)]
    left = list(answers)

    def choose(asked: Any) -> Behaviour:
        method = asked and asked["method"]
        return left.pop(0) if method == "tools/call" else begins[method != "initialize"]

    server.choose = choose

    async def calls(client: McpClient, at: McpEndpoint) -> list[Any]:
        at = McpEndpoint(url=at.url, headers=at.headers, timeout_s=at.timeout_s, session_of=("u", "s", "t"))
        outcomes: list[Any] = []
        for _ in range(times):
            try:
                outcomes.append((await client.call(at, TOOL, {}, version=HANDSHAKE[0])).value)
            except McpFailed as exc:
                outcomes.append(exc)
        return outcomes

    outcomes: list[Any] = ask(server.url, calls)
    methods = [each["method"] for each in server.requests if each and each["method"] != "notifications/initialized"]
    return [*(each.code.name if isinstance(each, McpFailed) else each for each in outcomes), *methods]


@pytest.mark.parametrize("refusal", OVER.values(), ids=OVER)
def test_a_session_that_the_server_does_not_know_is_begun_anew(refusal: Behaviour) -> None:
    with FaultyServer() as server:
        assert called(server, 1, refusal, ANSWER) == ["done", *["initialize", "tools/call"] * 2]


@pytest.mark.parametrize("refusal", WORDLESS.values(), ids=WORDLESS)
def test_a_call_that_may_have_been_carried_out_is_made_once_and_the_next_begins_anew(refusal: Behaviour) -> None:
    with FaultyServer() as server:
        found = called(server, 2, refusal, ANSWER)
    assert found == [McpErrorCode.BAD_ANSWER.name, "done", *["initialize", "tools/call"] * 2]


@pytest.mark.parametrize("refusal", SAID.values(), ids=SAID)
def test_an_error_that_says_something_else_is_its_answer(refusal: Behaviour) -> None:
    with FaultyServer() as server:
        found = called(server, 2, refusal, ANSWER)
    assert found == [McpErrorCode.FAILED.name, "done", "initialize", "tools/call", "tools/call"]

"""Requests and events of servers within the stream of a call, before its result: a call that succeeds has succeeded."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from karma.core.clock import monotonic
from karma.integrations import mcp_replies
from karma.integrations.mcp_replies import MAX_REPLIES
from karma.mcp.domain import HANDSHAKE, MODERN, McpEndpoint, McpErrorCode, McpFailed
from tests.contract.mcp.test_faults import TIMEOUT_S, TOOL, answer, ask, silent
from tests.support.faulty_server import RESET, Behaviour, FaultyServer, Wire, hang_up

OLDEST = HANDSHAKE[-1]
DONE = {"content": [{"type": "text", "text": "done"}], "resultType": "complete"}


def event(message: object, *lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines) + b"data: " + json.dumps(message).encode() + b"\n\n"


def replies_of(server: FaultyServer) -> list[Any]:
    return [each for each in server.requests if each is not None and "method" not in each]


def serve(
    server: FaultyServer, told: Sequence[bytes], *, reply: Behaviour, waits_for: int = 0, **answered: Any
) -> None:
    """Answer a call by what is told, and its result once `waits_for` replies have come, each of which gets `reply`."""

    def choose(request: Any) -> Behaviour:
        if "method" not in request:
            return reply
        if request["method"] == "initialize":
            return answer(json.dumps({"id": request["id"], "result": {"protocolVersion": HANDSHAKE[0]}}).encode())
        if "id" not in request:
            return answer(b"", 202)

        def called(wire: Wire) -> None:
            wire.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
            for each in told:
                wire.chunk(each)
            until = monotonic() + 6
            while len(replies_of(server)) < waits_for and monotonic() < until and not wire.closing.wait(0.01):
                pass
            wire.chunk(event({"jsonrpc": "2.0", "id": request["id"], "result": DONE, **answered}))
            wire.send(b"0\r\n\r\n")

        return called

    server.choose = choose


def called(server: FaultyServer, version: str = HANDSHAKE[0], **more: Any) -> Any:
    return ask(server.url, lambda client, at: client.call(at, TOOL, {}, version=version), **more)


ACCEPTED = answer(b"", 202)
ASKED: Sequence[tuple[str, dict[str, Any]]] = [
    ("ping", {"method": "ping"}),
    ("ping with parameters", {"method": "ping", "params": {"_meta": {}}}),
    ("roots", {"method": "roots/list"}),
    ("sampling", {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}),
    ("elicitation", {"method": "elicitation/create", "params": {"message": "Who?"}}),
    ("a method of nobody's", {"method": "x/y"}),
    ("a method that is none", {"method": 7}),
]


@pytest.mark.fault("F-32ca")
@pytest.mark.parametrize(
    ("asked", "request_id"),
    [
        *(pytest.param(each, 7, id=name) for name, each in ASKED),
        *(pytest.param(ASKED[0][1], each, id=repr(each)) for each in (1, 0, -1, 2**60, "p1", "")),
    ],
)
def test_a_request_of_the_server_is_answered_while_its_stream_is_read(asked: dict[str, Any], request_id: Any) -> None:
    with FaultyServer() as server:
        serve(server, [event({"jsonrpc": "2.0", "id": request_id, **asked})], reply=ACCEPTED, waits_for=1)
        assert called(server).value == "done"
    (reply,) = replies_of(server)
    assert (reply["jsonrpc"], reply["id"]) == ("2.0", request_id)
    if asked["method"] == "ping":
        assert reply["result"] == {}
    else:
        assert reply["error"]["code"] == -32601
    assert server.headers[-1]["mcp-protocol-version"] == HANDSHAKE[0]
    assert server.headers[-1]["x-key"] == "kcanary"


@pytest.mark.fault("F-32ca")
@pytest.mark.parametrize(
    "reply",
    [hang_up, RESET, silent, answer(b"", 401), answer(b"", 500), lambda wire: wire.send(b"garbage\r\n\r\n")],
    ids=["hangs up", "reset", "silent", "unauthorized", "broken", "no HTTP"],
)
def test_a_reply_that_cannot_be_posted_changes_nothing(reply: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_replies, "_REPLY_S", TIMEOUT_S * 2)  # a call that waits for one ends in its own time limit
    with FaultyServer() as server:
        serve(server, [event({"id": n, "method": "ping"}) for n in range(9)], reply=reply)
        assert called(server).value == "done"


@pytest.mark.fault("F-32ca")
def test_a_request_whose_id_cannot_be_given_back_is_passed_over() -> None:
    odd: Sequence[object] = (None, True, 1.5, [1], {"a": 1}, "x" * 513, 2**64)
    with FaultyServer() as server:
        serve(server, [event({"id": each, "method": "ping"}) for each in odd], reply=ACCEPTED)
        assert called(server).value == "done"
    assert replies_of(server) == []


@pytest.mark.fault("F-32ca")
def test_a_newer_server_that_asks_within_its_stream_is_read_on() -> None:
    with FaultyServer() as server:
        serve(server, [event({"id": 1, **asked}) for _, asked in ASKED], reply=ACCEPTED)
        assert called(server, MODERN).value == "done"
    assert replies_of(server) == []


@pytest.mark.fault("F-32ca")
def test_a_flood_of_requests_costs_few_connections_and_no_result() -> None:
    with FaultyServer() as server:
        serve(server, [event({"id": 1, "method": "ping"}) * 1_000] * 5, reply=silent)
        assert called(server).value == "done"
        assert len(replies_of(server)) < 10 < MAX_REPLIES


@pytest.mark.fault("F-32ca")
@pytest.mark.parametrize("how", ["cancelled", "out of time"])
def test_no_reply_outlives_a_call_that_is_given_up(how: str) -> None:
    async def given_up(client: Any, at: McpEndpoint) -> None:
        calling = asyncio.create_task(client.call(at, TOOL, {}, version=HANDSHAKE[0]))
        if how == "cancelled":
            await asyncio.to_thread(replied.wait, 5)
            calling.cancel()
        with pytest.raises(asyncio.CancelledError if how == "cancelled" else McpFailed):
            await calling
        assert asyncio.all_tasks() == {asyncio.current_task()}

    replied = threading.Event()

    def never(wire: Wire) -> None:
        replied.set()
        silent(wire)

    with FaultyServer() as server:
        serve(server, [event({"id": 1, "method": "ping"})], reply=never, waits_for=9)
        ask(server.url, given_up, timeout_s=0.5 if how == "out of time" else 5)


OTHERS: Sequence[tuple[str, bytes]] = [
    ("an object", b"event: ping\ndata: {}\n\n"),
    ("a text", b"event: ping\ndata: 2026-01-01 00:00:00\n\n"),
    ("nothing", b"event: ping\ndata:\n\n"),
    ("no data", b"event: keepalive\n\n"),
    ("lines", b"event:heartbeat\r\ndata: a\r\ndata: b\r\n\r\n"),
    ("an answer of nobody's", event({"result": {"content": []}}, b"event: other")),
    ("half of JSON", b'event: endpoint\ndata: {"a":\n\n'),
    ("a wish for the next time", b"retry: 100\n\n"),
]


@pytest.mark.fault("F-32ch")
@pytest.mark.parametrize("version", [MODERN, HANDSHAKE[0]])
@pytest.mark.parametrize("other", [each for _, each in OTHERS], ids=[name for name, _ in OTHERS])
def test_events_of_other_kinds_are_none_of_the_answer(other: bytes, version: str) -> None:
    with FaultyServer() as server:
        serve(server, [other, event({"method": "x"}, b"event: message"), other], reply=ACCEPTED)
        assert called(server, version).value == "done"


@pytest.mark.fault("F-32ch")
@pytest.mark.parametrize("version", [MODERN, HANDSHAKE[0]])
def test_an_id_that_comes_back_as_a_text_is_the_same(version: str) -> None:
    with FaultyServer() as server:
        # The handshake's request and its notification count first.
        serve(server, [], reply=ACCEPTED, id="1" if version == MODERN else "3")
        assert called(server, version).value == "done"
        others: Sequence[object] = (99, "99", {})
        for other in others:
            serve(server, [], reply=ACCEPTED, id=other)
            with pytest.raises(McpFailed) as failed:
                called(server, version)
            assert failed.value.code is McpErrorCode.UNREACHABLE


@pytest.mark.fault("F-32ce")
@pytest.mark.parametrize("version", [MODERN, HANDSHAKE[0]])
@pytest.mark.parametrize(
    "said",
    [{"resultType": "task", "content": []}, {"task": {"taskId": "x"}}, {"resultType": "later"}, {"resultType": 7}],
    ids=["a task", "a task of before", "an unknown type", "no type"],
)
def test_a_result_that_is_none_yet_is_no_silent_success(said: dict[str, Any], version: str) -> None:
    with FaultyServer() as server:
        serve(server, [], reply=ACCEPTED, result={"resultType": "complete", **said})
        with pytest.raises(McpFailed) as failed:
            called(server, version)
    assert failed.value.code is McpErrorCode.BAD_ANSWER
    assert ("task" in failed.value.message) == ("task" in str(said))

"""Servers that are hostile or broken: a stable code, in bounded time and memory, and no address of ours."""

from __future__ import annotations

import asyncio
import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from karma.core.clock import monotonic
from karma.integrations.guard import is_public
from karma.integrations.mcp import McpClient
from karma.mcp.domain import HANDSHAKE, MODERN, Listing, McpEndpoint, McpErrorCode, McpFailed, RemoteTool
from karma.mcp.ports import McpInputNeeded
from tests.support.faulty_server import CUT, END, RESET, Behaviour, FaultyServer, Wire, endless, hang_up, status, stream

TIMEOUT_S = 10.0
"""Patience where the server is quick, though the machine may be slow."""
IMPATIENT_S = 0.5
TOOL = RemoteTool(name="t", description="", schema={"type": "object"}, is_repeatable=True)


def result(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete", **members}}).encode()


def answer(body: bytes, code: int = 200, **headers: str) -> Behaviour:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return status(code, told, body)


def huge(wire: Wire) -> None:
    wire.head(200, {"content-type": "application/json"})
    for _ in range(100):
        wire.send(b" " * 1_000_000)
        if wire.closing.is_set():
            return


def slowly(wire: Wire) -> None:
    wire.head(200, {"content-type": "application/json"})
    while not wire.closing.wait(0.05):
        wire.send(b" ")


def silent(wire: Wire) -> None:
    wire.wait_until_left()


FAULTS: Sequence[tuple[str, Behaviour, McpErrorCode]] = [
    ("no HTTP", lambda wire: wire.send(b"\x16\x03\x01garbage\r\n\r\n"), McpErrorCode.BAD_ANSWER),
    ("no answer", hang_up, McpErrorCode.UNREACHABLE),
    ("reset", RESET, McpErrorCode.UNREACHABLE),
    ("no JSON", answer(b"<html>"), McpErrorCode.BAD_ANSWER),
    ("a list", answer(b"[]"), McpErrorCode.BAD_ANSWER),
    ("no result", answer(b'{"jsonrpc":"2.0","id":1}'), McpErrorCode.BAD_ANSWER),
    ("too deep", answer(b'{"result":' + b"[" * 900 + b"]" * 900 + b"}"), McpErrorCode.BAD_ANSWER),
    ("no such content", answer(result(tools=[]), content_type="text/plain"), McpErrorCode.BAD_ANSWER),
    ("compressed", answer(b"x", content_encoding="gzip"), McpErrorCode.BAD_ANSWER),
    ("an error of its own", answer(b'{"id":1,"error":{"code":-32603,"message":"m"}}'), McpErrorCode.FAILED),
    ("an error without a code", answer(b'{"id":1,"error":{"message":7}}'), McpErrorCode.FAILED),
    ("a status alone", answer(b"", 500), McpErrorCode.BAD_ANSWER),
    ("overloaded", answer(b"", 503), McpErrorCode.UNREACHABLE),
    ("forbidden", answer(b"", 403), McpErrorCode.UNAUTHORIZED),
    ("redirect to loopback", answer(b"", 307, location="http://127.0.0.1:9001/2018-06-01"), McpErrorCode.REDIRECTED),
    ("100 MB", huge, McpErrorCode.TOO_LARGE),
    ("100 MB in one event", endless(itertools.repeat(b"data: " + b"x" * 100_000, 1000)), McpErrorCode.TOO_LARGE),
    ("events without end", endless(itertools.repeat(b'data: {"method":"m"}\n\n' * 4_000)), McpErrorCode.TOO_LARGE),
    ("silence", silent, McpErrorCode.TIMED_OUT),
    ("byte by byte", slowly, McpErrorCode.TIMED_OUT),
    ("a stream without an answer", stream(b": ping\n\n"), McpErrorCode.UNREACHABLE),
    ("a stream that breaks", stream(b"data: {", end=CUT), McpErrorCode.UNREACHABLE),
    ("a stream of garbage", stream(b"data: nonsense\n\n"), McpErrorCode.BAD_ANSWER),
    (
        "a question in the stream, and no answer",
        stream(b'data: {"id":9,"method":"elicitation/create","params":{"message":"Who?"}}\n\n'),
        McpErrorCode.UNREACHABLE,
    ),
    ("input required", answer(result(resultType="input_required")), McpErrorCode.INPUT_REQUIRED),
]


def elicited(schema: object = None, **params: Any) -> dict[str, Any]:
    """Make a request for a form, a plain one where `schema` is None."""
    plain = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    asked = {"message": "Sure?", "requestedSchema": plain if schema is None else schema, **params}
    return {"method": "elicitation/create", "params": asked}


def formed(**fields: Any) -> dict[str, Any]:
    return elicited({"type": "object", "properties": fields})


def required(*asked: Any, state: object = "s", **named: Any) -> Behaviour:
    """Answer that input is required."""
    requests = {f"r{n}": each for n, each in enumerate(asked)} | named
    return answer(result(resultType="input_required", inputRequests=requests, requestState=state))


UNANSWERABLE: Sequence[tuple[str, Behaviour]] = [
    ("neither forms nor a state", answer(result(resultType="input_required"))),
    ("requests of no kind", answer(result(resultType="input_required", inputRequests=[1], requestState="s"))),
    ("a state that is no text", required(elicited(), state={"a": 1})),
    ("a state of more than 64 KB", required(elicited(), state="x" * 65_537)),
    ("a model's words", required({"method": "sampling/createMessage", "params": {}})),
    ("files", required({"method": "roots/list"})),
    ("a form and a model's words", required(elicited(), {"method": "sampling/createMessage", "params": {}})),
    ("an address", required(elicited(mode="url", url="https://example.com/pay"))),
    ("nine forms", required(*[elicited()] * 9)),
    ("a long name", required(**{"x" * 257: elicited()})),
    ("no name", required(**{"": elicited()})),
    ("no form", required("sure?")),
    ("a form without parameters", required({"method": "elicitation/create"})),
    ("a schema that is none", required(elicited("text"))),
    ("a schema of a list", required(elicited({"type": "array"}))),
    ("fields that are none", required(elicited({"type": "object", "properties": {"a": True}}))),
    ("a required field that is none", required(elicited({"type": "object", "properties": {}, "required": ["a"]}))),
    ("required is no list of names", required(elicited({"type": "object", "properties": {}, "required": [{}]}))),
    ("65 fields", required(formed(**{f"f{n}": {"type": "string"} for n in range(65)}))),
    ("a reference", required(formed(a={"$ref": "#/properties/a"}))),
    ("nine levels", required(formed(a={"anyOf": [{"anyOf": [{"anyOf": [{"type": "string"}]}]}]}))),
    ("17 KB", required(formed(a={"type": "string", "description": "x" * 17_000}))),
]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as served:
        yield served


def ask(url: str, act: Callable[[McpClient, McpEndpoint], Any], *, timeout_s: float = TIMEOUT_S, **more: Any) -> Any:
    async def asked() -> Any:
        client = McpClient(**{"is_allowed": lambda _: True, **more})
        try:
            return await act(client, McpEndpoint(url=url, headers={"x-key": "kcanary"}, timeout_s=timeout_s))
        finally:
            await client.close()

    return asyncio.run(asked())


def call(client: McpClient, endpoint: McpEndpoint) -> Any:
    return client.call(endpoint, TOOL, {}, version=MODERN)


def list_tools(client: McpClient, endpoint: McpEndpoint) -> Any:
    return client.list_tools(endpoint, server="s")


@pytest.mark.parametrize("act", [call, list_tools])
@pytest.mark.parametrize(("fault", "code"), [pytest.param(b, c, id=name) for name, b, c in FAULTS])
def test_each_fault_has_its_code_in_bounded_time_and_memory(
    server: FaultyServer, fault: Behaviour, code: McpErrorCode, act: Callable[..., Any], caplog: Any
) -> None:
    server.next(fault, fault)  # what a server from before might be asked besides
    tracemalloc.start()
    began = monotonic()
    try:
        with pytest.raises(McpFailed) as failed:
            ask(f"{server.url}/mcp", act, timeout_s=IMPATIENT_S if code is McpErrorCode.TIMED_OUT else TIMEOUT_S)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert failed.value.code is code
    assert monotonic() - began < TIMEOUT_S + 2
    assert peak < 24_000_000
    shown = failed.value.message + caplog.text
    assert "kcanary" not in shown
    assert "127.0.0.1" not in shown


PLACE = b"id: 7\nretry: 100\ndata: \n\n"
ANSWER = stream(b'id: 8\ndata: {"result":{"content":[{"type":"text","text":"done"}]}}\n\n')


def called_in_session(server: FaultyServer, *answers: Behaviour, timeout_s: float = TIMEOUT_S) -> Any:
    """Call a tool of a server from before that keeps sessions; `answers` are those to the call and what follows."""
    hello = json.dumps({"id": 1, "result": {"protocolVersion": HANDSHAKE[0]}}).encode()
    server.next(answer(hello, mcp_session_id="s"), answer(b"", 202), *answers)

    def call_before(client: McpClient, endpoint: McpEndpoint) -> Any:
        return client.call(endpoint, TOOL, {}, version=HANDSHAKE[0])

    return ask(server.url, call_before, timeout_s=timeout_s)


@pytest.mark.fault("F-29i")
@pytest.mark.parametrize("end", [END, CUT, RESET], ids=["left", "cut", "reset"])
def test_a_stream_that_named_its_place_is_taken_up_however_it_ends(server: FaultyServer, end: Behaviour) -> None:
    unnamed = b': ping\n\ndata: {"method":"notifications/progress"}\n\n'
    left = stream(PLACE, unnamed, end=end)
    assert called_in_session(server, left, stream(b"id: 9\n\n"), ANSWER).value == "done"
    assert [each.get("last-event-id") for each in server.headers] == [None, None, None, "7", "9"]
    assert [each["mcp-session-id"] for each in server.headers[1:]] == ["s"] * 4
    assert [each and each["method"] for each in server.requests[2:]] == ["tools/call", None, None]


@pytest.mark.fault("F-29i")
@pytest.mark.parametrize("code", [400, 404, 405, 500])
def test_a_stream_that_cannot_be_taken_up_makes_no_second_call(server: FaultyServer, code: int) -> None:
    with pytest.raises(McpFailed) as failed:
        called_in_session(server, stream(PLACE), answer(b"", code))
    assert failed.value.code is McpErrorCode.UNREACHABLE
    assert len(server.requests) == 4


@pytest.mark.fault("F-29i")
def test_a_stream_is_taken_up_once_its_server_is_back(server: FaultyServer) -> None:
    away = [answer(b"", code) for code in (503, 429, 502)]
    assert called_in_session(server, stream(PLACE), *away, ANSWER).value == "done"
    with pytest.raises(McpFailed) as failed:
        called_in_session(server, stream(PLACE), *[answer(b"", 503)] * 9)
    assert failed.value.code is McpErrorCode.UNREACHABLE
    assert len(server.requests) == 7 + 7, "it is asked four times"
    assert [each["method"] for each in server.requests if each].count("tools/call") == 2


@pytest.mark.fault("F-29ae")
@pytest.mark.parametrize("reaction", [silent, hang_up, RESET, answer(b"", 500), answer(b"", 401)])
def test_a_server_that_does_not_hear_of_the_end_of_a_call_delays_nobody_for_long(
    server: FaultyServer, reaction: Behaviour
) -> None:
    began = monotonic()
    with pytest.raises(McpFailed) as failed:
        called_in_session(server, silent, reaction, timeout_s=IMPATIENT_S)
    assert failed.value.code is McpErrorCode.TIMED_OUT
    assert monotonic() - began < IMPATIENT_S + 5
    *_, call_, told = server.requests
    assert (told["method"], told["params"]["requestId"]) == ("notifications/cancelled", call_["id"])
    assert "id" not in told
    assert server.headers[-1]["mcp-session-id"] == "s"


@pytest.mark.parametrize("place", [b"id: \xc3\xa4", b"id: a\tb", b"id: " + b"x" * 600, b"retry: 100"])
def test_a_place_that_no_header_can_name_is_none(server: FaultyServer, place: bytes) -> None:
    with pytest.raises(McpFailed) as failed:
        called_in_session(server, stream(place + b"\ndata:\n\n"))
    assert failed.value.code is McpErrorCode.UNREACHABLE
    assert len(server.requests) == 3


def listed(server: FaultyServer, *pages: bytes) -> Listing:
    server.next(*map(answer, pages))
    found: Listing = ask(server.url, list_tools)
    return found


def tool(name: object = "t", **more: Any) -> dict[str, Any]:
    return {"name": name, "description": "d", "inputSchema": {"type": "object"}, **more}


def test_pages_are_read_to_the_end_and_the_shortest_life_counts(server: FaultyServer) -> None:
    found = listed(
        server,
        result(tools=[tool("a")], nextCursor="2", ttlMs=90_000),
        result(tools=[tool("b")], nextCursor="", ttlMs=70_000),
        result(tools=[tool("c")]),
    )
    assert [each.name for each in found.tools] == ["a", "b", "c"]
    assert found.fresh_ms == 70_000
    assert [each["params"].get("cursor") for each in server.requests] == [None, "2", ""]


@pytest.mark.parametrize(
    ("page", "code"),
    [
        (result(tools=[], nextCursor="again"), McpErrorCode.BAD_ANSWER),
        (result(tools=[], nextCursor=1), McpErrorCode.BAD_ANSWER),
        (result(tools={}), McpErrorCode.BAD_ANSWER),
        (result(tools=[tool(f"t{n}") for n in range(1_001)]), McpErrorCode.TOO_LARGE),
    ],
)
def test_lists_without_an_end_are_refused(server: FaultyServer, page: bytes, code: McpErrorCode) -> None:
    with pytest.raises(McpFailed) as failed:
        listed(server, *[page] * 40)
    assert failed.value.code is code
    assert len(server.requests) <= 20


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "fd00:ec2::254", "::ffff:10.0.0.1"]
)
@pytest.mark.parametrize("others", [[], ["203.0.112.1"]])
def test_a_name_that_leads_inside_is_refused_before_anything_is_sent(
    server: FaultyServer, address: str, others: list[str]
) -> None:
    async def resolve(_: str, __: int) -> list[str]:
        return [*others, address]

    async def inside(client: McpClient, endpoint: McpEndpoint) -> None:
        await client.list_tools(endpoint, server="s")

    with pytest.raises(McpFailed) as failed:
        ask(server.url.replace("127.0.0.1", "mcp.example.com"), inside, is_allowed=is_public, resolve=resolve)
    assert failed.value.code is McpErrorCode.ADDRESS_REFUSED
    assert server.requests == []


def test_a_connection_goes_to_the_address_that_was_checked(server: FaultyServer) -> None:
    """A name whose answer changes between check and connection (rebinding) changes nothing: it is asked for once."""
    answers = iter([["127.0.0.1"]])

    async def resolve(_: str, __: int) -> list[str]:
        return next(answers, ["169.254.169.254"])

    server.next(answer(result(tools=[tool()])))
    found = ask(server.url.replace("127.0.0.1", "mcp.example.com"), list_tools, resolve=resolve)
    assert [each.name for each in found.tools] == ["t"]
    assert server.headers[0]["host"].startswith("mcp.example.com:")


@pytest.mark.parametrize(("name", "behaviour"), UNANSWERABLE, ids=[name for name, _ in UNANSWERABLE])
def test_what_cannot_be_asked_of_anybody_fails_the_call(server: FaultyServer, name: str, behaviour: Behaviour) -> None:
    server.next(behaviour)
    with pytest.raises(McpFailed) as failed:
        ask(server.url, call)
    assert (failed.value.code, isinstance(failed.value, McpInputNeeded)) == (McpErrorCode.INPUT_REQUIRED, False), name
    assert len(failed.value.message) < 700


def test_what_can_be_asked_is_told_in_its_bounds(server: FaultyServer) -> None:
    schema = {"$schema": "x", "type": "object", "title": "T", "properties": {"ok": {"type": "boolean"}}, "more": 1}
    server.next(required(elicited(schema, message="m" * 5_000), state="x" * 65_536))
    with pytest.raises(McpInputNeeded) as needed:
        ask(server.url, call)
    form = needed.value.forms["r0"]
    assert form.message == "m" * 500
    assert form.schema == {"title": "T", "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": []}
    assert needed.value.state == "x" * 65_536


def test_who_only_wants_to_be_called_again_is(server: FaultyServer) -> None:
    server.next(answer(result(resultType="input_required", requestState="s")))
    with pytest.raises(McpInputNeeded) as needed:
        ask(server.url, call)
    assert (needed.value.forms, needed.value.state) == ({}, "s")

"""Answers to a server that asks for input, request by request, and the end after enough of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from karma.core.clock import SystemClock
from karma.core.ids import RunId, UserId, new_id
from karma.integrations.mcp import McpClient
from karma.mcp.domain import HANDSHAKE, MODERN, RemoteTool
from karma.mcp.offering import McpTools, OfferedTool
from karma.mcp.secrets import Endpoints
from karma.tools.domain import GivenInput
from karma.tools.failures import ToolFailed
from karma.tools.inputs import MAX_ROUNDS, InputRequired
from karma.tools.toolbox import SharedState, ToolContext
from tests.contract.mcp.test_faults import answer, elicited, required, result
from tests.contract.stores.test_mcp import server as stored_server
from tests.fakes.mcp import MemoryMcpServers, OpenSeal
from tests.fakes.runs import caller
from tests.support.faulty_server import Behaviour, FaultyServer

TOOL = RemoteTool(name="t", description="", schema={"type": "object"}, is_repeatable=True)
DONE = answer(result(content=[{"type": "text", "text": "done"}]))
ONLY_STATE = answer(result(resultType="input_required", requestState="later"))
ANSWERS = {"r0": {"action": "accept", "content": {"ok": True}}}


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as served:
        yield served


def call(server: FaultyServer, *behaviours: Behaviour, given: GivenInput | None, version: str = MODERN) -> object:
    """Call the server's tool as a run does."""
    server.next(*behaviours)
    user = UserId(new_id())
    store, endpoints = MemoryMcpServers(), Endpoints(OpenSeal())
    of = replace(stored_server(1, user=user), url=server.url)
    store.servers[of.id] = replace(of, sealed=endpoints.sealed(user, of.id, {}))

    async def called() -> object:
        client = McpClient(is_allowed=lambda _: True)
        tools = McpTools(store, lambda: client, lambda: endpoints, SystemClock())
        offered = OfferedTool(server_id=of.id, server_name="w", version=version, timeout_s=10, tool=TOOL)
        context = ToolContext(caller(user_id=user), RunId(new_id()), "c1", {}, SharedState({}), given)
        try:
            return await tools.tools([offered], thread_id="t")[0].run({"a": 1}, context)
        finally:
            await client.close()

    return asyncio.run(called())


def told(server: FaultyServer, nth: int) -> dict[str, Any]:
    """Return what a request says beside its revision and its client."""
    params = dict(server.requests[nth]["params"])
    meta = params.pop("_meta")
    return {**params, "can": meta["io.modelcontextprotocol/clientCapabilities"]}


def test_an_answer_goes_with_the_same_call_and_the_server_s_state(server: FaultyServer) -> None:
    with pytest.raises(InputRequired) as asked:
        call(server, required(elicited(), state="opaque"), given=GivenInput())
    request = asked.value.request
    assert (request.message, list(request.forms), request.kept) == ("w__t asks: Sure?", ["r0"], {"state": "opaque"})

    given = GivenInput(rounds=1, kept=request.kept, answers=ANSWERS)
    assert call(server, DONE, given=given) == "done"

    plain = {"name": "t", "arguments": {"a": 1}, "can": {"elicitation": {"form": {}}}}
    assert told(server, 0) == plain
    assert told(server, 1) == {**plain, "inputResponses": ANSWERS, "requestState": "opaque"}


def test_a_server_without_a_state_is_told_none(server: FaultyServer) -> None:
    with pytest.raises(InputRequired) as asked:
        call(server, required(elicited(), state=None), given=GivenInput())
    call(server, DONE, given=GivenInput(rounds=1, kept=asked.value.request.kept, answers=ANSWERS))
    assert "requestState" not in told(server, 1)


def test_who_cannot_be_asked_is_not_promised(server: FaultyServer) -> None:
    with pytest.raises(ToolFailed, match=r"cannot be given here: Sure\? \(MCP_INPUT_REQUIRED\)"):
        call(server, required(elicited()), given=None)
    assert told(server, 0)["can"] == {}


def test_the_schema_of_the_call_s_headers_may_change_in_between(server: FaultyServer) -> None:
    mismatch = answer(json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": -32020, "message": "m"}}).encode(), 400)
    given = GivenInput(rounds=1, kept={"state": "opaque"}, answers=ANSWERS)
    assert call(server, mismatch, answer(result(tools=[])), DONE, given=given) == "done"
    assert told(server, 2) == told(server, 0)
    assert told(server, 2)["inputResponses"] == ANSWERS


def test_a_server_that_wants_to_be_called_again_is_at_once_and_not_for_ever(server: FaultyServer) -> None:
    assert call(server, ONLY_STATE, ONLY_STATE, DONE, given=None) == "done"
    assert [told(server, n).get("requestState") for n in range(3)] == [None, "later", "later"]

    with pytest.raises(ToolFailed, match=f"{MAX_ROUNDS} times to be called again"):
        call(server, *[ONLY_STATE] * (MAX_ROUNDS + 1), given=GivenInput())
    assert len(server.requests) == 3 + MAX_ROUNDS


def test_a_server_asks_five_times_a_call(server: FaultyServer) -> None:
    for rounds in range(MAX_ROUNDS):
        with pytest.raises(InputRequired):
            call(server, required(elicited()), given=GivenInput(rounds=rounds, kept={"state": "s"}, answers=ANSWERS))
    with pytest.raises(ToolFailed, match="MCP_INPUT_REQUIRED"):
        call(server, required(elicited()), given=GivenInput(rounds=MAX_ROUNDS, kept={"state": "s"}, answers=ANSWERS))


def test_one_from_before_the_revision_that_says_so_is_not_asked_about(server: FaultyServer) -> None:
    hello = answer(result(protocolVersion=HANDSHAKE[0]))
    with pytest.raises(ToolFailed, match="MCP_INPUT_REQUIRED"):
        call(server, hello, answer(b"", 202), required(elicited()), given=GivenInput(), version=HANDSHAKE[0])
    assert "inputResponses" not in server.requests[-1]["params"]

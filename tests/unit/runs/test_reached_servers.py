"""Answers about calls of MCP servers that are away, or called otherwise, by the time somebody answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.conversations.domain import Json
from karma.core.ids import new_id
from karma.mcp.domain import (
    MODERN,
    RETRY_AFTER,
    Exposure,
    Listing,
    McpCheck,
    McpEndpoint,
    McpErrorCode,
    McpFailed,
    McpServer,
    McpServerId,
    RemoteTool,
)
from karma.mcp.offering import McpServerAway, McpTools
from karma.mcp.ports import CallInput, CallOutcome, McpInputNeeded
from karma.mcp.secrets import Endpoints
from karma.models.ports import StopReason
from karma.tools.domain import ToolApproval
from karma.tools.inputs import Form
from tests.contract.stores.test_mcp import server as stored_server
from tests.fakes.mcp import MemoryMcpServers, OpenSeal
from tests.fakes.runs import caller, ended, text, tool
from tests.support.run_world import World, spec, user
from tests.support.subagents import SubagentWorld
from tests.unit.runs.test_interrupts import ALWAYS, DONE, Approving
from tests.unit.runs.test_subagents import asks, lead, questions, results

pytestmark = pytest.mark.fault("F-29ad")

ORDER = RemoteTool(name="order", description="Order.", schema={"type": "object"}, is_repeatable=False)
OTHER = replace(ORDER, name="look")
LISTING = Listing(version=MODERN, tools=(ORDER,))
AWAY = McpFailed(McpErrorCode.UNREACHABLE, "The server cannot answer now (status 503)")
YES: dict[str, Any] = {"approved": True}
NOTHING_GIVEN = CallInput()
FORM: dict[str, Any] = {"sure": {"action": "accept", "content": {}}}
REFUSED: dict[str, Any] = {"approved": False}


class Shop:
    """A server of MCP that carries orders out, answers as a test says, and may ask before."""

    def __init__(self) -> None:
        self.found: Listing | McpFailed = LISTING
        self.asks = False
        self.lists = 0
        self.calls: list[str] = []

    async def list_tools(self, endpoint: McpEndpoint, *, server: str) -> Listing:
        self.lists += 1
        if isinstance(self.found, McpFailed):
            raise self.found
        return self.found

    async def call(
        self,
        endpoint: McpEndpoint,
        tool: RemoteTool,
        arguments: Json,
        *,
        version: str,
        given: CallInput = NOTHING_GIVEN,
        **_: Any,
    ) -> CallOutcome:
        if self.asks and given.answers is None:
            form = Form(message="Sure?", schema={"type": "object", "properties": {}})
            raise McpInputNeeded("asks", forms={"sure": form}, state="s")
        self.calls.append(tool.name)
        return CallOutcome("ordered", is_error=False)


def serve(world: World, shop: Shop, agent_id: str, *, approvals: bool = True) -> MemoryMcpServers:
    store = MemoryMcpServers()
    rules = (ToolApproval(tool="*", rule=ALWAYS),) if approvals else ()
    now = world.clock.now()
    kept = replace(
        stored_server(1, user=caller().user_id),
        name="w",
        exposures=(Exposure(agent=agent_id, approvals=rules),),
        listing=LISTING,
        listed_at=now,
        health=McpCheck(checked_at=now),
    )
    store.servers[kept.id] = kept
    world.mcp = McpTools(store, lambda: shop, lambda: Endpoints(OpenSeal()), world.clock)
    return store


CALL = [*tool("c1", "w__order", '{"item":"tea"}'), *ended(StopReason.TOOL_USE)]


class Ordering(Approving):
    """A world that has asked about a call of a server."""

    def __init__(self, *, form: bool = False) -> None:
        super().__init__(CALL, DONE)
        self.agent = self.agents.create(spec(name="orders"))
        self.shop = Shop()
        self.shop.asks = form
        self.servers = serve(self, self.shop, self.agent.id, approvals=not form)
        self.payload = FORM if form else YES
        assert self.run(self.ask(user("go", "u1"), run="r1"))[-1]["outcome"]["type"] == "interrupt"
        self.shop.lists = 0

    @property
    def server(self) -> McpServer:
        (server,) = self.servers.servers.values()
        return server

    def change(self, **members: Any) -> None:
        self.servers.servers[self.server.id] = replace(self.server, **members)

    def grow_old(self) -> None:
        self.clock.at += timedelta(minutes=6)

    def answer(self, payload: Any = None, **more: Any) -> list[dict[str, Any]]:
        return self.run(self.ask(run=new_id(), resume={"r1/1": payload or self.payload}, **more))

    def pause(self) -> None:
        failures = 9
        self.change(
            health=McpCheck(checked_at=self.clock.now(), error=AWAY.code, message=AWAY.message, failures=failures)
        )


@pytest.fixture(params=[False, True], ids=["approval", "form"])
def world(request: pytest.FixtureRequest) -> Ordering:
    return Ordering(form=request.param)


def old_and_away(world: Ordering) -> None:
    world.grow_old()
    world.shop.found = AWAY


def paused_and_away(world: Ordering) -> None:
    world.pause()
    world.shop.found = AWAY


def just_died(world: Ordering) -> None:
    world.clock.at += timedelta(seconds=11)
    world.shop.found = AWAY


def died_in_a_call(world: Ordering) -> None:
    world.change(is_outdated=True)
    world.shop.found = AWAY


@pytest.mark.fault("F-32cc")
@pytest.mark.parametrize(
    "happens",
    [old_and_away, paused_and_away, just_died, died_in_a_call],
    ids=["old listing", "in its pause", "young listing", "marked listing"],
)
def test_a_server_that_is_away_spends_no_answer(world: Ordering, happens: Callable[[Ordering], None]) -> None:
    happens(world)
    for n in (1, 2):
        with pytest.raises(McpServerAway) as refused:
            world.answer()
        assert world.shop.lists == n
        told = refused.value
        assert (told.status, told.code, told.retryable, told.headers["Retry-After"]) == (
            409,
            "MCP_SERVER_AWAY",
            True,
            "10",
        )
        assert told.details == {"server_id": world.server.id, "reason": "MCP_UNREACHABLE"}
        assert world.thread().interrupts == ("r1/1",)
    world.shop.found = LISTING
    world.answer()
    assert world.shop.calls == ["order"]
    assert world.results() == ["ordered"]


@pytest.mark.fault("F-32cc")
@pytest.mark.parametrize(("age_s", "lists"), [(0, 0), (9, 0), (10, 1), (59, 1)])
def test_a_server_that_has_just_answered_is_not_asked_again(world: Ordering, age_s: int, lists: int) -> None:
    world.clock.at += timedelta(seconds=age_s)
    world.answer()
    assert (world.shop.calls, world.shop.lists) == (["order"], lists)


def test_a_server_in_its_pause_that_answers_again_is_called(world: Ordering) -> None:
    world.pause()
    world.answer()
    assert (world.shop.calls, world.shop.lists) == (["order"], 1)
    assert world.server.health.error is None


def test_a_server_of_another_name_is_called_as_it_was_asked_about(world: Ordering) -> None:
    world.change(name="v")
    world.answer()
    assert (world.shop.calls, world.shop.lists) == (["order"], 0)
    assert [each.name for each in world.model.requests[-1].tools] == ["v__order", "w__order"]


def test_a_server_whose_list_alone_is_broken_is_called_by_the_stored_one(world: Ordering) -> None:
    world.grow_old()
    world.shop.found = McpFailed(McpErrorCode.BAD_ANSWER, "no list")
    world.answer()
    assert world.shop.calls == ["order"]


def test_who_refuses_needs_no_server() -> None:
    world = Ordering()
    paused_and_away(world)
    world.answer(REFUSED)
    assert (world.shop.calls, world.shop.lists) == ([], 0)


def gone(world: Ordering) -> None:
    world.servers.servers.clear()


def without_the_tool(world: Ordering) -> None:
    world.grow_old()
    world.shop.found = Listing(version=MODERN, tools=(OTHER,))


def not_for_the_agent(world: Ordering) -> None:
    world.change(name="v", exposures=(Exposure(agent=world.agent.id, tools=("look",)),))


@pytest.mark.parametrize("happens", [gone, without_the_tool, not_for_the_agent], ids=["deleted", "gone", "not allowed"])
def test_what_is_really_gone_is_told_to_the_model(happens: Callable[[Ordering], None]) -> None:
    world = Ordering()
    happens(world)
    world.answer()
    (result,) = world.results()
    assert "Unknown tool: w__order" in result
    assert world.shop.calls == []
    assert world.thread().interrupts == ()


def test_a_name_that_another_server_has_by_now_is_not_called() -> None:
    world = Ordering()
    named = world.server
    world.change(name="v")
    other = replace(named, id=McpServerId(new_id()), exposures=(Exposure(agent=world.agent.id),))
    world.servers.servers[other.id] = other
    world.answer()
    assert world.shop.calls == []
    assert "Another server" in world.results()[0]


def test_a_call_of_the_same_tool_behind_the_answer_is_asked_about_under_either_name() -> None:
    world = Ordering()
    world.change(name="v")
    again = [*tool("c2", "w__order", "{}"), *tool("c3", "v__order", "{}"), *ended(StopReason.TOOL_USE)]
    world.model.turns[:] = [again]
    last = world.answer()
    assert world.shop.calls == ["order"]
    assert [each["toolCallId"] for each in last[-1]["outcome"]["interrupts"]] == ["c2", "c3"]


@pytest.mark.parametrize("renamed", [False, True])
def test_a_subagent_s_call_is_made_once_its_server_answers(renamed: bool) -> None:
    world, shop = SubagentWorld(), Shop()
    scout = world.agent("scout")
    world.agent("lead", "scout")
    servers = serve(world, shop, scout.id)
    world.script("lead", [*asks("scout"), *ended()], DONE)
    world.script("scout", CALL, [*text("It is there."), *ended()])
    (question,) = questions(world.run(lead(user("go", "u1"))))
    (server,) = servers.servers.values()
    if renamed:
        servers.servers[server.id] = replace(server, name="v")
    else:
        world.clock.at += timedelta(minutes=6) + RETRY_AFTER
        shop.found = AWAY
        with pytest.raises(McpServerAway):
            world.run(lead(run="r2", resume={question["id"]: YES}))
        assert world.thread().interrupts == (question["id"],)
        shop.found = LISTING
    world.run(lead(run="r3", resume={question["id"]: YES}))
    assert shop.calls == ["order"]
    assert results(world) == [("It is there.", False)]

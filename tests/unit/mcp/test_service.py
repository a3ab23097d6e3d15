"""Use cases of MCP servers on fakes: what is stored, what is refused, and what two that act at once do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from karma.core.errors import AlreadyExists, Gone, NotFound, StaleVersion, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.identity.transactional import AccountGone
from karma.integrations.kms import SealBroken
from karma.integrations.mcp import McpClient
from karma.mcp.domain import (
    DEFAULT_FRESH,
    LONGEST_RETRY,
    MAX_SERVERS,
    MAX_TIMEOUT_S,
    MODERN,
    RETRY_AFTER,
    Exposure,
    Listing,
    McpEndpoint,
    McpErrorCode,
    McpFailed,
    McpServer,
)
from karma.mcp.offering import McpTools
from karma.mcp.ports import CallOutcome, Directory
from karma.mcp.secrets import Endpoints
from karma.mcp.service import LIST_S, McpServerService, McpServerUnusable, NewMcpServer, TooManyMcpServers
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from tests.contract.stores.test_mcp import TOOL
from tests.fakes.identity import MovableClock
from tests.fakes.mcp import MemoryMcpServers, OpenSeal, ToldTools
from tests.fakes.runs import caller
from tests.support.requests import key

USER = UserId(new_id())
SECRET = {"Authorization": "Bearer kcanary"}
LISTING = Listing(version=MODERN, tools=(TOOL,))


class World:
    def __init__(self) -> None:
        self.store, self.told, self.clock = MemoryMcpServers(), ToldTools(LISTING), MovableClock()
        self.endpoints = Endpoints(OpenSeal())
        self.waiting: list[UserId] = []
        """Accounts whose requests have waited for a server."""
        self.service = McpServerService(
            self.store, self.told, self.endpoints, self.clock, agent_id_of=self.agent_id_of, held=self.held
        )

    @contextmanager
    def held(self, user_id: UserId) -> Iterator[None]:
        self.waiting.append(user_id)
        yield

    def agent_id_of(self, ref: str) -> str:
        if ref not in {"karma", "a1", "driver"}:
            raise NotFound("no such agent")
        return "a1" if ref == "driver" else ref

    def create(self, name: str = "s", *, user: UserId = USER, again: str = "", **more: Any) -> McpServer:
        wanted = {"url": "https://mcp.example.com", "headers": SECRET, "exposures": (Exposure(),), "timeout_s": 5}
        return self.service.create(
            user,
            NewMcpServer(name=name, max_result_bytes=1_024, **{**wanted, **more}),
            idempotency_key=key(again) if again else None,
        )


@pytest.fixture
def world() -> World:
    return World()


def test_headers_are_sealed_for_one_server_of_one_account(world: World) -> None:
    one, other = world.create("a"), world.create("b", user=UserId(new_id()))
    assert "kcanary" not in repr(one)
    assert world.endpoints.of(one).headers == SECRET
    for moved in (replace(one, user_id=other.user_id), replace(one, id=other.id)):
        with pytest.raises(SealBroken):
            world.endpoints.of(moved)


def test_names_are_unique_and_servers_are_few(world: World) -> None:
    made = [world.create(f"s{n}") for n in range(MAX_SERVERS)]
    asked = len(world.told.asked)
    with pytest.raises(AlreadyExists):
        world.create("s1")
    with pytest.raises(TooManyMcpServers):
        world.create("more")
    assert len(world.told.asked) == asked, "nobody is connected to for what is refused anyhow"
    world.service.delete(USER, made[1].id)
    world.create("s1")
    assert len(world.service.all(USER)) == MAX_SERVERS


def test_one_is_made_for_a_request_and_a_repeat_asks_nobody(world: World) -> None:
    made = world.create(again="t")
    world.told.found = McpFailed(McpErrorCode.UNREACHABLE, "away")
    assert world.create(again="t") == made
    world.service.delete(USER, made.id)
    with pytest.raises(Gone):
        world.create(again="t")


def test_what_cannot_be_asked_or_is_not_offered_is_not_kept(world: World) -> None:
    with pytest.raises(ValidationFailed):
        world.create(exposures=(Exposure(tools=("t", "other")),))
    with pytest.raises(ValidationFailed):
        world.create(url="http://127.0.0.1/")
    world.told.found = McpFailed(McpErrorCode.UNAUTHORIZED, "no")
    with pytest.raises(McpServerUnusable) as refused:
        world.create()
    assert (refused.value.status, refused.value.code) == (422, "MCP_UNAUTHORIZED")
    world.told.found = LISTING
    world.store.deleted_accounts.add(USER)
    with pytest.raises(AccountGone):
        world.create()
    assert world.store.servers == {}


def test_an_old_listing_is_renewed_and_a_server_that_is_away_keeps_it(world: World) -> None:
    made = world.create()
    asked = len(world.told.asked)
    assert world.service.look(USER, made.id) == made
    assert len(world.told.asked) == asked
    world.clock.pass_(hours=1)
    world.told.found = McpFailed(McpErrorCode.TIMED_OUT, "slow")
    away = world.service.look(USER, made.id)
    assert (away.health.error, away.listing) == (McpErrorCode.TIMED_OUT, LISTING)
    assert world.service.get(USER, made.id) == away
    world.told.found = Listing(version=MODERN, tools=())
    assert world.service.look(USER, made.id) == away, "it is left alone for a while"
    world.clock.pass_(minutes=1)
    assert world.service.look(USER, made.id).listing.tools == ()


class TestARefresh:
    def test_asks_however_new_the_listing_is_and_within_the_same_bounds(self, world: World) -> None:
        made = world.create(timeout_s=MAX_TIMEOUT_S)
        asked, waited = len(world.told.asked), len(world.waiting)
        world.told.found = Listing(version=MODERN, tools=())
        refreshed = world.service.refresh(USER, made.id)
        assert (len(world.told.asked), len(world.waiting)) == (asked + 1, waited + 1)
        assert (world.told.asked[-1].timeout_s, world.told.asked[-1].headers) == (LIST_S, SECRET)
        assert (refreshed.listing.tools, refreshed.version, refreshed.revision) == ((), 2, 1)
        assert world.service.get(USER, made.id) == refreshed

    def test_that_fails_keeps_the_tools_and_says_why(self, world: World) -> None:
        made = world.create()
        world.told.found = McpFailed(McpErrorCode.ADDRESS_REFUSED, "private")
        for failures in (1, 2):
            away = world.service.refresh(USER, made.id)
            assert (away.listing, away.listed_at) == (LISTING, made.listed_at)
            assert (away.health.error, away.health.failures) == (McpErrorCode.ADDRESS_REFUSED, failures)
        world.told.found = LISTING
        assert world.service.refresh(USER, made.id).health.error is None

    @pytest.mark.parametrize("between", ["a name", "a listing", "other headers", "its end"])
    def test_overwrites_nothing_that_came_while_it_asked(self, world: World, between: str) -> None:
        made = world.create()
        newer, older = Listing(version=MODERN, tools=()), LISTING

        def meanwhile() -> None:
            world.clock.pass_(seconds=1)
            world.told.found = newer
            if between == "a name":
                world.service.change(USER, made.id, {"name": "sky"})
            elif between == "a listing":
                world.clock.at += DEFAULT_FRESH
                world.service.look(USER, made.id)
            elif between == "other headers":
                world.service.change(USER, made.id, {"headers": {"Authorization": "Bearer other"}})
            else:
                world.service.delete(USER, made.id)

        world.told.found, world.told.meanwhile = older, meanwhile
        if between == "its end":
            with pytest.raises(NotFound):
                world.service.refresh(USER, made.id)
            assert world.store.servers == {}
            return
        refreshed = world.service.refresh(USER, made.id)
        assert world.service.get(USER, made.id) == refreshed
        assert refreshed.listing == (older if between == "a name" else newer)
        assert refreshed.name == ("sky" if between == "a name" else made.name)


@pytest.mark.parametrize("server_id", ["", "x", "01994b94-9b20-7e83-b6c4-d2e1f0a98765"])
def test_what_is_missing_is_not_found(world: World, server_id: str) -> None:
    other = world.create(user=UserId(new_id()))
    for missing in (server_id, other.id):
        for act in (world.service.get, world.service.look, world.service.refresh, world.service.delete):
            with pytest.raises(NotFound):
                act(USER, missing)


def test_agents_are_named_by_id_or_by_name_and_exist(world: World) -> None:
    assert [each.agent for each in world.create(exposures=(Exposure(agent="driver"), Exposure())).exposures] == [
        "a1",
        "karma",
    ]
    asked = len(world.told.asked)
    for wrong in ((Exposure(), Exposure(agent="nobody")), (Exposure(agent="a1"), Exposure(agent="driver"))):
        with pytest.raises(ValidationFailed) as caught:
            world.create("other", exposures=wrong)
        assert "agents.1.agent" in str(caught.value.details)
    assert len(world.told.asked) == asked, "a server is asked for nothing that is refused"


@pytest.mark.parametrize(
    ("exposures", "listing", "kept"),
    [
        ((Exposure(agent="a1"),), LISTING, True),
        ((Exposure(agent="a1", tools=(TOOL.name,)),), LISTING, True),
        ((Exposure(agent="a1", tools=()),), LISTING, False),
        ((Exposure(agent="karma"),), LISTING, False),
        ((Exposure(agent="a1"),), Listing(version=MODERN, tools=()), False),
        (None, LISTING, False),
    ],
    ids=["as before", "by name", "not this tool", "another agent", "not listed", "deleted"],
)
def test_a_run_from_an_earlier_one_has_the_tools_that_its_agent_may_use_still(
    world: World, exposures: tuple[Exposure, ...] | None, listing: Listing, kept: bool
) -> None:
    made = world.create(exposures=(Exposure(agent="a1"),))
    tools = McpTools(world.store, McpClient, lambda: world.endpoints, world.clock)
    of_then = asyncio.run(tools.offer([made], "a1")).tools
    assert [each.tool for each in of_then] == [TOOL]
    if exposures is None:
        world.service.delete(USER, made.id)
    else:
        world.store.servers[made.id] = replace(made, exposures=exposures, listing=listing)
    assert tools.still_offered(of_then, caller(user_id=USER), "a1") == (of_then if kept else ())
    if kept:
        rule = ApprovalRule(policy=ApprovalPolicy.ALWAYS)
        ruled = Exposure(agent="a1", approvals=(ToolApproval(tool="*", rule=rule),))
        world.store.servers[made.id] = replace(made, exposures=(ruled,))
        assert [each.approval for each in tools.still_offered(of_then, caller(user_id=USER), "a1")] == [rule]
    without_right = replace(caller(user_id=USER), method="api_key", scopes=frozenset({"agent:run"}))
    assert tools.still_offered(of_then, without_right, "a1") == ()
    assert tools.still_offered((), caller(user_id=USER), "a1") == ()


def test_a_server_that_hangs_is_waited_for_by_few_starts_and_by_its_owner(world: World) -> None:
    """A schedule of each minute: the server is away for six hours, then it answers."""
    made = world.create()
    client = HangingTools(McpFailed(McpErrorCode.TIMED_OUT, "no answer"))
    tools = McpTools(world.store, lambda: client, lambda: world.endpoints, world.clock)

    def start() -> int:
        world.clock.at += timedelta(minutes=1)
        return len(asyncio.run(tools.offer([world.store.servers[made.id]], "karma")).tools)

    world.clock.at += DEFAULT_FRESH
    began = len(client.asked)
    assert sum(start() for _ in range(60)) == 0
    assert len(client.asked) - began <= 9, "each cost its start five seconds"
    for _ in range(300):
        start()
    assert len(client.asked) - began <= 30
    assert world.store.servers[made.id].health.failures == len(client.asked) - began
    world.told.found = McpFailed(McpErrorCode.TIMED_OUT, "no answer")
    world.clock.at += RETRY_AFTER
    asked = len(world.told.asked)
    assert world.service.look(USER, made.id).health.error is McpErrorCode.TIMED_OUT
    assert len(world.told.asked) == asked + 1, "its owner need not wait"
    client.found = LISTING
    world.clock.at += LONGEST_RETRY
    assert start() == 1
    assert world.store.servers[made.id].health.failures == 0


class TestChanges:
    def test_are_of_what_they_name_and_the_same_again_is_none(self, world: World) -> None:
        made = world.create()
        rules = (Exposure(agent="driver", tools=(TOOL.name,)),)
        asked = len(world.told.asked)
        changed = world.service.change(USER, made.id, {"name": "t", "exposures": rules, "timeout_s": 9}, version=1)
        assert (changed.name, changed.timeout_s, changed.revision) == ("t", 9, 2)
        assert [each.agent for each in changed.exposures] == ["a1"]
        assert changed.sealed == made.sealed
        assert world.service.change(USER, made.id, {"name": "t", "headers": SECRET}) == changed
        assert len(world.told.asked) == asked, "nothing that it has to be asked for"
        assert world.store.directory(USER).ids == {"t": made.id}
        with pytest.raises(StaleVersion):
            world.service.change(USER, made.id, {"name": "u"}, version=1)
        with pytest.raises(StaleVersion):
            world.service.delete(USER, made.id, version=1)

    def test_of_headers_are_tried_first(self, world: World) -> None:
        made = world.create()
        headers = {"X-Token": "new"}
        world.told.found = McpFailed(McpErrorCode.UNAUTHORIZED, "wrong")
        with pytest.raises(McpServerUnusable) as refused:
            world.service.change(USER, made.id, {"headers": headers})
        assert refused.value.code == "MCP_UNAUTHORIZED"
        assert world.service.get(USER, made.id) == made
        world.told.found = replace(LISTING, tools=())
        changed = world.service.change(USER, made.id, {"headers": headers})
        assert world.told.asked[-1].headers == headers
        assert (changed.header_names, changed.listing.tools) == (("X-Token",), ())
        assert world.endpoints.of(changed).headers == headers
        assert world.endpoints.of(world.service.change(USER, made.id, {"headers": {}})).headers == {}

    def test_that_clash_are_refused(self, world: World) -> None:
        made, other = world.create("a"), world.create("b")
        with pytest.raises(AlreadyExists):
            world.service.change(USER, made.id, {"name": other.name})
        wrong: tuple[Exposure, ...]
        for wrong in ((Exposure(agent="nobody"),), (Exposure(tools=("gone",)),), (Exposure(), Exposure())):
            with pytest.raises(ValidationFailed):
                world.service.change(USER, made.id, {"exposures": wrong})
        assert world.service.get(USER, made.id) == made
        with pytest.raises(NotFound):
            world.service.change(UserId(new_id()), made.id, {"name": "c"})

    def test_hold_beside_a_listing_that_comes_between(self, world: World) -> None:
        made = world.create()
        store = world.store
        write = store.replace

        def slower(old: McpServer, new: McpServer, *, seen: Directory | None = None) -> None:
            store.replace = write  # type: ignore[method-assign]
            world.clock.at += DEFAULT_FRESH
            world.service.look(USER, made.id)
            store.replace(old, new, seen=seen)

        store.replace = slower  # type: ignore[method-assign]
        changed = world.service.change(USER, made.id, {"timeout_s": 7}, version=1)
        assert (changed.timeout_s, changed.revision, changed.version) == (7, 2, 3)


@dataclass
class HangingTools:
    """Servers that answer what a test says, within an event loop."""

    found: Listing | McpFailed
    asked: list[McpEndpoint] = field(default_factory=list)

    async def list_tools(self, endpoint: McpEndpoint, *, server: str) -> Listing:
        return ToldTools(self.found, self.asked).list_tools(endpoint, server=server)

    async def call(self, *_: object, **__: object) -> CallOutcome:
        raise AssertionError("nobody calls a tool here")


@pytest.mark.fault("F-26a", "F-26i")
def test_a_request_asks_a_server_for_less_time_than_its_function_has_and_is_counted(world: World) -> None:
    made = world.create("slow", timeout_s=MAX_TIMEOUT_S)
    world.service.change(USER, made.id, {"headers": {"X-Other": "1"}})
    world.clock.at += LONGEST_RETRY
    world.service.look(USER, made.id)
    assert [each.timeout_s for each in world.told.asked] == [LIST_S] * 3
    assert world.waiting == [USER] * 3
    world.service.look(USER, made.id)
    assert len(world.waiting) == 3, "what is stored is shown without asking"

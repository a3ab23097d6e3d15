"""The state that a run shares with its client's application: told, stored with results, and kept for the next run."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from karma.conversations.state import MAX_STATE_BYTES, State
from karma.core.json_patch import is_same
from karma.models.ports import ModelEvent, ModelRequest, StopReason
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import LEASE
from karma.runs.joining import join
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from karma.runs.setup import user_of
from karma.runs.wishes import Wish
from karma.tools.state_tools import MAX_SHOWN_BYTES, UPDATE_STATE, update_state_tool
from karma.tools.toolbox import Tool, ToolContext, WhenLost
from tests.fakes.agents import catalogue
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import KeptFrames, caller, ended, text, tool
from tests.support import lost_runs
from tests.support.agui_client import HeldMessages
from tests.support.forks import forks
from tests.support.lost_runs import KEY, THREAD, Life, Teller, begin, go_on
from tests.support.plans import allowances
from tests.support.run_services import run_service
from tests.support.run_world import ECHO, World, asked, spec, user

RUNS = int(os.environ.get("KILLS") or 15)
USER = user_of(caller())


def change(*operations: dict[str, Any], call: str = "c1") -> list[Any]:
    return tool(call, UPDATE_STATE, orjson.dumps({"operations": operations}).decode())


def add(path: str, value: object) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


class Sharing(World):
    """A world whose agent `brief` may change the state."""

    def __init__(self, *turns: Any, tools: Sequence[Tool] = ()) -> None:
        super().__init__(*turns)
        self.tools = [ECHO, update_state_tool(), *tools]
        names = tuple(each.name for each in self.tools)
        self.agents = catalogue(tools=names)
        self.agents.create(spec(tools=names))

    @property
    def service(self) -> Any:
        return run_service(
            store=self.store,
            watchdog=self.watchdog,
            model=self.model,
            agents=self.agents,
            configuration=self.configuration,
            tools=self.tools,
            library=self.library,
            allowances=allowances(clock=self.clock),
            clock=self.clock,
            limits=self.limits,
            executions=self.executions,
        )

    def ask(self, words: str, **more: Any) -> list[dict[str, Any]]:
        return self.run(asked(user(words), forwardedProps={"agent_id": "brief"}, **more))

    @property
    def kept(self) -> object:
        state = self.thread().state
        return state and state.value


def held(events: list[dict[str, Any]]) -> object:
    client = HeldMessages()
    for event in events:
        client.take(event)
    return client.state


def of_state(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"].startswith("STATE_")]


DONE = [*text("done"), *ended()]


@pytest.mark.req("R-K-40")
def test_a_tool_changes_the_state_and_clients_are_told_what_changed() -> None:
    given = {"recipe": {"name": "soup", "steps": ["boil", "serve"]}}
    world = Sharing([*change(add("/recipe/steps/1", "salt")), *ended(StopReason.TOOL_USE)], DONE)

    events = world.ask("go", state=given)

    first, second = of_state(events)
    assert first["snapshot"] == {**given, "user": USER}
    assert second["delta"] == [add("/recipe/steps/1", "salt")]
    changed = {"recipe": {"name": "soup", "steps": ["boil", "salt", "serve"]}}
    assert held(events) == {**changed, "user": USER}
    assert world.kept == changed
    # It follows the result that it is stored with, before the model goes on.
    kinds = [event["type"] for event in events]
    assert kinds[kinds.index("STATE_DELTA") - 1] == "TOOL_CALL_RESULT"
    assert orjson.loads(events[kinds.index("TOOL_CALL_RESULT")]["content"]) == {"applied": 1}


def test_the_model_is_shown_the_state_with_which_its_run_begins_and_no_more_of_it_than_it_reads() -> None:
    world = Sharing(DONE, DONE)

    world.ask("go", state={"page": "devices"})
    world.ask("go", thread="t2", state={"page": "é" * MAX_SHOWN_BYTES, "other": 1})

    shown, long = [request.system[-1] for request in world.model.requests]
    assert f'{{"page":"devices","user":{orjson.dumps(USER).decode()}}}' in shown
    assert len(long) < MAX_SHOWN_BYTES + 1000
    assert "its members are 'page', 'other', 'user'" in long


def test_an_agent_without_the_tool_is_shown_no_state() -> None:
    world = World(DONE)
    world.run(asked(user("go"), state={"page": "kitchen"}))
    assert "kitchen" not in "".join(world.model.requests[0].system)


@pytest.mark.parametrize("given", [{}, {"state": {}}, {"state": None}])
def test_a_client_that_holds_no_state_is_told_the_one_of_the_thread(given: dict[str, Any]) -> None:
    world = Sharing([*change(add("/count", 1)), *ended(StopReason.TOOL_USE)], DONE, DONE)
    world.ask("go")

    events = world.ask("again", **given)

    assert held(events) == {"count": 1, "user": USER}
    assert world.kept == {"count": 1}


@pytest.mark.parametrize("given", [{"mine": True}, {"user": USER}, ["a"], 0, "text", False])
def test_the_state_of_a_client_goes_before_the_one_of_the_thread(given: object) -> None:
    world = Sharing([*change(add("/count", 1)), *ended(StopReason.TOOL_USE)], DONE, DONE)
    world.ask("go")

    events = world.ask("again", state=given)

    without = {} if given == {"user": USER} else given
    assert held(events) == ({**without, "user": USER} if isinstance(without, dict) else given)
    assert world.kept == without


def test_a_thread_without_a_state_of_its_own_stores_none() -> None:
    world = Sharing(DONE, DONE, DONE)
    world.ask("go")
    world.ask("as stock clients ask", state={"user": USER})
    world.ask("go", state={})
    assert world.kept is None


def test_who_asks_is_said_anew_for_each_run() -> None:
    world = Sharing([*change(add("/count", 1)), *ended(StopReason.TOOL_USE)], DONE, DONE)
    world.ask("go", state={"user": {"id": "of the application"}})
    assert world.kept == {"count": 1, "user": {"id": "of the application"}}
    assert held(world.ask("go")) == world.kept


def test_calls_of_one_turn_change_it_in_their_order_and_failed_ones_not_at_all() -> None:
    calls = [
        *change(add("/list", []), call="c1"),
        *change(add("/list/-", "first"), call="c2"),
        *change(add("/list/-", "never"), add("/no/where", 1), call="c3"),
        *change(add("/list/-", "second"), call="c4"),
    ]
    world = Sharing([*calls, *ended(StopReason.TOOL_USE)], DONE)

    events = world.ask("go")

    assert held(events) == {"list": ["first", "second"], "user": USER}
    results = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert [event.get("metadata") for event in results] == [None, None, {"failed": True}, None]
    assert "operation 1: there is no 'no'" in results[2]["content"]


@pytest.mark.parametrize("count", [15, 16, 17, 40])
def test_many_calls_of_one_turn_are_told_with_the_results_that_they_are_stored_with(count: int) -> None:
    calls = [step for nth in range(count) for step in change(add("/list/-", nth), call=f"c{nth}")]
    world = Sharing([*calls, *ended(StopReason.TOOL_USE)], DONE)
    request = asked(user("go"), forwardedProps={"agent_id": "brief"}, state={"list": []})

    events = world.run(request)

    assert held(events) == {"list": list(range(count)), "user": USER}
    for segment in world.log(request)[1:]:
        kinds = [orjson.loads(data)["type"] for data in segment.events]
        if any(kind.startswith("STATE_") for kind in kinds):
            assert segment.n in world.store.checkpoints[segment.key]


@pytest.mark.parametrize(
    ("operations", "why"),
    [
        ([add("/big", "x" * MAX_STATE_BYTES)], f"larger than {MAX_STATE_BYTES} bytes"),
        ([add("/deep", 0)] + [add("/deep" + "/in" * n, {}) for n in range(64)], "nested deeper than 64 levels"),
        ([{"op": "add", "path": "/n", "value": 1}] * 101, "at most 100"),
        ([1], "must be objects"),
        ([add("/l", []), *[{"op": "copy", "from": "/l", "path": "/l/-"}] * 99], "would be larger than 262144 bytes"),
        ([add("/l", {}), *[{"op": "copy", "from": "", "path": "/l/l"}] * 99], "the value would be"),
        ([{"op": "test", "path": "", "value": {}}], "has another value"),
    ],
)
def test_what_it_may_not_become_is_refused_by_name_and_changes_nothing(operations: list[Any], why: str) -> None:
    if operations[0] == add("/deep", 0):
        operations = [add("/deep", {}), *(add("/deep" + "/in" * n, {}) for n in range(1, 64))]
    world = Sharing([*change(*operations), *ended(StopReason.TOOL_USE)], DONE)

    events = world.ask("go", state={"n": 0})

    assert len(of_state(events)) == 1
    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert why in result["content"]
    assert world.kept == {"n": 0}


@dataclass(frozen=True)
class Nothing:
    pass


def test_a_tool_that_fails_or_takes_too_long_leaves_the_state_as_it_was() -> None:
    async def spoil(_: Nothing, context: ToolContext) -> object:
        context.state.value = {"spoilt": True}
        await asyncio.Event().wait()
        return None

    spoiler = replace(update_state_tool(), name="spoil", parameters=Nothing, run=spoil, timeout_s=0.05)
    calls = [*tool("c1", "spoil", "{}"), *change(add("/after", 1), call="c2")]
    world = Sharing([*calls, *ended(StopReason.TOOL_USE)], DONE, tools=[spoiler])

    assert held(world.ask("go")) == {"after": 1, "user": USER}


def test_a_run_that_is_cancelled_keeps_what_its_finished_calls_have_changed() -> None:
    async def hang(_: Nothing, __: ToolContext) -> object:
        world.store.wish(world.store.runs_by_key.copy().popitem()[0], Wish.CANCEL, at=world.clock.now())
        await asyncio.Event().wait()
        return None

    waits = Tool(
        name="hang",
        description="",
        parameters=Nothing,
        permission="device:read",
        when_lost=WhenLost.CALL_AGAIN,
        timeout_s=30,
        run=hang,
    )
    world = Sharing(
        [*change(add("/count", 1)), *tool("c2", "hang", "{}"), *ended(StopReason.TOOL_USE)], DONE, tools=[waits]
    )

    events = world.ask("go")

    assert events[-1]["outcome"] == {"type": "cancelled"}
    assert held(events) == {"count": 1, "user": USER}
    assert world.kept == {"count": 1}


class Counting(Teller):
    """Calls the tool three times, twice in the first turn; each call adds to a list what no other one adds."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        turn = sum(message.role == "assistant" for message in request.messages)
        calls = {0: ("a", "b"), 1: ("c",)}.get(turn, ())
        steps = [step for word in calls for step in change(add("/list/-", word), call=f"call_{word}")]
        for batch in [*steps, *ended(StopReason.TOOL_USE if calls else StopReason.END)]:
            self._life.before()
            yield batch
            self._life.afterwards()


class Mortal(lost_runs.World):
    """A world whose processes die while they change the state."""

    def __init__(self) -> None:
        super().__init__(thinks=True)  # so that its run is one of the agent `brief`
        self.given_agents = catalogue(tools=(UPDATE_STATE,))
        self.given_agents.create(spec(tools=(UPDATE_STATE,)))

    def tools(self, life: Life) -> list[Tool]:
        whole = update_state_tool()

        async def run(arguments: Any, context: ToolContext) -> object:
            life.before()
            result = await whole.run(arguments, context)
            life.afterwards()
            return result

        return [replace(whole, run=run)]


@pytest.mark.parametrize("nth", range(RUNS))
def test_wherever_its_processes_die_each_call_changes_the_state_once(nth: int, seed: int) -> None:
    dice = random.Random(seed)
    world = Mortal()
    world.store.threads[THREAD] = replace(world.store.thread(THREAD), state=State({"list": []}), version=1)
    life = Life(dice.randint(1, 60), after=dice.random() < 0.5)
    begin(world, life, KeptFrames(), model=Counting(life))
    for _ in range(dice.randint(0, 3)):
        life = Life(dice.randint(1, 50), after=dice.random() < 0.5)
        resume(world, life)
    resume(world, Life(None))
    if world.store.run(KEY) is None:
        return

    kept = world.store.thread(THREAD).state
    assert kept is not None
    done = [each for each in world.store.thread(THREAD).messages if each.role == "tool" and not each.failed]
    assert len(kept.value["list"]) == len(done) <= 3
    if world.log[-1].events[-1].startswith(b'{"type":"RUN_FINISHED"'):
        assert kept.value == {"list": ["a", "b", "c"]}
    # Who reads the log from anywhere, or joins anywhere, holds the same.
    assert is_same(held(world.shown()), {**kept.value, "user": USER})
    for n in range(1, len(world.log) + 1):
        first = join(world.store, KEY, link=list)
        assert first is not None
        before = [orjson.loads(data) for each in world.log[:n] for data in each.events]
        assert is_same(held([*before, *world.shown(after=n)]), held([orjson.loads(each) for each in first.events]))


def resume(world: Mortal, life: Life) -> None:
    world.clock.pass_by(LEASE * 2)
    lost_runs.live(lambda: world.executor(life, model=Counting(life)).go_on(KEY))


def test_the_same_run_without_a_death_goes_on_nowhere() -> None:
    world = Mortal()
    world.store.threads[THREAD] = replace(world.store.thread(THREAD), state=State({"list": []}), version=1)
    begin(world, Life(None), KeptFrames(), model=Counting(Life(None)))
    go_on(world, Life(None))
    kept = world.store.thread(THREAD).state
    assert kept is not None
    assert kept.value == {"list": ["a", "b", "c"]}


class Remembering(Counting):
    """Remembers what it is asked."""

    def __init__(self, life: Life) -> None:
        super().__init__(life)
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self.requests.append(request)
        async for batch in super().stream(request):
            yield batch


POINTS = pytest.mark.parametrize(("nth", "then"), [(0, []), (1, ["a", "b"]), (2, ["a", "b"]), (3, ["a", "b", "c"])])


def counted(nth: int, then: list[str]) -> tuple[Mortal, str]:
    """Return a world with a run that has ended, and the id of one of its points."""
    world = Mortal()
    world.store.threads[THREAD] = replace(world.store.thread(THREAD), state=State({"list": []}), version=1)
    begin(world, Life(None), KeptFrames(), model=Counting(Life(None)))
    points = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
    point = write_point_id(points.page(KEY.user_id, KEY.run_id, limit=9)[nth].id)
    assert points.find(KEY.user_id, point).state == {"list": then, "user": USER}
    return world, point


@pytest.mark.fault("F-29f")
@POINTS
def test_a_thread_that_goes_back_to_a_point_has_the_state_of_then(nth: int, then: list[str]) -> None:
    world, point = counted(nth, then)
    for _ in range(2):
        forks(world).in_place.restore(caller(), point, Modifications())
        kept = world.store.thread(THREAD).state
        assert kept is not None
        assert kept.value == {"list": then}


@pytest.mark.fault("F-29f")
def test_a_fork_tells_the_name_that_its_account_has_now() -> None:
    world, point = counted(1, ["a", "b"])
    renamed = replace(caller(), name="Another")
    assert user_of(renamed) != USER

    forked = forks(world).fork(renamed, point, Modifications(), key=None).run

    log = [orjson.loads(data) for each in world.store.segments(forked.key, after=0, limit=9) for data in each.events]
    assert of_state(log)[0]["snapshot"] == {"list": ["a", "b"], "user": user_of(renamed)}
    kept = world.store.thread(THREAD._replace(thread_id=forked.thread_id)).state
    assert kept is not None
    assert kept.value == {"list": ["a", "b"]}


@POINTS
def test_a_point_of_a_run_has_the_state_of_then_and_a_fork_goes_on_with_it(nth: int, then: list[str]) -> None:
    world, point = counted(nth, then)

    forked = forks(world).fork(caller(), point, Modifications(), key=None).run
    lost_runs.live(lambda: world.executor(Life(None), model=Counting(Life(None))).go_on(forked.key))

    log = [orjson.loads(data) for each in world.store.segments(forked.key, after=0, limit=99) for data in each.events]
    assert of_state(log)[0]["snapshot"] == {"list": then, "user": USER}
    assert held(log) == {"list": ["a", "b", "c"], "user": USER}
    kept = world.store.thread(THREAD._replace(thread_id=forked.thread_id)).state
    assert kept is not None
    assert kept.value == {"list": ["a", "b", "c"]}

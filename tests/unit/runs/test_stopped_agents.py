"""An agent that is stopped works no more within the runs of others, which go on without it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import orjson
import pytest

from karma.core.ids import AgentId
from karma.models.ports import ModelEvent, ModelRequest
from karma.models.prices import stopped_usage
from karma.runs.control import RunControl
from karma.runs.domain import LEASE, RunStatus
from karma.runs.spending import tokens_of
from karma.runs.wishes import AgentStop, Wish
from karma.tools.toolbox import ToolContext
from tests.fakes.runs import KeptFrames, RememberedWatchdog, RequestedExecutions, ended, text
from tests.support.agui import verify
from tests.support.lost_runs import KEY, THREAD, Killed, Life, begin, live
from tests.support.plans import allowances
from tests.support.run_services import executor
from tests.support.run_world import ECHO, Echo, user
from tests.support.subagents import Chain, Delegating, SubagentWorld
from tests.unit.runs.test_subagents import ALWAYS, DONE, asks, kinds, lead, quickly, results, says  # noqa: F401  a fixture

RUNS = int(os.environ.get("KILLS") or 15)


def stop(world: SubagentWorld, agent: str) -> list[str]:
    """Stop an agent as a request does; return the runs of others in which it was at work."""
    executions, watchdog = RequestedExecutions(), RememberedWatchdog()
    control = RunControl(world.store, executions=executions, watchdog=watchdog, clock=world.clock, agents=world.agents)
    stopped = control.stop_agent(world.stored(lead(user("go"))).key.user_id, AgentId(world.agents.find(agent).id))
    assert not stopped.runs
    return [run.key.run_id for run in stopped.within]


def codes(world: SubagentWorld) -> list[str]:
    return [orjson.loads(content)["code"] for content, failed in results(world) if failed]


@pytest.mark.usefixtures("quickly")
class TestAStoppedAgent:
    def test_s_model_is_stopped_and_its_caller_is_told(self) -> None:
        world = SubagentWorld()
        world.agent("scout")
        world.agent("lead", "scout")
        found: list[str] = []

        async def stuck() -> None:
            found.extend(stop(world, "scout"))
            await asyncio.Event().wait()

        world.script("lead", [*asks("scout"), *ended()], [*asks("scout", call_id="c2"), *ended()], DONE)
        world.script("scout", [*text("half"), stuck])
        events = world.run(lead(user("go", "u1")))
        assert found == ["r1"]
        assert kinds(events) == ["STARTED", "ERROR"]
        assert next(each for each in events if each["type"] == "SUBAGENT_ERROR")["code"] == "CANCELLED"
        # It is not called again either, as long as the run goes on.
        assert codes(world) == ["CANCELLED", "CANCELLED"]
        run = world.stored(lead(user("go")))
        assert run.status is RunStatus.FINISHED
        (asked,) = world.models.by_agent["scout"]
        assert run.delegated[0]["tokens"] == tokens_of(stopped_usage(asked, len("half")))
        assert stop(world, "scout") == []

    def test_takes_those_with_it_that_it_has_called_and_no_others(self) -> None:
        world = SubagentWorld()
        world.agent("digger")
        world.agent("scout", "digger")
        world.agent("lead", "scout", "digger")
        waits = asyncio.Event()

        async def stuck() -> None:
            stop(world, "scout")
            waits.set()
            await asyncio.Event().wait()

        world.script("lead", [*asks("scout"), *ended()], [*asks("digger", call_id="c2"), *ended()], DONE)
        world.script("scout", [*asks("digger"), *ended()])
        world.script("digger", [*text("half"), stuck], [*text("dug"), *ended()])
        events = world.run(lead(user("go", "u1")))
        assert kinds(events) == ["STARTED", "STARTED", "ERROR", "ERROR", "STARTED", "FINISHED"]
        assert codes(world) == ["CANCELLED"]
        assert [content for content, failed in results(world) if not failed] == ["dug"]

    def test_finishes_the_tool_that_is_at_work_and_begins_no_other(self) -> None:
        world = SubagentWorld()
        made: list[str] = []

        async def run(arguments: Echo, _: ToolContext) -> object:
            if not made:
                stop(world, "scout")
                await asyncio.sleep(0.1)  # the process hears of it
            made.append(arguments.word)
            return {"word": arguments.word}

        world.tools = [replace(ECHO, run=run, timeout_s=5)]
        world.agent("scout", tools=("echo",))
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", [*says("one", "s1"), *ended()], [*says("two", "s2"), *ended()])
        world.run(lead(user("go", "u1")))
        assert made == ["one"]
        assert codes(world) == ["CANCELLED"]

    def test_is_stopped_in_a_run_that_waits_as_a_paused_one(self) -> None:
        world = SubagentWorld()
        world.agent("scout")
        world.agent("lead", "scout")

        async def stuck() -> None:
            world.store.wish(world.stored(lead(user("go"))).key, Wish.PAUSE, at=world.clock.now())
            await asyncio.Event().wait()

        world.script("lead", [*asks("scout"), *ended()])
        world.script("scout", [*text("half"), stuck])
        asyncio.run(world.go(lead(user("go", "u1"))))
        run = world.stored(lead(user("go")))
        assert run.status is RunStatus.PAUSED
        assert stop(world, "scout") == ["r1"]
        assert stop(world, "scout") == ["r1"], "a repeat finds the same"
        assert AgentStop(AgentId(world.agents.find("scout").id)) in world.store.wishes(run.key)

    def test_s_share_is_told_of_a_run_that_is_cancelled_while_it_is_paused(self) -> None:
        world = SubagentWorld()
        scout = world.agent("scout", tools=("echo",))
        world.agent("lead", "scout")

        async def stuck() -> None:
            world.store.wish(world.stored(lead(user("go"))).key, Wish.PAUSE, at=world.clock.now())
            await asyncio.Event().wait()

        world.script("lead", [*asks("scout"), *ended()])
        world.script("scout", [*says("hi", "s1"), *ended()], [*text("half"), stuck])
        asyncio.run(world.go(lead(user("go", "u1"))))
        control = RunControl(
            world.store,
            executions=RequestedExecutions(),
            watchdog=RememberedWatchdog(),
            clock=world.clock,
            agents=world.agents,
        )
        run = control.cancel(*world.stored(lead(user("go"))).key)
        assert run.status is RunStatus.CANCELLED
        (used,) = run.delegated
        half = tokens_of(stopped_usage(world.models.by_agent["scout"][-1], len("half")))
        assert (used["agent_id"], used["calls"], used["turns"], used["tokens"]) == (scout.id, 1, 2, 15 + half)
        today = world.store.usage.read_day(run.key.user_id, world.clock.now())
        assert today.by_agent[scout.id] == today.delegated[scout.id] == used["cost_micros"]
        assert not world.store.at_work

    def test_s_half_answer_counts_in_a_run_that_was_paused_in_its_middle_before_the_agent_was_stopped(self) -> None:
        world = SubagentWorld()
        scout = world.agent("scout", day_cost_micros=10**9)
        world.agent("lead", "scout")

        async def stuck() -> None:
            world.store.wish(world.stored(lead(user("go"))).key, Wish.PAUSE, at=world.clock.now())
            await asyncio.Event().wait()

        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", [*text("half"), stuck])
        asyncio.run(world.go(lead(user("go", "u1"))))
        key = world.stored(lead(user("go"))).key
        told = world.stored(lead(user("go"))).delegated
        stop(world, "scout")
        executions, watchdog = RequestedExecutions(), RememberedWatchdog()
        RunControl(
            world.store, executions=executions, watchdog=watchdog, clock=world.clock, agents=world.agents
        ).resume(*key)
        world.clock.pass_by(timedelta(seconds=1))
        process = executor(
            store=world.store,
            executions=executions,
            model=world.model,
            tools=world.tools,
            library=world.library,
            allowances=allowances(clock=world.clock),
            clock=world.clock,
            limits=world.limits,
            agents=world.agents,
        )
        asyncio.run(process.go_on(key))
        run = world.stored(lead(user("go")))
        assert run.status is RunStatus.FINISHED
        assert codes(world) == ["CANCELLED"]
        (used,) = run.delegated
        (asked,) = world.models.by_agent["scout"]
        assert used["tokens"] == tokens_of(stopped_usage(asked, len("half")))
        assert [{**each, "turns": 0} for each in told] == [{**used, "turns": 0}]
        today = world.store.usage.read_day(key.user_id, world.clock.now())
        assert today.by_agent[scout.id] == used["cost_micros"] > 0

    def test_that_asks_is_at_work_no_more(self) -> None:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",), approvals=ALWAYS)
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()])
        world.script("scout", [*says("hi", "s1"), *ended()])
        world.run(lead(user("go", "u1")))
        assert world.stored(lead(user("go"))).status is RunStatus.INTERRUPTED
        assert stop(world, "scout") == []


class Stopping(Chain):
    """A model after whose agent's stop no model of that agent answers any more."""

    def __init__(self, life: Life, stopped_at: list[int]) -> None:
        super().__init__(life, asks=False)
        self._stopped_at = stopped_at
        self.is_late = bool(stopped_at)
        self.asked: list[str] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        agent = request.system[0]
        self.asked.append(agent)
        async for batch in super().stream(request):
            if self._stopped_at and agent == "scout":
                await asyncio.Event().wait()
            yield batch
            await asyncio.sleep(0)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("nth", range(RUNS))
def test_wherever_processes_die_a_stopped_agent_ends_and_the_run_goes_on(nth: int, seed: int) -> None:
    """Stopped before any step of any process, each of which may die at any step."""
    dice = random.Random(seed)
    world = Delegating()
    scout = AgentId(world.agents().find("scout").id)
    stopped_at: list[int] = []
    models: list[Stopping] = []

    def stop_it() -> None:
        for life in (Life(dice.randint(1, 6), after=dice.random() < 0.5), Life(None)):
            with suppress(Killed):
                world.control(life).stop_agent(KEY.user_id, scout)
        if AgentStop(scout) in world.store.wished[KEY] and not stopped_at:
            stopped_at.append(len(world.log))

    for n in range(4):
        dies = n < 3 and dice.random() < 0.7
        life = Life(dice.randint(1, 150) if dies else None, after=dice.random() < 0.5)
        life = replace(life, meets=stop_it, meets_at=dice.randint(1, 120))
        model = Stopping(life, stopped_at)
        models.append(model)
        if n == 0:
            begin(world, life, KeptFrames(), model=model)
        else:
            world.clock.pass_by(LEASE + timedelta(seconds=1))
            executor = world.executor(life, model=model)
            live(lambda executor=executor: executor.go_on(KEY))  # type: ignore[misc]
    run = world.store.run(KEY)
    if run is None:
        return
    verify(world.shown())
    assert run.status is RunStatus.FINISHED or run.error_code == "OWNER_LOST"
    assert not [model for model in models if model.is_late and "scout" in model.asked]
    assert set(world.effects.values()) <= {1}
    thread = world.store.thread(THREAD)
    assert thread.active_run_id is None
    if run.status is RunStatus.FINISHED:
        given = [each.tool_call_id for each in thread.messages if each.role == "tool"]
        assert sorted(given) == sorted(call.id for each in thread.messages for call in each.tool_calls)
    assert not world.store.at_work, "nothing is listed of a run that has ended"

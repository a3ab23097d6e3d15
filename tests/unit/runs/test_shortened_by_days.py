"""A day that has less left than a call may cost shortens its answer, as other budgets do, and is never overspent.

The day's count is what the model has charged, for however many runs at once, whose requests come twice and whose
processes die: then what is not known counts with its upper bound.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any

import pytest

from karma.billing.allowances import Adjustment, Reservation, day_of
from karma.core.ids import AgentId, RunId
from karma.models.budgets import MIN_ANSWER_TOKENS, BudgetExceeded
from karma.models.domain import Usage
from karma.models.ports import ModelEvent, ModelRequest, StopReason, TextDelta, TurnEnded
from karma.models.prices import cost, estimate, stopped_usage
from karma.runs.domain import LEASE, Run, RunExists, RunKey, RunStatus, ThreadBusy
from tests.fakes.agents import catalogue
from tests.fakes.runs import KeptFrames, caller, ended, text, tool
from tests.fakes.usage import MemoryUsage
from tests.support.lost_runs import KEY, TOOLS, Killed, Life, Teller
from tests.support.run_world import World, asked, spec, user
from tests.unit.runs.test_budgets import DONE, USED, again, budgeted, question, resume
from tests.unit.runs.test_reckoning import MeteredWorld

pytestmark = pytest.mark.req("R-C-05")

LIMIT = 900_000
"""Micro-dollars: the bound of a call is some 430,000."""


class Day(StrEnum):
    """The one whose day is limited."""

    AGENT = "agent_per_day"
    ACCOUNT = "account_per_day"


def world_with(*turns: Any, left: int, whose: Day) -> tuple[World, dict[str, Any]]:
    """Return a world in which the day of an agent, or of the account, has so much left."""
    world = World(*turns)
    agent = world.agents.create(spec(tools=("echo",)))
    allow(world, agent.id, LIMIT, whose)
    user_id, day = caller().user_id, day_of(world.clock.now())
    if whose is Day.AGENT:
        world.store.usage.days[user_id, day, agent.id] = LIMIT - left
    else:
        world.store.usage.account_days[user_id, day] = LIMIT - left
    return world, {"agent_id": agent.id}


def allow(world: World, agent_id: str, limit: int, whose: Day) -> None:
    if whose is Day.ACCOUNT:
        world.day_cost_micros = limit
    else:
        world.agents.replace(AgentId(agent_id), spec(tools=("echo",), day_cost_micros=limit), version=None)


def of_day(world: World, props: dict[str, Any], whose: Day) -> int:
    if whose is Day.ACCOUNT:
        return world.store.usage.account_days[caller().user_id, day_of(world.clock.now())]
    return world.store.usage.read_day(caller().user_id, world.clock.now()).by_agent[props["agent_id"]]


@pytest.mark.parametrize("whose", Day)
class TestTheAnswer:
    @pytest.mark.parametrize("left", [40_000, 100_000, 400_000])
    def test_of_the_first_call_gets_what_the_day_can_pay(self, whose: Day, left: int) -> None:
        world, props = world_with(DONE, left=left, whose=whose)
        events = world.run(budgeted(user("go"), run="r1", props=props))
        assert events[-1]["outcome"] == {"type": "success"}
        (request,) = world.model.requests
        now = world.clock.now()
        assert MIN_ANSWER_TOKENS <= request.max_tokens < world.limits.max_tokens
        longer = replace(request, max_tokens=request.max_tokens + 1)
        assert estimate(request, now) <= left < estimate(longer, now)
        assert of_day(world, props, whose) == LIMIT - left + cost(USED, request.target, now)

    def test_of_a_later_call_gets_what_the_runs_before_it_have_left(self, whose: Day) -> None:
        dear = Usage(2_000, 5_000)
        world, props = world_with(again(1, dear), again(2, dear), DONE, left=LIMIT, whose=whose)
        world.run(budgeted(user("go"), run="r1", props=props))
        first, second, third = (each.max_tokens for each in world.model.requests)
        assert first == second == world.limits.max_tokens > third >= MIN_ANSWER_TOKENS

    def test_is_not_begun_where_the_day_cannot_pay_a_short_one(self, whose: Day) -> None:
        world, props = world_with(DONE, left=10_000, whose=whose)
        with pytest.raises(BudgetExceeded) as refused:
            world.run(budgeted(user("go"), run="r1", props=props))
        details: Any = refused.value.details
        assert (details["budget"], details["left_cost_micros"]) == (whose.value, 10_000)
        assert details["spent_cost_micros"] == LIMIT - 10_000 < LIMIT < details["required_cost_micros"]
        assert (world.store.runs_by_key, world.model.requests) == ({}, [])

    def test_asks_whether_to_go_on_where_its_last_tokens_cut_off_a_call(self, whose: Day) -> None:
        cut = [*tool("c1", "echo", '{"wo'), *ended(StopReason.MAX_TOKENS, Usage(400, 500))]
        world, props = world_with(cut, left=50_000, whose=whose)
        asks = question(world.run(budgeted(user("go"), run="r1", props=props)))
        spent = LIMIT - 50_000 + cost(Usage(400, 500), world.model.requests[0].target, world.clock.now())
        assert (asks["metadata"]["budget"], asks["metadata"]["spent_cost_micros"]) == (whose.value, spent)
        assert of_day(world, props, whose) == spent
        required = asks["metadata"]["required_cost_micros"]
        allow(world, props["agent_id"], required, whose)
        world.model.turns = [DONE]
        world.run(budgeted(run="r2", resume=resume(), props=props))
        assert world.model.requests[-1].max_tokens == world.limits.max_tokens, "it is not cut off again"

    def test_is_whole_again_the_next_day(self, whose: Day) -> None:
        world, props = world_with(DONE, left=0, whose=whose)
        world.clock.pass_by(timedelta(days=1))
        world.run(budgeted(user("go"), run="r1", props=props))
        assert world.model.requests[0].max_tokens == world.limits.max_tokens

    def test_does_not_need_room_for_a_second_call(self, whose: Day) -> None:
        world, props = world_with([*text("Hi"), *ended(usage=USED)], left=100_000, whose=whose)
        allow(world, props["agent_id"], LIMIT - 100_000 + 450_000, whose)
        world.run(budgeted(user("go"), run="r1", props=props))
        assert world.model.requests[0].max_tokens == world.limits.max_tokens


class Watched(MemoryUsage):
    """Notes the most that a day's count ever was."""

    most = 0

    def _add(self, change: Reservation | Adjustment, amount: int) -> None:
        super()._add(change, amount)
        self.most = max(self.most, 0, *self.days.values(), *self.account_days.values())


class Greedy(Teller):
    """Calls a tool for ever, in answers whose length is by dice, up to all that they may have; notes what they cost."""

    def __init__(self, life: Life, charged: list[tuple[ModelRequest, Usage]], dice: random.Random) -> None:
        super().__init__(life)
        self._charged = charged
        self._dice = dice

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        own, chars = len(self._charged), 0
        self._charged.append((request, stopped_usage(request, 0)))
        for _ in range(self._dice.randrange(4)):
            await asyncio.sleep(0)
        async for batch in super().stream(request):
            said = batch
            for event in batch:
                chars += len(event.text) if isinstance(event, TextDelta) else 0
                self._charged[own] = request, stopped_usage(request, chars)
                if isinstance(event, TurnEnded):
                    usage = Usage(100, self._dice.randrange(50, request.max_tokens + 1))
                    said = [event._replace(usage=usage)]
                    self._charged[own] = request, usage
            yield said

    def _answer(self, turn: int) -> list[Sequence[ModelEvent]]:
        return super()._answer(2)  # with calls that may be made again


class Spenders(MeteredWorld):
    """Two runs of one agent of which the day of one is limited: the agent's, or the account's."""

    def __init__(self, dice: random.Random, whose: Day) -> None:
        super().__init__()
        self.dice = dice
        self.given_agents = catalogue(tools=TOOLS)
        of_agent = LIMIT if whose is Day.AGENT else None
        self.agent = self.given_agents.create(spec(tools=TOOLS, day_cost_micros=of_agent)).id
        self.day_cost_micros = LIMIT if whose is Day.ACCOUNT else None
        self.store.usage = self.usage = Watched()

    def teller(self, life: Life) -> Teller:
        return Greedy(life, self.charged, self.dice)

    def runs(self) -> list[Run]:
        return list(self.store.runs_by_key.values())

    async def begin(self, n: int, life: Life) -> None:
        request = asked(user("go", f"u{n}"), run=f"r{n}", thread=f"t{n}", forwardedProps={"agent_id": self.agent})
        with suppress(Killed, RunExists, ThreadBusy, BudgetExceeded):
            await (await self.service(life).start(caller(), request)).execute(KeptFrames())

    async def go_on(self, key: RunKey, life: Life) -> None:
        with suppress(Killed):
            await self.executor(life).go_on(key)

    def all_at_once(self, *processes: tuple[Callable[[Life], Coroutine[Any, Any, None]], Life]) -> None:
        """Let processes work side by side until each has done its work, or has died.

        One that only waits for the end of a run whose process has died is stopped.
        """

        async def together() -> None:
            tasks = [(asyncio.create_task(work(life)), life) for work, life in processes]
            done, since = 0, time.monotonic()
            while any(not task.done() and not life.is_dead for task, life in tasks):
                await asyncio.sleep(0.0002)
                if done != (done := sum(map(len, self.store.logs.values()))):
                    since = time.monotonic()
                if any(life.is_dead for _, life in tasks) and time.monotonic() > since + 0.2:
                    break
            for task, life in tasks:
                life.is_dead |= not task.done()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for task, life in tasks:
                if not life.is_dead:
                    task.result()

        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(lambda *_: None)  # the dead have nobody who would hear them
            runner.run(together())

    def until_all_have_ended(self, lives: list[Life]) -> None:
        while going := [each for each in self.runs() if each.status is RunStatus.RUNNING]:
            self.clock.pass_by(LEASE + timedelta(seconds=1))
            self.all_at_once(*((partial(self.go_on, each.key), lives.pop() if lives else Life(None)) for each in going))


@pytest.mark.parametrize("whose", Day)
@pytest.mark.parametrize("kills", [0, 3])
@pytest.mark.parametrize("part", range(int(os.environ.get("ORDERS") or 2)))
def test_two_runs_at_once_doubled_and_killed_count_what_the_model_charges_and_never_overspend(
    part: int, kills: int, whose: Day, seed: int
) -> None:
    """In orders by the run's dice; ORDERS=4 plays twice as many."""
    for nth in range(4):
        dice = random.Random(f"{seed} {nth}")
        world = Spenders(dice, whose)
        lives = [Life(dice.randrange(2, 90), after=dice.random() < 0.5) for _ in range(kills)]
        first = [lives.pop() if lives else Life(None) for _ in range(2)]
        asks = [(partial(world.begin, n), life) for n, life in enumerate(first, 1)]
        world.all_at_once(*asks, (partial(world.begin, 1), Life(None)))
        world.until_all_have_ended(lives)
        for n in (1, 2):  # whose first request was lost, or comes once more
            world.all_at_once((partial(world.begin, n), Life(None)))
        world.until_all_have_ended([])
        costs = [each.cost_micros or 0 for each in world.runs()]
        counted = world.store.usage.read_day(KEY.user_id, world.clock.now()).by_agent.get(world.agent, 0)
        assert counted == sum(costs)
        of_account = world.store.usage.account_days
        assert list(of_account.values()) == ([counted] if whose is Day.ACCOUNT and costs else [])
        assert world.usage.most <= LIMIT, "not even for a moment"
        dearest = max((estimate(request, world.clock.now()) for request, _ in world.charged), default=0)
        if kills:
            assert world.cost - kills * dearest <= counted <= world.cost + kills * dearest
        else:
            assert LIMIT // 3 < counted == world.cost
            assert any(request.max_tokens < 8_192 for request, _ in world.charged), "the last ones were short"
    assert RunId("r1") in {each.key.run_id for each in world.runs()}

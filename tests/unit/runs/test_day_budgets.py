"""An account's limit of spending with an agent a day: runs that go on at once cannot overspend it together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from karma.billing.allowances import day_of
from karma.core.errors import QuotaExceeded
from karma.models.domain import Usage
from karma.models.ports import ModelEvent, ModelRequest
from karma.models.prices import cost
from karma.runs.answers import run_view
from karma.runs.domain import RunStatus
from tests.fakes.runs import ScriptedModel, SetClock, caller
from tests.support.run_world import World, asked, spec, user
from tests.unit.runs.test_budgets import DONE, again, budgeted, priced, question, resume, spend

pytestmark = [pytest.mark.req("R-C-05"), pytest.mark.usefixtures("no_blocking_calls")]


class Endless(ScriptedModel):
    """Calls a tool for ever, in answers of half the tokens that they may have, at moments by dice."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice
        self.cost = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self.requests.append(request)
        for _ in range(self._dice.randrange(4)):
            await asyncio.sleep(0)
        usage = Usage(100, request.max_tokens // 2)
        self.cost += cost(usage, request.target, SetClock().now())
        for step in again(len(self.requests), usage):
            yield step


class TestTheAgentsDay:
    LIMIT = 900_000
    """Micro-dollars: the bound of a call is some 430,000, and what it costs 45,000."""

    def world(self, *turns: Any) -> tuple[World, dict[str, Any]]:
        world = World(*turns)
        agent = world.agents.create(spec(tools=("echo",), day_cost_micros=self.LIMIT))
        return world, {"agent_id": agent.id}

    def spent(self, world: World, props: dict[str, Any]) -> tuple[int, int]:
        today = world.store.usage.read_day(caller().user_id, world.clock.now())
        return today.total, today.by_agent.get(props["agent_id"], 0)

    def test_counts_what_its_runs_cost_an_account_and_begins_anew_the_next_day(self) -> None:
        world, props = self.world(*[again(), DONE] * 2)
        world.run(budgeted(user("go"), run="r1", props=props))
        assert self.spent(world, props) == (priced(world, 2),) * 2
        world.run(asked(user("go", "u2"), run="r2", thread="t2"))
        assert self.spent(world, props) == (priced(world, 4), priced(world, 2)), "another agent's run is the account's"
        world.clock.pass_by(timedelta(days=1))
        assert self.spent(world, props) == (0, 0)

    def test_refuses_a_run_whose_first_call_it_does_not_cover(self) -> None:
        world, props = self.world()
        now = world.clock.now()
        world.store.usage.days[caller().user_id, day_of(now), props["agent_id"]] = self.LIMIT - 10_000
        with pytest.raises(QuotaExceeded) as refused:
            world.run(budgeted(user("go"), run="r1", props=props))
        assert (refused.value.status, refused.value.code) == (402, "BUDGET_EXCEEDED")
        details = refused.value.details
        assert isinstance(details, dict)
        assert (details["budget"], details["max_cost_micros"]) == ("agent_per_day", self.LIMIT)
        assert (details["left_tokens"], details["left_cost_micros"]) == (None, 10_000)
        assert "and 10000 are left" in refused.value.message
        assert details["resets_at"] == "2026-11-22T00:00:00.000Z"
        assert world.store.runs_by_key == {}
        world.clock.pass_by(timedelta(days=1))
        world.model.turns = [DONE]
        world.run(budgeted(user("go"), run="r1", props=props))

    def test_stops_a_run_in_the_middle_which_goes_on_once_it_is_raised(self) -> None:
        dear = Usage(10_000, 4_000)
        world, props = self.world(*[again(n, dear) for n in range(1, 9)])
        events = world.run(budgeted(user("go"), run="r1", props=props))
        limits = {"budget": "agent_per_day", "max_tokens": None, "max_cost_micros": self.LIMIT}
        unknown = {"spent_tokens": None, "spent_cost_micros": None}  # the day has other runs, too
        asks = question(events)["metadata"]
        assert asks.items() >= limits.items()
        assert asks["spent_cost_micros"] == spend(world) < self.LIMIT + 1 < asks["required_cost_micros"]
        assert asks["resets_at"] == "2026-11-22T00:00:00.000Z"
        (run,) = world.store.runs_by_key.values()
        assert run_view(run)["budgets"] == [limits | unknown]
        total, of_agent = self.spent(world, props)
        assert total == of_agent == spend(world) <= self.LIMIT
        made = len(world.model.requests)
        with pytest.raises(QuotaExceeded):
            world.run(budgeted(run="r2", resume=resume(), props=props))
        assert len(world.model.requests) == made
        world.agents.replace(props["agent_id"], spec(tools=("echo",), day_cost_micros=10**8), version=None)
        world.model.turns = [DONE]
        assert world.run(budgeted(run="r2", resume=resume(), props=props))[-1]["outcome"] == {"type": "success"}

    @pytest.mark.parametrize("seed", range(10))
    def test_two_runs_at_once_cannot_overspend_it_together(self, seed: int) -> None:
        for nth in range(20):
            world, props = self.world()
            world.model = model = Endless(random.Random(f"{seed} {nth}"))

            async def both(world: World = world, props: dict[str, Any] = props) -> None:
                asks = [budgeted(user("go"), run=f"r{n}", thread=f"t{n}", props=props) for n in (1, 2)]
                await asyncio.gather(*map(world.go, asks), return_exceptions=True)

            asyncio.run(both())
            costs = [run.cost_micros or 0 for run in world.store.runs_by_key.values()]
            assert {run.status for run in world.store.runs_by_key.values()} == {RunStatus.INTERRUPTED}
            assert self.spent(world, props) == (sum(costs),) * 2
            assert self.LIMIT // 3 < sum(costs) == model.cost <= self.LIMIT

"""Each budget says, when it refuses a run or stops one, which it is, its limit, what is used, and what would suffice.

What it says would suffice does so to the token and the micro-dollar, and nothing less does.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import pytest

from karma.agents.domain import AgentSpec
from karma.core.ids import AgentId
from karma.models.budgets import Budget, BudgetExceeded
from karma.runs.answers import interrupt_view
from karma.runs.domain import RunStatus
from tests.fakes.agents import catalogue
from tests.support.lost_runs import TOOLS, Life, go_on, pause
from tests.support.lost_runs import World as Paused
from tests.support.lost_runs import resume as pause_over
from tests.support.paused_runs import current, while_it_waits
from tests.support.run_world import World, spec, user
from tests.unit.runs.test_budgets import DONE, TOKENS, again, budgeted, priced, question, resume
from tests.unit.runs.test_thread_budgets import allow

pytestmark = [pytest.mark.req("R-C-05"), pytest.mark.usefixtures("no_blocking_calls")]


class Case(NamedTuple):
    """A budget, in tokens or in micro-dollars."""

    name: str
    unit: str
    """`tokens` or `cost_micros`."""

    @property
    def member(self) -> str:
        return f"max_{self.unit}"


class Limited:
    """A world in which one budget limits the runs of an agent."""

    def __init__(self, case: Case, limit: int) -> None:
        self.case, self.world = case, World()
        self.agent = self.world.agents.create(spec(tools=("echo",)))
        if case.name == "thread":
            self.world.model.turns = [DONE]
            self.world.run(budgeted(user("hi", "u0"), run="r0", props={"agent_id": self.agent.id}))
            self.world.model.requests.clear()
        self.allow(limit)

    @property
    def used(self) -> int:
        """The amount that is used before the first run."""
        if self.case.name != "thread":
            return 0
        return TOKENS if self.case.unit == "tokens" else priced(self.world, 1)

    def allow(self, limit: int) -> None:
        self.limit = limit
        if self.case.name == "account_per_day":
            self.world.day_cost_micros = limit
        if self.case.name == "thread":
            allow(self.world, **{self.case.member: limit})
        more: dict[str, Any] = {"agent_per_day": {"day_cost_micros": limit}}
        more["agent"] = {"budget": Budget(**{self.case.member: limit})}
        new = spec(tools=("echo",), **more.get(self.case.name, {}))
        self.world.agents.replace(self.agent.id, new, version=None)

    def begin(self) -> list[dict[str, Any]]:
        budget = {self.case.member: self.limit} if self.case.name == "run" else None
        asks = budgeted(user("go", "u1"), run="r1", budget=budget, props={"agent_id": self.agent.id})
        return self.world.run(asks)

    def go_on(self) -> list[dict[str, Any]]:
        payload = {self.case.member: self.limit} if self.case.name == "run" else None
        return self.world.run(budgeted(run="r2", resume=resume(payload), props={"agent_id": self.agent.id}))

    def refused(self, act: Callable[[], object]) -> dict[str, Any]:
        with pytest.raises(BudgetExceeded) as refused:
            act()
        assert (refused.value.status, refused.value.code) == (402, "BUDGET_EXCEEDED")
        assert isinstance(refused.value.details, dict)
        return refused.value.details

    def check(self, told: dict[str, Any], *, used: int) -> int:
        """Check what a refusal or a question tells; return what would suffice."""
        unit = self.case.unit
        assert (told["budget"], told[self.case.member], told[f"spent_{unit}"]) == (self.case.name, self.limit, used)
        other = "cost_micros" if unit == "tokens" else "tokens"
        assert (told[f"max_{other}"], told[f"required_{other}"]) == (None, None)
        assert ("resets_at" in told) == self.case.name.endswith("_per_day")
        required = told[f"required_{unit}"]
        assert isinstance(required, int)
        assert required > self.limit
        return required


EVERY = [
    *(Case(name, unit) for name in ("run", "thread", "agent") for unit in ("tokens", "cost_micros")),
    Case("agent_per_day", "cost_micros"),
    Case("account_per_day", "cost_micros"),
]


@pytest.mark.parametrize("case", EVERY, ids=lambda each: f"{each.name} {each.unit}")
class TestEachBudget:
    def test_that_refuses_a_run_says_what_would_suffice(self, case: Case) -> None:
        limited = Limited(case, 10)
        told = limited.refused(limited.begin)
        required = limited.check(told, used=limited.used)
        assert told[f"left_{case.unit}"] == max(0, 10 - limited.used)
        limited.allow(required - 1)
        assert limited.check(limited.refused(limited.begin), used=limited.used) == required
        limited.allow(required)
        limited.world.model.turns = [DONE]
        assert limited.begin()[-1]["outcome"] == {"type": "success"}
        assert limited.world.model.requests[-1].max_tokens == 256

    def test_that_stops_a_run_says_what_would_suffice(self, case: Case) -> None:
        limited = Limited(case, 10)
        two = 2 * TOKENS if case.unit == "tokens" else priced(limited.world, 2)
        limited.allow(limited.used + two + (200 if case.unit == "tokens" else 5_000))
        limited.world.model.turns = [again(n) for n in range(1, 9)]
        told = question(limited.begin())["metadata"]
        assert len(limited.world.model.requests) == 2
        required = limited.check(told, used=limited.used + two)
        (asks,) = limited.world.store.interrupts_by_id.values()
        assert interrupt_view(asks, now=limited.world.clock.now())["budget"] == told
        limited.allow(required - 1)
        assert limited.check(limited.refused(limited.go_on), used=limited.used + two) == required
        assert len(limited.world.model.requests) == 2
        limited.allow(required)
        limited.world.model.turns = [DONE]
        assert limited.go_on()[-1]["outcome"] == {"type": "success"}
        assert limited.world.model.requests[-1].max_tokens == 256


def test_a_paused_run_goes_on_with_what_its_agent_allows_when_it_is_resumed() -> None:
    def allowing(limit: int) -> AgentSpec:
        return spec(tools=TOOLS, budget=Budget(max_tokens=limit))

    for limit, status in ((1_000, RunStatus.INTERRUPTED), (10**7, RunStatus.FINISHED)):
        world = Paused()
        world.given_agents = catalogue(tools=TOOLS)
        world.agent = world.given_agents.create(allowing(50_000)).id
        while_it_waits(world, partial(pause, world))
        assert current(world).status is RunStatus.PAUSED
        world.given_agents.replace(AgentId(world.agent), allowing(limit), version=None)
        world.clock.pass_by(timedelta(milliseconds=1))
        pause_over(world)
        go_on(world, Life(None))
        assert current(world).status is status, limit

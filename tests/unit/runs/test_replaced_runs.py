"""A request that takes a run's place dies between the end of that run and the start of its own: nothing is wrong then.

The two are two transactions. Each place in between is played, and then nobody comes again, the same request does, or
another one. How often is drawn: SEED plays a failure again.
"""

from __future__ import annotations

import os
import random

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.runs.domain import ACTIVE, LEASE, RunStatus
from karma.runs.wishes import MOVED_ON_REASON
from tests.fakes.runs import caller
from tests.support.lost_runs import THREAD, Life, World, live
from tests.support.run_world import asked, user
from tests.unit.runs.test_turns import ask, begin, execute, key, said, status

STRATEGIES = (MultitaskStrategy.INTERRUPT, MultitaskStrategy.ROLLBACK)
SEEDS = int(os.environ.get("ORDERS") or 36)


def request_that_dies(world: World, name: str, strategy: MultitaskStrategy, life: Life) -> None:
    """Ask for a run in the background, in a process that dies."""
    props = {"multitask_strategy": strategy.value}
    request = asked(user(f"go {name}"), run=name, forwardedProps=props)
    live(lambda: world.background(life).begin(caller(), request))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("nth", range(SEEDS))
def test_whoever_dies_in_between_the_conversation_is_what_it_would_have_been(
    strategy: MultitaskStrategy, nth: int, seed: int
) -> None:
    dice = random.Random(seed)
    world = World(unique_ids=True)
    ask(world, "r0")
    live(lambda: world.executor(Life(dice.randint(1, 70), after=dice.random() < 0.5)).go_on(key("r0")))
    has_finished = status(world, "r0") not in ACTIVE
    world.clock.pass_by(LEASE * 2)
    request_that_dies(world, "r1", strategy, Life(dice.randint(1, 40), after=dice.random() < 0.5))

    then = dice.choice(("nobody", "the same", "another"))
    name = {"the same": "r1", "another": "r2"}.get(then)
    is_begun = world.store.run(key("r1")) is not None
    if name is not None:
        world.clock.pass_by(LEASE * 2)
        begin(world, name, strategy)
    for _ in range(3):
        world.clock.pass_by(LEASE * 2)
        execute(world)
        for each in list(world.store.runs_by_key):
            world.executions.requested.append(each)
    execute(world)

    runs = list(world.store.runs_by_key.values())
    assert not [run for run in runs if run.status in ACTIVE]
    assert world.store.thread(THREAD).active_run_id is None
    assert set(world.effects.values()) <= {1}
    for run in runs:
        log = world.store.segments(run.key, after=0, limit=10**6)
        assert [segment.terminal for segment in log] == [False] * (len(log) - 1) + [True]
    words = said(world)
    if name is None and not is_begun:
        assert words == ["go r0"]
        return
    last = name or "r1"
    if strategy is MultitaskStrategy.INTERRUPT:
        assert (words[0], words[-1]) == ("go r0", f"go {last}")
    elif has_finished:
        assert words[0] == "go r0", "what had finished by itself stays"
    elif status(world, "r0") is RunStatus.CANCELLED and not (is_begun and then == "another"):
        assert words == [f"go {last}"], "the run whose place was to be taken is gone"


def test_a_run_that_its_owner_cancelled_is_in_nobody_s_place() -> None:
    world = World()
    ask(world, "r0")
    world.control(Life(None)).cancel(caller().user_id, key("r0").run_id, reason="enough")
    assert begin(world, "r1", MultitaskStrategy.ROLLBACK).rolled_back is None
    assert said(world) == ["go r0", "go r1"]


def test_a_place_that_somebody_has_taken_is_not_taken_again() -> None:
    world = World()
    ask(world, "r0")
    begin(world, "r1", MultitaskStrategy.INTERRUPT)
    execute(world)
    assert status(world, "r0") is RunStatus.CANCELLED
    replaced = world.store.run(key("r0"))
    assert replaced is not None
    assert replaced.cancel_reason == MOVED_ON_REASON
    assert begin(world, "r2", MultitaskStrategy.ROLLBACK).rolled_back is None
    assert said(world) == ["go r0", "go r1", "go r2"]

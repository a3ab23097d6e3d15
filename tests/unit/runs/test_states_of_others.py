"""The state of a run that waited for others, or takes the place of one: what these have changed, and its client."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from karma.core.ids import RunId
from karma.models.ports import StopReason
from karma.runs.domain import RunStatus
from karma.runs.setup import load_setup
from karma.runs.wishes import Wish
from karma.tools.toolbox import Tool, ToolContext, WhenLost
from tests.fakes.runs import caller, ended, tool
from tests.support import lost_runs
from tests.support.lost_runs import KEY, THREAD, Life
from tests.support.run_world import asked, user
from tests.unit.runs.test_shared_state import DONE, USER, Mortal, Nothing, Remembering, Sharing, change, held

LEFT = ["a", "b", "c"]


@pytest.mark.fault("F-29n")
@pytest.mark.parametrize(
    ("given", "begins_with"),
    [
        ({}, {"list": LEFT, "it": 1}),
        ({"state": {"list": ["mine"], "it": 1}}, {"list": ["mine"], "it": 1}),
        ({"state": {"list": [], "it": 1}}, {"list": LEFT, "it": 1}),
        ({"state": {"list": [], "it": 1, "user": USER}}, {"list": LEFT, "it": 1}),
        ({"state": {"list": [], "it": 1, "mine": [2]}}, {"list": LEFT, "it": 1, "mine": [2]}),
        ({"state": {"list": []}}, {"list": LEFT}),
        ({"state": {"it": 2, "list": []}}, {"list": LEFT, "it": 2}),
        ({"state": {"it": 2}}, {"it": 2}),
    ],
    ids=["none", "another", "the same", "with the user", "one more", "one less", "one other", "without the list"],
)
def test_a_run_that_waited_for_its_turn_begins_with_what_those_before_it_left_and_its_client_changed(
    given: dict[str, Any], begins_with: dict[str, Any]
) -> None:
    world = Mortal()
    background = world.background(Life(None))
    for name, more in (("r1", {"state": {"list": [], "it": 1}}), ("r2", given)):
        props = {"agent_id": "brief", "multitask_strategy": "enqueue"}
        request = asked(user(f"go {name}", name), run=name, forwardedProps=props, **more)
        asyncio.run(background.begin(caller(), request))
    second = KEY._replace(run_id=RunId("r2"))
    assert world.store.runs_by_key[second].status is RunStatus.QUEUED
    models = []
    while world.executions.requested:
        key = world.executions.requested.pop(0)
        models.append(Remembering(Life(None)))
        lost_runs.live(lambda: world.executor(Life(None), model=models[-1]).go_on(key))  # noqa: B023  run at once

    log = [orjson.loads(data) for each in world.store.segments(second, after=0, limit=99) for data in each.events]
    assert held(log) == {**begins_with, "user": USER}
    told = models[-1].requests[0].system[-1]
    assert all(orjson.dumps({name: value}).decode()[1:-1] in told for name, value in begins_with.items())
    kept = world.store.thread(THREAD).state
    assert kept is not None
    assert kept.value == begins_with


def test_what_a_message_behind_another_one_carries_of_that_one_s_state_is_no_change_of_its_own() -> None:
    world = Mortal()
    background = world.background(Life(None))
    states = [{"list": []}, {"list": [], "of": "r2"}, {"list": [], "of": "r2", "mine": 3}]
    for name, state in zip(("r1", "r2", "r3"), states, strict=True):
        props = {"agent_id": "brief", "multitask_strategy": "enqueue"}
        request = asked(user(f"go {name}", name), run=name, forwardedProps=props, state=state)
        asyncio.run(background.begin(caller(), request))
    stored = world.store.setup(KEY._replace(run_id=RunId("r3")))
    assert stored is not None
    assert load_setup(stored).changes == {"members": {"mine": 3}, "without": []}


@pytest.mark.fault("F-29o")
@pytest.mark.parametrize(
    ("given", "begins_with"),
    [
        ({}, {"n": 1}),
        ({"state": {"n": 1}}, {"n": 1}),
        ({"state": {"n": 2, "user": USER}}, {"n": 1}),
        ({"state": {"n": 2, "mine": 5}}, {"n": 1, "mine": 5}),
        ({"state": {"n": 3}}, {"n": 3}),
    ],
    ids=["none", "of before", "of the run", "one more", "another"],
)
def test_a_run_that_is_rolled_back_leaves_the_state_with_which_it_had_begun(
    given: dict[str, Any], begins_with: dict[str, Any]
) -> None:
    async def hang(asked: object, context: ToolContext) -> object:
        world.store.wish(KEY._replace(run_id=RunId("r1")), Wish.MOVED_ON, at=world.clock.now())
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
    turn = [*change({"op": "replace", "path": "/n", "value": 2}), *tool("c2", "hang", "{}")]
    world = Sharing(DONE, [*turn, *ended(StopReason.TOOL_USE)], DONE, tools=[waits])
    world.ask("one", run="r0", state={"n": 1})
    world.ask("two", run="r1")
    assert world.kept == {"n": 2}
    props = {"agent_id": "brief", "multitask_strategy": "rollback"}
    log = world.run(asked(user("three", "u3"), run="r2", forwardedProps=props, **given))
    assert held(log) == {**begins_with, "user": USER}
    assert world.kept == begins_with

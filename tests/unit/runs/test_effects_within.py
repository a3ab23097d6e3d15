"""Calls within subagents are named to whoever goes back, each by itself; subagents that did nothing are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from karma.core.ids import RunId
from karma.runs.checkpoints import CheckpointService
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller, ended, text
from tests.support.run_world import ECHO, user
from tests.support.subagents import SubagentWorld
from tests.unit.runs.test_subagents import ALWAYS, asks, lead, questions, says
from tests.unit.runs.test_withdrawn_questions import going_back

YES, NO = {"approved": True}, {"approved": False}


@pytest.mark.fault("F-29zd")
@pytest.mark.parametrize(
    ("answer", "named"),
    [("none", []), (NO, []), (None, []), (YES, [("s1", "echo", "succeeded")])],
    ids=["open", "refused", "cancelled", "approved"],
)
def test_a_subagents_call_is_named_by_what_was_done_within_it(answer: Any, named: list[tuple[str, str, str]]) -> None:
    world = SubagentWorld()
    world.tools = [replace(ECHO, permission="device:control", timeout_s=5)]
    world.agent("scout", tools=("echo",), approvals=ALWAYS)
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout"), *ended()], [*text("Found."), *ended()])
    world.script("scout", [*says("hi", "s1"), *ended()], [*text("It is there."), *ended()])
    (question,) = questions(world.run(lead(user("go", "u1"), run="r1")))
    if answer != "none":
        world.run(lead(run="r2", resume={question["id"]: answer}))
    points = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
    point = write_point_id(points.page(caller().user_id, RunId("r1"), limit=10)[0].id)
    effects = going_back(world, points).in_place.restore(caller(), point, Modifications()).effects
    assert [(each.tool_call_id, each.name, each.status) for each in effects] == named
    assert all(each.message_id == world.thread().messages[1].id for each in effects)

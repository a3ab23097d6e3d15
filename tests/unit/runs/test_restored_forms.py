"""A run from a point asks the form of a tool anew where nobody has answered it, and goes on with what was answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from karma.core.ids import RunId
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import Run, RunStatus
from karma.runs.effects import Effect
from karma.runs.interrupts import Interrupt, Reason
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from karma.tools.toolbox import Tool, WhenLost
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller, ended, text
from tests.support.run_world import ECHO, user
from tests.support.subagents import SubagentWorld
from tests.unit.runs.test_asked_inputs import NO, YES, Asking, Shop
from tests.unit.runs.test_interrupts import DONE, calls
from tests.unit.runs.test_restored_questions import execute
from tests.unit.runs.test_subagents import asks, lead, questions, says
from tests.unit.runs.test_withdrawn_questions import going_back

USER = caller().user_id
HOW = ("restore_as_run", "fork")


def asking(shop: Shop) -> Tool:
    """Return a tool that is not to be called twice, and asks."""
    return replace(ECHO, run=shop.run, when_lost=WhenLost.ASK, permission="device:control", timeout_s=5)


def suspended(word: str = "tea 1", **rule: Any) -> Asking:
    """Return a world whose first run waits for the answer to a form."""
    world = Asking(calls(word), *[DONE] * 4, **rule)
    world.tools = [asking(world.shop)]
    world.run(world.ask(user("go", "u1"), run="r1"))
    return world


def back(world: Any, how: str, run: str = "r1") -> tuple[Run, tuple[Effect, ...]]:
    """Go back to the last point of a run by a new one, let that be executed, and return it with what was named."""
    points = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
    point = write_point_id(points.page(USER, RunId(run), limit=10)[-1].id)
    answer = getattr(going_back(world, points), how)(caller(), point, Modifications(), key=None)
    execute(world, answer.run)
    return world.store.runs_by_key[answer.run.key], getattr(answer, "effects", ())


def asked_by(world: Any, run: Run) -> list[Interrupt]:
    assert run.status is RunStatus.INTERRUPTED
    return list(world.store.interrupts(USER, run.interrupt_ids).values())


def give(world: Asking, run: Run, answers: dict[str, Any], *, by: str) -> list[dict[str, Any]]:
    return world.run(world.ask(resume=answers, run=by, thread=run.thread_id))


@pytest.mark.fault("F-29zc")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("withdrawn", [False, True])
def test_an_open_form_is_asked_anew_and_an_answer_goes_on_with_the_state_of_then(how: str, withdrawn: bool) -> None:
    world = suspended()
    if withdrawn:
        points = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
        point = write_point_id(points.page(USER, RunId("r1"), limit=10)[-1].id)
        assert going_back(world, points).in_place.restore(caller(), point, Modifications()).effects == ()
    run, effects = back(world, how)
    assert effects == ()
    assert len(world.shop.told) == 1, "the tool was not called again"
    (first,) = world.store.interrupts(USER, ["r1/1"]).values()
    (again,) = asked_by(world, run)
    assert again.key == run.key
    for field in ("reason", "message", "response_schema", "call", "made_by", "given"):
        assert getattr(again, field) == getattr(first, field)
    last = give(world, run, {again.id: YES}, by="r9")
    assert last[-1]["outcome"] == {"type": "success"}
    assert world.shop.told[1:] == [("tea 1", YES)]
    assert world.shop.for_runs == {"r1"}
    if how == "fork" and not withdrawn:  # the question of before is answered beside it
        give(world, world.store.runs_by_key[again.key._replace(run_id=RunId("r1"))], {"r1/1": NO}, by="r8")
        assert world.shop.told[2:] == [("tea 1", NO)]


@pytest.mark.fault("F-29zc")
@pytest.mark.parametrize("how", HOW)
def test_the_form_of_the_last_round_is_asked_and_not_that_of_the_first(how: str) -> None:
    world = suspended("careful 2")
    (approval,) = world.store.interrupts(USER, ["r1/1"]).values()
    assert approval.reason is Reason.TOOL_CALL
    world.run(world.ask(resume={"r1/1": {"approved": True, "editedArgs": {"word": "careful 3"}}}, run="r2"))
    world.run(world.ask(resume={"r2/1": YES}, run="r3"))
    for _ in range(2):
        run, effects = back(world, how)
        assert effects == ()
        (again,) = asked_by(world, run)
        assert (again.reason, again.asked.arguments) == (Reason.INPUT_REQUIRED, '{"word":"careful 3"}')
        assert again.given is not None
        assert again.given.rounds == 2
    assert [word for word, _ in world.shop.told] == ["careful 3", "careful 3"]
    third = give(world, run, {again.id: YES}, by="r9")
    assert [each["reason"] for each in third[-1]["outcome"]["interrupts"]] == ["input_required"]
    last = give(world, run, {"r9/1": YES}, by="r10")
    assert last[-1]["outcome"] == {"type": "success"}


@pytest.mark.fault("F-29zc")
@pytest.mark.parametrize("how", HOW)
def test_an_answer_of_which_nobody_knows_what_it_did_is_asked_about_and_given_again(how: str) -> None:
    world = suspended()

    async def late(*_: object) -> object:
        raise TimeoutError

    world.tools = [replace(asking(world.shop), run=late)]
    world.run(world.ask(resume={"r1/1": YES}, run="r2"))
    world.tools = [asking(world.shop)]
    run, effects = back(world, how)
    assert [each.status for each in effects] == (["unknown"] if how == "restore_as_run" else [])
    (question,) = asked_by(world, run)
    assert (question.reason, len(world.shop.told)) == (Reason.UNKNOWN_OUTCOME, 1)
    give(world, run, {question.id: {"outcome": "call_again"}}, by="r9")
    assert world.shop.told[1:] == [("tea 1", YES)]


@pytest.mark.fault("F-29zc")
def test_one_that_was_left_open_behind_the_point_has_failed() -> None:

    world = Asking(calls("now"), calls("tea 1"), *[DONE] * 3)
    world.tools = [asking(world.shop)]
    world.run(world.ask(user("go", "u1"), run="r1"))
    points = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
    first = write_point_id(points.page(USER, RunId("r1"), limit=10)[0].id)
    restored = going_back(world, points).in_place.restore(caller(), first, Modifications())
    assert [each.status for each in restored.effects] == ["succeeded", "failed"]


@pytest.mark.fault("F-29zc")
@pytest.mark.parametrize("how", HOW)
def test_a_form_within_a_subagent_is_asked_anew(how: str) -> None:
    shop, world = Shop(), SubagentWorld()
    world.tools = [asking(shop)]
    world.agent("scout", tools=("echo",))
    world.agent("lead", "scout")
    world.script("lead", [*asks("scout"), *ended()], [*text("Found."), *ended()])
    world.script("scout", [*says("tea 1", "s1"), *ended()], [*text("It is there."), *ended()])
    (first,) = questions(world.run(lead(user("go", "u1"), run="r1")))
    run, _ = back(world, how)
    (again,) = asked_by(world, run)
    assert (again.reason, again.response_schema) == (Reason.INPUT_REQUIRED, first["responseSchema"])
    assert again.inside is not None
    assert again.inside.subagent == first["subagentRunId"]
    last = world.run(lead(run="r2", thread=run.thread_id, resume={again.id: YES}))
    assert last[-1]["outcome"] == {"type": "success"}
    assert shop.told == [("tea 1", None), ("tea 1", YES)]

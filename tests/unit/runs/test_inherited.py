"""Those who wait for the end of a run that asks hear of it: the run that goes on with the answer has its places."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karma.core.errors import NotFound
from karma.runs.domain import Run, RunStatus
from tests.support.run_world import asked, user
from tests.unit.runs.test_interrupts import DONE, Approving, calls

HOOK = "https://app.example.com/runs"


def asked_by(world: Approving) -> Run:
    asks = replace(world.ask(user("go", "u1"), run="r1"), webhook=HOOK, schedule_id="s1")
    world.run(asks)
    run: Run = world.stored(asks)
    return run


@pytest.mark.parametrize("payload", [{"approved": True}, {"approved": False}, None])
def test_the_run_that_goes_on_has_the_webhook_and_the_schedule_of_the_one_that_asked(
    payload: dict[str, bool] | None,
) -> None:
    world = Approving(calls("hi"), DONE)
    first = asked_by(world)
    answer = world.ask(resume={"r1/1": payload}, run="r2")
    events = world.run(answer)

    second = world.stored(answer)
    assert (second.status, events[0]["parentRunId"]) == (RunStatus.FINISHED, "r1")
    assert (second.webhook, second.schedule_id, second.parent_run_id) == (HOOK, "s1", "r1")
    assert first.status is RunStatus.INTERRUPTED


def test_also_where_it_asks_again() -> None:
    world = Approving(calls("hi", "ho"), DONE)
    asked_by(world)
    world.run(world.ask(resume={"r1/1": {"approved": True}}, run="r2"))
    last = world.ask(resume={"r1/2": {"approved": True}}, run="r3")
    world.run(last)
    assert (world.stored(last).webhook, world.stored(last).schedule_id) == (HOOK, "s1")


def test_what_the_answer_names_itself_stands() -> None:
    world = Approving(DONE, calls("hi"), DONE)
    world.run(world.ask(user("hi"), thread="t0", run="p"))
    asked_by(world)
    other = "https://other.example.com/"
    answer = replace(world.ask(resume={"r1/1": {"approved": True}}, run="r2", parentRunId="p"), webhook=other)
    world.run(answer)
    assert (world.stored(answer).webhook, world.stored(answer).parent_run_id) == (other, "p")


def test_a_new_message_that_passes_the_question_over_is_a_request_of_its_own() -> None:
    world = Approving(calls("hi"), DONE)
    asked_by(world)
    more = world.ask(user("never mind", "u2"), run="r2")
    world.run(more)
    assert (world.stored(more).webhook, world.stored(more).schedule_id, world.stored(more).parent_run_id) == (
        "",
        "",
        "",
    )


def test_a_question_of_an_agent_that_is_gone_may_be_cancelled_and_not_be_answered() -> None:
    world = Approving(calls("hi"), DONE)
    asked_by(world)
    world.agents.delete(world.agent.id)
    entry = {"interruptId": "r1/1", "payload": {"approved": True}}
    with pytest.raises(NotFound):
        world.run(asked(resume=[{**entry, "status": "resolved"}]))
    cancel = asked(resume=[{**entry, "status": "cancelled"}], run="r2")
    world.run(cancel)
    assert (world.stored(cancel).status, world.stored(cancel).agent_id) == (RunStatus.FINISHED, "karma")

"""A run that went on from a point asks in its own branch: whoever answers, and however, goes on there."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from karma.core.ids import RunId
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import LEASE, Run, RunStatus, ThreadBusy
from karma.runs.interrupts import AnswerStatus, InterruptAnswered
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller, ended, text
from tests.support.forks import forks
from tests.support.lost_runs import live
from tests.support.plans import allowances
from tests.support.run_services import executor
from tests.support.run_world import World as RunWorld
from tests.support.run_world import user
from tests.support.talks import Talk
from tests.unit.runs.test_interrupts import DONE, SAID, Approving, calls
from tests.unit.runs.test_subagents import Approving as Family
from tests.unit.runs.test_subagents import lead, results
from tests.unit.runs.test_withdrawn_questions import going_back

EXPIRED = "20"
"""The beginning of a moment."""
YES, NO = {"approved": True}, {"approved": False}
REFUSED = '{"error":"The user refused this call: it was not made."}'
CANCELLED = '{"error":"The user cancelled this call: it was not made."}'
LEFT = ("refused", "words", "open")
"""The fate of the first run's question before the conversation went back."""
ANSWERS = {"yes": (YES, SAID), "no": (NO, REFUSED), "cancel": (None, CANCELLED)}
BRINGS = ("nothing", "the branch", "the other branch")
"""The history that the client of the answer sends."""


def restore(world: RunWorld, run: str, *, in_place: bool = False) -> Run:
    """Restore the point behind a run's first turn, also in place before, and let the new run be executed."""
    points = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
    first = write_point_id(points.page(caller().user_id, RunId(run), limit=10)[0].id)
    back = going_back(world, points)
    if in_place:
        back.in_place.restore(caller(), first, Modifications())
    begun = back.restore_as_run(caller(), first, Modifications(), key=None).run
    assert begun is not None
    execute(world, begun)
    return world.store.runs_by_key[begun.key]


def execute(world: RunWorld, run: Run) -> None:
    world.clock.pass_by(LEASE)
    process = executor(
        store=world.store,
        executions=world.executions,
        model=world.model,
        tools=world.tools,
        library=world.library,
        allowances=allowances(clock=world.clock),
        clock=world.clock,
        limits=world.limits,
        agents=world.agents,
        leases=world.store.leases,
    )
    assert live(lambda: process.go_on(run.key))


def asked(left: str, *, turns: int = 1) -> Approving:
    """Return a world in whose first run `c1` was asked about, with what became of that; `turns` more ask again."""
    after = {"refused": [DONE], "words": [DONE], "open": []}[left]
    world = Approving(calls("hi"), *after, *[DONE for _ in range(turns)])
    world.run(world.ask(user("go", "u1"), run="r1"))
    if left == "refused":
        world.run(world.ask(resume={"r1/1": NO}, run="r2"))
    elif left == "words":
        world.run(world.ask(user("never mind", "u2"), run="r2"))
    return world


def brought(world: Approving, what: str, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return {"nothing": [], "the branch": world.held()[:2], "the other branch": before}[what]


@pytest.mark.fault("F-29t")
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("left", LEFT)
def test_its_question_is_answered_where_it_was_asked(left: str, *, in_place: bool) -> None:
    for answer, brings in product(ANSWERS, BRINGS):
        world = asked(left)
        before = world.held()
        new = restore(world, "r1", in_place=in_place)
        thread = world.thread()
        assert (new.status, thread.interrupts, thread.latest) == (RunStatus.INTERRUPTED, (f"{new.key.run_id}/1",), 1)
        payload, result = ANSWERS[answer]
        resume = {thread.interrupts[0]: payload}
        world.run(world.ask(*brought(world, brings, before), resume=resume, run="r3"))
        assert world.results() == [result], (answer, brings)
        assert [said for said, _ in world.shown()] == ["user", "assistant", "tool"]
        assert world.thread().interrupts == ()


@pytest.mark.fault("F-29t")
def test_the_call_waits_for_one_answer_at_a_time() -> None:
    world = asked("open")
    first = restore(world, "r1")
    again = restore(world, "r1")
    found = world.store.interrupts(caller().user_id, ["r1/1", f"{first.key.run_id}/1", f"{again.key.run_id}/1"])
    assert [each.answer and each.answer.status for each in found.values()] == [
        AnswerStatus.CANCELLED,
        AnswerStatus.CANCELLED,
        None,
    ]
    for name in list(found)[:2]:
        with pytest.raises(InterruptAnswered):
            world.run(world.ask(resume={name: YES}, run="r3"))
    world.run(world.ask(resume={f"{again.key.run_id}/1": YES}, run="r3"))
    assert world.results() == [SAID]


@pytest.mark.fault("F-29t")
@pytest.mark.parametrize("by", ["an answer", "nobody"])
def test_what_waits_behind_it_goes_on_in_its_branch(by: str) -> None:
    talk = Talk([("again", "ask")])
    first = talk.say("move it")
    talk.execute()
    talk.request(strategy=None, resume=[{"interruptId": talk.open()[0].id, "status": "resolved", "payload": NO}])
    talk.execute()
    points = CheckpointService(talk.store, MemoryCheckpoints(talk.store), talk.clock)
    point = write_point_id(points.page(caller().user_id, first.key.run_id, limit=10)[0].id)
    forks(talk).restore_as_run(caller(), point, Modifications(), key=None)
    talk.settle()
    (question,) = talk.open()
    second = talk.say("and then")
    talk.settle()
    assert talk.status(second) is RunStatus.QUEUED
    with pytest.raises(ThreadBusy, match="A run waits for its turn"):
        forks(talk).restore_as_run(caller(), point, Modifications(), key=None)

    if by == "an answer":
        talk.approve([question])
        talk.execute()
    else:
        talk.clock.pass_by(question.expires_at - talk.clock.now())
        talk.settle()

    assert talk.status(second) is RunStatus.FINISHED
    told = talk.made["c1"] if by == "an answer" else f'{{"error":"Nobody approved this call until {EXPIRED}'
    assert [each.role for each in talk.branch()][:3] == ["user", "assistant", "tool"]
    assert talk.results()[0][1].startswith(told)
    assert [each.content for each in talk.branch() if each.role == "user"] == ["move it", "and then"]


@pytest.mark.fault("F-29t")
@pytest.mark.parametrize("payload", [YES, NO])
def test_a_subagent_s_question_is_answered_in_the_branch_of_its_run(payload: dict[str, bool]) -> None:
    world = Family()
    world.script("scout", [*text("It is there."), *ended()])
    world.script("lead", DONE)
    world.run(lead(user("go", "u1")))
    world.run(lead(run="r2", resume={"r1/1": NO}))
    restore(world, "r1")
    (name,) = world.thread().interrupts
    world.run(lead(run="r3", resume={name: payload}))
    assert sorted(content for content, _ in results(world)) == ["It is there.", '{"said":"own","to":"Ada"}']
    assert world.thread().interrupts == ()

"""An agent that is stopped makes no call that it has asked about, whoever approves it afterwards."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from functools import partial

import pytest

from karma.core.ids import AgentId, RunId
from karma.runs.checkpoints import CheckpointService
from karma.runs.control import RunControl, Stopped
from karma.runs.domain import RunStatus
from karma.runs.forking import ForkService
from karma.runs.interrupts import Interrupt, InterruptExpired
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from karma.runs.ports import ActivePage
from karma.runs.wishes import AgentStop
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.drafts import MemoryDrafts
from tests.fakes.runs import MemoryRuns, RememberedWatchdog, RequestedExecutions, caller, ended
from tests.support.lost_runs import Life
from tests.support.plans import allowances
from tests.support.run_services import no_mcp_tools
from tests.support.run_world import World, spec, user
from tests.support.subagents import SubagentWorld
from tests.support.talks import Talk
from tests.unit.runs.test_interrupts import DONE, Approving, calls
from tests.unit.runs.test_subagents import ALWAYS, YES, asks, lead, results, says
from tests.unit.runs.test_subagents import Approving as Family

TOLD = "The agent was stopped, or the user went back, before this call was approved: it was not made."


def stop(world: World, agent_id: str) -> Stopped:
    executions, watchdog = RequestedExecutions(), RememberedWatchdog()
    control = RunControl(world.store, executions=executions, watchdog=watchdog, clock=world.clock, agents=world.agents)
    return control.stop_agent(caller().user_id, AgentId(agent_id))


def test_its_question_is_cancelled_and_its_model_is_told() -> None:
    world = Approving(calls("hi", "ho"), DONE)
    world.run(world.ask(user("go", "u1"), run="r1"))
    assert stop(world, world.agent.id) == ((), (), ["r1/1", "r1/2"])
    assert stop(world, world.agent.id).questions == [], "a repeat finds nothing more"

    with pytest.raises(InterruptExpired, match="its agent was stopped"):
        world.run(world.ask(resume={"r1/1": YES}, run="r2"))

    world.run(world.ask(user("and now?", "u2"), run="r3"))
    assert [TOLD in each for each in world.results()] == [True, True]


def going_back(world: World, points: CheckpointService) -> ForkService:
    return ForkService(
        points,
        store=world.store,
        watchdog=world.watchdog,
        executions=world.executions,
        tools=world.tools,
        limits=world.limits,
        mcp=no_mcp_tools(world.clock),
        agents=world.agents,
        configuration=world.configuration,
        library=world.library,
        allowances=allowances(clock=world.clock),
        drafts=MemoryDrafts(world.store),
        clock=world.clock,
    )


def end_of(points: CheckpointService, run: str) -> str:
    """Label the last point of a run, and return its id."""
    return write_point_id(points.label(caller().user_id, RunId(run), description="here", tags=()).id)


@pytest.mark.fault("F-29s")
def test_those_behind_the_point_to_which_a_conversation_goes_back_are_cancelled() -> None:
    world = Approving(DONE, calls("hi"), DONE, DONE)
    world.run(world.ask(user("hello", "u0"), run="r0"))
    world.run(world.ask(user("go", "u1"), run="r1"))
    points = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
    back, asked = end_of(points, "r0"), end_of(points, "r1")
    going_back(world, points).in_place.restore(caller(), asked, Modifications())
    assert [each.answer for each in world.store.interrupts(caller().user_id, ["r1/1"]).values()] == [None]

    for _ in range(2):
        going_back(world, points).in_place.restore(caller(), back, Modifications())
        (question,) = world.store.interrupts(caller().user_id, ["r1/1"]).values()
        assert question.has_lapsed
    with pytest.raises(InterruptExpired, match="its conversation went back"):
        world.run(world.ask(resume={"r1/1": YES}, run="r2"))

    world.run(world.ask(user("so?", "u2"), run="r3"))
    assert [said for said, _ in world.shown()] == ["user", "assistant", "user"]
    assert world.thread().interrupts == ()


def test_one_that_was_answered_stays_as_it_was() -> None:
    world = Approving(calls("hi", "ho"), DONE)
    world.run(world.ask(user("go", "u1"), run="r1"))
    world.run(world.ask(resume={"r1/1": YES}, run="r2"))
    assert stop(world, world.agent.id).questions == ["r1/2"]


def unlisted(store: MemoryRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the lists of active runs lag behind, as indexes may."""
    for name in ("active", "with_work_of"):
        monkeypatch.setattr(store, name, lambda *_, **__: ActivePage([], None))


@pytest.mark.fault("F-32da")
@pytest.mark.parametrize("meanwhile", [False, True], ids=["before", "amid"])
def test_a_call_that_somebody_has_just_approved_is_not_made(
    monkeypatch: pytest.MonkeyPatch, *, meanwhile: bool
) -> None:
    talk = Talk([("again", "ask")])
    talk.permission = "device:control"
    asking = talk.say("begin")
    talk.execute()
    assert asking.agent_id is not None
    unlisted(talk.store, monkeypatch)
    lapse, approved = talk.store.lapse, partial(lambda: talk.approve(talk.open()))

    def late(question: Interrupt, *, at: datetime) -> bool:
        approved()
        return lapse(question, at=at)

    if meanwhile:
        monkeypatch.setattr(talk.store, "lapse", late)
    else:
        approved()
    stopped = talk.control(Life(None)).stop_agent(asking.key.user_id, asking.agent_id)
    assert ([run.key.run_id for run in stopped.runs], stopped.questions) == (["r2"], [])
    talk.execute()
    assert talk.made == {}
    assert talk.status(stopped.runs[0]) is RunStatus.CANCELLED


@pytest.mark.fault("F-32da")
def test_a_subagent_s_call_that_somebody_has_just_approved_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Family(below=False)
    world.run(lead(user("go", "u1")))
    unlisted(world.store, monkeypatch)
    scout, request = world.agents.find("scout").id, lead(run="r2", resume={"r1/1": YES})
    asyncio.run(world.service.start(caller(), request))
    stopped = stop(world, scout)
    assert ([run.key.run_id for run in stopped.within], stopped.runs) == (["r2"], ())
    assert list(world.store.wishes(world.stored(request).key)) == [AgentStop(scout)]


def test_what_was_approved_long_ago_is_not_looked_for() -> None:
    world = Approving(calls("hi"), DONE)
    world.run(world.ask(user("go", "u1"), run="r1"))
    world.run(world.ask(resume={"r1/1": YES}, run="r2"))
    world.clock.pass_by(timedelta(minutes=2))
    read = world.store.run
    world.store.run = lambda key: pytest.fail(f"{key} was read") if key.run_id == "r2" else read(key)  # type: ignore[method-assign]
    assert stop(world, world.agent.id) == ((), (), [])


def test_another_agent_s_stays_open() -> None:
    world = Approving(calls("hi"), DONE)
    world.run(world.ask(user("go", "u1"), run="r1"))
    assert stop(world, world.agents.create(spec(name="other", tools=("echo",))).id).questions == []
    world.run(world.ask(resume={"r1/1": YES}, run="r2"))
    assert world.results() == ['{"said":"hi","to":"Ada"}']


@pytest.mark.parametrize(
    ("stopped", "below"), [("scout", False), ("digger", True), ("scout", True), ("lead", False), ("lead", True)]
)
def test_also_within_a_run_of_another_agent_that_called_it(stopped: str, *, below: bool) -> None:
    world = Family(below=below)
    world.run(lead(user("go", "u1")))
    assert stop(world, world.agents.find(stopped).id).questions == ["r1/1"]
    with pytest.raises(InterruptExpired):
        world.run(lead(run="r2", resume={"r1/1": YES}))
    assert [said for said, _ in results(world)] == ['{"said":"own","to":"Ada"}']


def test_what_one_subagent_asks_is_not_another_s() -> None:
    world = SubagentWorld()
    world.agent("scout", tools=("echo",), approvals=ALWAYS)
    world.agent("other", tools=("echo",), approvals=ALWAYS)
    world.agent("lead", "scout", "other")
    world.script("lead", [*asks("scout"), *asks("other", call_id="c2"), *ended()], DONE)
    for name in ("scout", "other"):
        world.script(name, [*says("hi"), *ended()], DONE)
    world.run(lead(user("go", "u1")))
    assert len(stop(world, world.agents.find("scout").id).questions) == 1

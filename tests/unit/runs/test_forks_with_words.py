"""A new message behind open calls to which somebody goes back: none of them is made, and none is open for good."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from karma.conversations.domain import Message, ThreadKey
from karma.conversations.history import STOPPED, awaited_calls
from karma.models.ports import StopReason
from karma.runs.calls import PASSED_OVER
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import Run, RunStatus
from karma.runs.modifications import GivenResult, Modifications
from karma.runs.points import write_point_id
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller, ended, tool
from tests.support.forks import execute, forks
from tests.support.lost_runs import KEY, Life, World, begin
from tests.support.run_world import FIND_TOOL, asked, user
from tests.support.run_world import World as RunWorld
from tests.support.subagents import Delegating
from tests.unit.runs.test_begun_calls import Unsure, first_point
from tests.unit.runs.test_forking import name, points
from tests.unit.runs.test_reads_of_two_moments import asking
from tests.unit.runs.test_withdrawn_questions import going_back

pytestmark = pytest.mark.fault("F-38c")

HOW = pytest.mark.parametrize("how", ["fork", "restore_as_run"])
WORDS = Modifications(message="Never mind")


def branch(world: World, run: Run) -> list[Message]:
    thread = world.store.thread(ThreadKey(KEY.user_id, run.thread_id))
    return thread.conversation(thread.latest).messages


def left_open(messages: Sequence[Message]) -> set[str]:
    told = {each.tool_call_id for each in messages if each.role == "tool"}
    return {call.id for each in messages for call in each.tool_calls} - told


def messages_at(world: World, point: str) -> list[Message]:
    return CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock).find(KEY.user_id, point).messages


def go_on(world: World, how: str, point: str, wanted: Modifications) -> tuple[Run, list[Message]]:
    """Begin a run from a point, let it be executed, and return it with the conversation with which it began."""
    run: Run = getattr(forks(world), how)(caller(), point, wanted, key=None).run
    messages = branch(world, run)
    world.effects.clear()
    world.done.clear()
    execute(world, run.key)
    return world.store.runs_by_key[run.key], messages


@HOW
@pytest.mark.parametrize("kind", ["made", "asked about", "of subagents"])
def test_each_open_call_has_a_result_before_the_words(how: str, kind: str) -> None:
    world = Delegating() if kind == "of subagents" else World(unique_ids=True)
    if kind == "asked about":
        world.given_agents = asking("look")
    begin(world, Life(None))
    passed_over = 0
    for point in points(world):
        held = messages_at(world, name(point))
        calls = awaited_calls(held)
        run, messages = go_on(world, how, name(point), WORDS)
        new = messages[len(held) :]
        assert [each.role for each in new] == ["tool"] * len(calls) + ["user"]
        assert {(each.tool_call_id, each.failed, each.effect) for each in new[:-1]} == {
            (call.id, True, "none") for call in calls
        }
        assert all(PASSED_OVER in str(each.content) for each in new[:-1])
        assert run.status is RunStatus.FINISHED or kind == "asked about"
        assert not {call.id for call in calls} & {call for _, call in world.effects}
        assert not {call.id for call in calls} & left_open(branch(world, run))
        passed_over += len(calls)
    assert passed_over


@HOW
def test_those_that_were_given_a_result_have_that_and_those_that_were_cut_from_theirs_none(how: str) -> None:
    world = World(unique_ids=True)
    begin(world, Life(None))
    first = name(points(world)[0])
    given, other = awaited_calls(messages_at(world, first))
    results = {given.id: GivenResult("mine")}
    _, messages = go_on(world, how, first, Modifications(message="Go on", tool_results=results))
    assert [(each.role, each.tool_call_id) for each in messages[-3:]] == [
        ("tool", given.id),
        ("tool", other.id),
        ("user", ""),
    ]
    assert messages[-3].content == "mine"
    run, messages = go_on(world, how, name(points(world)[-1]), Modifications(message="Go on", keep_messages=2))
    assert [PASSED_OVER in str(each.content) for each in messages[-3:]] == [True, True, False]
    assert not left_open(branch(world, run))


@HOW
def test_one_of_which_nobody_knows_the_outcome_says_so(how: str) -> None:
    talk = Unsure([("ask", "1")], ends="is stopped")
    first = talk.say("move it")
    talk.execute()
    run = getattr(forks(talk), how)(caller(), first_point(talk, first), WORDS, key=None).run
    (result,) = [each for each in branch(talk, run) if each.role == "tool"]
    assert (result.content, result.effect) == (STOPPED, "unknown")
    talk.execute()
    assert len(talk.tries) == 1
    assert not left_open(branch(talk, run))


@HOW
def test_only_the_client_s_own_calls_take_their_results_later(how: str) -> None:
    world = RunWorld([*tool("c1", "echo", '{"word":"hi"}'), *tool("c2", "askUser", "{}"), *ended(StopReason.TOOL_USE)])
    world.run(asked(user("go", "u1"), run="r1", tools=[FIND_TOOL]))
    points = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
    first = write_point_id(points.page(KEY.user_id, KEY.run_id, limit=10)[0].id)
    assert len(awaited_calls(points.find(KEY.user_id, first).messages)) == 2
    run = getattr(going_back(world, points), how)(caller(), first, WORDS, key=None).run
    thread = world.store.thread(ThreadKey(KEY.user_id, run.thread_id))
    messages = thread.conversation(thread.latest).messages
    assert [(each.role, each.tool_call_id) for each in messages[-2:]] == [("tool", "c1"), ("user", "")]
    assert left_open(messages) == {"c2"}

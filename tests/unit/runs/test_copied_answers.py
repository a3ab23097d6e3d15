"""A run from a point goes on with what later and other runs have done with its subagents: nothing is done twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest

from karma.configuration.current import CurrentConfiguration, RunChoice
from karma.configuration.domain import ComponentType, ComponentUnavailable
from karma.conversations.attachments import cut
from karma.conversations.domain import Message, ThreadKey, ToolCall
from karma.core.errors import PayloadTooLarge
from karma.core.ids import RunId
from karma.runs.domain import ACTIVE, LEASE, Run, RunKey, RunStatus
from karma.runs.drafts import require_room
from karma.runs.interrupts import Interrupt, Reason
from karma.runs.modifications import Modifications
from karma.runs.subagents.copying import CopiedWork
from karma.runs.subagents.steps import Transcript, copied, read_steps, record
from tests.fakes.configuration import MemoryComponents, built_in
from tests.fakes.runs import caller
from tests.support.forks import execute, forks
from tests.support.lost_runs import KEY, THREAD, Life, Teller, begin, live
from tests.unit.runs.test_restored_subagents import (
    HOW,
    USER,
    Counted,
    Family,
    answer,
    definition_of_scout,
    finish,
    go_back,
    of_subagents,
    points,
    questions,
)


class Steps(Counted):
    """A model whose subagent makes two calls one after the other, each of which has to be approved."""

    def __init__(self, life: Life, world: Family) -> None:
        super().__init__(life, world)
        self._calls = {
            ("lead", 0): (("digger", {"task": "dig"}),),
            ("digger", 0): (("ask", {"word": "d"}),),
            ("digger", 1): (("ask", {"word": "d"}),),
        }


EDITED = {"word": "e"}


class Stepwise(Family):
    """A world in which each call of a subagent is approved by a run of its own."""

    def teller(self, life: Life) -> Teller:
        return Steps(life, self)

    def answer(self, question: Interrupt) -> dict[str, Any]:
        """Approve a call with other arguments than its model's."""
        found = super().answer(question)
        if question.reason is Reason.TOOL_CALL:
            found["payload"]["editedArgs"] = EDITED
        return found


def second_question() -> tuple[Stepwise, Run]:
    """Return a world in which a run was answered, and its next one asks about what its subagent does then."""
    world = Stepwise()
    begin(world, Life(None))
    second = answer(world, world.store.runs_by_key[KEY], name="r2")
    assert second.status is RunStatus.INTERRUPTED
    assert len(world.effects) == 1
    return world, second


def _next(lives: list[Life]) -> Life:
    return lives.pop() if lives else Life(None)


def give_up(world: Family, run: Run) -> None:
    """Cancel a run whose process was lost."""
    world.control(Life(None)).cancel(USER, run.key.run_id)
    world.clock.pass_by(LEASE * 2)
    live(lambda: world.executor(Life(None)).go_on(run.key))


@pytest.mark.fault("F-29ze")
@pytest.mark.parametrize("how", HOW)
def test_what_a_later_run_was_allowed_to_do_is_not_done_twice(how: str) -> None:
    """From the first point, wherever the third run died: it had made the call that the second run asked about."""
    met: Counter[tuple[Any, ...]] = Counter()
    for step in count(1):
        world, second = second_question()
        life = Life(step, after=step % 2 == 0)
        lives = [life]
        third = answer(world, second, name="r3", life=partial(_next, lives))
        if not life.is_dead:
            break
        if world.store.runs_by_key[third.key].status not in ACTIVE:
            continue
        give_up(world, third)
        thread = world.store.threads[ThreadKey(USER, third.thread_id)]
        is_told = any(each.role == "tool" and each.effect == "told" for each in thread.messages)
        if is_told or world.store.runs_by_key[third.key].status is not RunStatus.CANCELLED:
            continue  # else all that it did is behind the point
        before = len(world.effects)
        run = go_back(world, points(world)[0], how)
        execute(world, run.key)
        now = world.store.runs_by_key[run.key]
        asked = questions(world, now)
        met[before, *(each.reason for each in asked)] += 1
        assert {(each.made_by, each.asked.arguments) for each in asked} <= {(second.key.run_id, '{"word":"e"}')}
        assert finish(world, now).status is RunStatus.FINISHED, step
        assert set(world.effects.values()) == {1}, step
        assert len(world.effects) == 2, step
    assert met.keys() >= {(1, Reason.UNKNOWN_OUTCOME), (2, Reason.UNKNOWN_OUTCOME)}
    assert not [each for each in met if Reason.TOOL_CALL in each], "it is approved a second time"


class Pair(Counted):
    """A model whose agent calls two others at once, each of which makes one call."""

    def __init__(self, life: Life, world: Family) -> None:
        super().__init__(life, world)
        self._calls = {
            ("lead", 0): (("scout", {"task": "look"}), ("digger", {"task": "dig"})),
            ("scout", 0): (("look", {"word": "s"}),),
            ("digger", 0): (("again", {"word": "s"}), ("look", {"word": "s"})),
        }

    def calls(self, agent: str, turn: int, *calls: tuple[str, dict[str, str]]) -> None:
        """Let an agent make other calls in a turn."""
        self._calls = {**self._calls, (agent, turn): calls}


CALLS = 3
"""Calls of both together."""


class Paired(Family):
    """A world of two subagents whose calls need no approval, and whose process dies at a step."""

    def teller(self, life: Life) -> Teller:
        return Pair(life, self)


def lost_pairs(kind: type[Paired] = Paired) -> Iterator[tuple[int, Paired, list[str]]]:
    """Yield worlds whose first run was lost at one step after the other, before its thread had any result; with step
    and points."""
    for step in count(1):
        world, life = kind(), Life(step, after=step % 2 == 0)
        begin(world, life)
        thread = world.store.threads.get(THREAD)
        if not life.is_dead or any(each.role == "tool" for each in (thread.messages if thread else ())):
            return
        run = world.store.runs_by_key.get(KEY)
        if run is not None and run.status in ACTIVE and (found := points(world)):
            yield step, world, found


def ended(world: Family, key: RunKey = KEY) -> int:
    """Return how many of a run's subagents have ended whose answer its thread does not have."""
    transcripts = read_steps(world.store.delegated(key), own=key.run_id).transcripts.values()
    thread = world.store.threads[ThreadKey(USER, world.store.runs_by_key[key].thread_id)]
    told = {each.tool_call_id for each in thread.messages if each.effect == "told"}
    return sum(each.ended is not None and each.definition.call_id not in told for each in transcripts)


@pytest.mark.fault("F-29zf")
@pytest.mark.parametrize("how", HOW)
def test_the_answer_of_a_cancelled_run_s_subagent_is_told_by_who_goes_on(how: str) -> None:
    met: Counter[int] = Counter()
    for step, world, found in lost_pairs():
        give_up(world, world.store.runs_by_key[KEY])
        met[ended(world)] += 1
        last = finish(world, go_back(world, found[0], how))
        assert last.status is RunStatus.FINISHED
        assert of_subagents(world.made, world).total() == CALLS, step
    assert met.keys() >= {0, 1}


@pytest.mark.fault("F-29zf")
@pytest.mark.parametrize("lives_on", [False, True], ids=["the first run was cancelled", "the first run finished"])
def test_a_copy_that_has_ended_is_copied_on_until_its_own_thread_knows_its_answer(lives_on: bool) -> None:
    met: Counter[int] = Counter()
    for step, world, found in lost_pairs():
        first = go_back(world, found[0], "fork")
        left = CALLS - of_subagents(world.made, world).total()
        if lives_on:
            finish(world, world.store.runs_by_key[KEY])
        else:
            give_up(world, world.store.runs_by_key[KEY])
        second = go_back(world, points(world, first.key)[0], "fork")
        met[ended(world, first.key)] += 1
        for run in (second, first):
            before = of_subagents(world.made, world).total()
            assert finish(world, run).status is RunStatus.FINISHED
            assert of_subagents(world.made, world).total() - before <= left, step
    assert met.keys() >= {0, 1}


class Disabled(CurrentConfiguration):
    """A configuration in which an administrator has just disabled an agent."""

    def __init__(self, agent: str) -> None:
        super().__init__(MemoryComponents(), built_in=built_in())
        self._agent = agent

    def for_run(self, *, agent: str, model: str, summaries: str = "") -> RunChoice:
        if agent == self._agent:
            raise ComponentUnavailable(ComponentType.AGENT, agent, "is disabled")
        return super().for_run(agent=agent, model=model, summaries=summaries)


class Nested(Paired):
    """A world in which one of the two calls the other."""

    def teller(self, life: Life) -> Teller:
        teller = Pair(life, self)
        teller.calls("scout", 0, ("again", {"word": "s"}), ("digger", {"task": "dig"}))
        return teller


@pytest.mark.fault("F-29zg")
@pytest.mark.parametrize("agent", ["scout", "digger"])
@pytest.mark.parametrize("how", HOW)
def test_what_had_begun_begins_nowhere_anew_where_its_agent_was_just_disabled(how: str, agent: str) -> None:
    """The process that executes the new run does not know yet that the agent is disabled."""
    met: Counter[str] = Counter()
    for step, world, found in lost_pairs(Nested):
        if how == "restore_as_run":
            give_up(world, world.store.runs_by_key[KEY])
        known = read_steps(world.store.delegated(KEY), own=KEY.run_id).transcripts.values()
        begun = {(each.definition.parent, each.definition.name): each.ended for each in known}
        asked = {each: times for each, times in world.turns.items() if each[0] == agent}
        service = forks(world, configuration=Disabled(agent))
        run: Run = getattr(service, how)(caller(), found[0], Modifications(), key=None).run
        if step % 2:  # on from there, where the agent is enabled again
            run = forks(world).fork(caller(), points(world, run.key)[0], Modifications(), key=None).run
        assert finish(world, run).status is RunStatus.FINISHED
        if len([name for _, name in begun if name == agent]) == (2 if agent == "digger" else 1):
            assert asked == {each: times for each, times in world.turns.items() if each[0] == agent}, step
            met["begun"] += 1
        met["none"] += not begun
    assert met["begun"] > 3
    assert met["none"]


@pytest.mark.fault("F-29zi")
def test_records_and_their_copies_name_the_long_results_that_they_have() -> None:
    words, stored = cut("x" * 100_000, whole_to_bytes=1_000)
    (name,) = stored
    run, other = RunId("r1"), RunId("r2")
    definition = definition_of_scout()
    transcript = Transcript(run_id=run, begun_by=run, asked_by=run, subagent="sub_a", definition=definition)
    said = [
        Message(id="m0", role="user", content="task"),
        Message(id="m1", role="assistant", content="", tool_calls=(ToolCall("c1", "look", "{}"),)),
        Message(id="m2", role="tool", content=words, tool_call_id="c1"),
    ]
    steps = [
        record(transcript, by=run, message=each, definition=None if transcript.size else definition) for each in said
    ]
    assert [each.attachments for each in steps] == [(), (), (name,)]
    work = CopiedWork(steps=tuple(copied(steps, definition, beside=other)))
    assert work.attachments == (name,)
    with pytest.raises(PayloadTooLarge):
        require_room((), most=10, named=[str(each) for each in range(41)])

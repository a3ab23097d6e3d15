"""A run that goes on from a point with what a subagent had done there: nothing is done twice, and nothing is shared."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import pytest

from karma.conversations.domain import Message, ThreadKey, ToolCall
from karma.core.ids import AgentId, RunId
from karma.core.requests import IdempotencyKey
from karma.models.budgets import Spent
from karma.models.domain import Target, Usages
from karma.models.ports import ModelEvent, ModelRequest
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import ACTIVE, LEASE, Run, RunKey, RunStatus
from karma.runs.interrupts import Interrupt
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from karma.runs.subagents.steps import Definition, Ended, Transcript, Used, copied, read_steps, record
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import KeptFrames, caller
from tests.support.forks import execute, forks
from tests.support.lost_runs import KEY, Life, Teller, begin, live
from tests.support.requests import key
from tests.support.run_world import asked
from tests.support.subagents import Chain, Delegating
from tests.unit.runs.test_interrupted_runs import Approving

USER = caller().user_id
HOW = ("restore_as_run", "fork")


class Counted(Chain):
    """The model, which counts the turns that it is asked for, by agent."""

    def __init__(self, life: Life, world: Family) -> None:
        super().__init__(life, asks=world.asks)
        self._world = world

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        turn = sum(message.role == "assistant" for message in request.messages)
        task = str(request.messages[0].content)
        self._world.turns[request.system[0], task, turn] += 1
        async for batch in super().stream(request):
            yield batch


class Family(Delegating, Approving):
    """A world in which subagents do something, and what one of them does then has to be approved."""

    rule = ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.word == 'd'")
    free = ("0", "1", "s")

    def __init__(self, *, asks: bool = False) -> None:
        super().__init__(asks=asks)
        self.turns: Counter[tuple[str, str, int]] = Counter()

    def teller(self, life: Life) -> Teller:
        return Counted(life, self)

    @property
    def made(self) -> Counter[tuple[str, str]]:
        """Return how often each call took effect, for whichever run it was made."""
        found: Counter[tuple[str, str]] = Counter()
        for (name, call), times in self.effects.items():
            found[name, call.rpartition(" ")[2]] += times
        return found


def points(world: Family, key: RunKey = KEY) -> list[str]:
    service = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
    return [write_point_id(each.id) for each in service.page(key.user_id, key.run_id, limit=100)]


def go_back(world: Family, point: str, how: str, *, life: Life | None = None, by: IdempotencyKey | None = None) -> Run:
    run: Run = getattr(forks(world, life), how)(caller(), point, Modifications(), key=by).run
    return run


def finish(world: Family, run: Run, life: Callable[[], Life] = lambda: Life(None)) -> Run:
    """Execute a run, and answer all that it and those behind it ask, until one ends without a question."""
    for nth in range(12):
        while (now := world.store.runs_by_key[run.key]).status in ACTIVE:
            execute(world, run.key, life())
        if now.status is not RunStatus.INTERRUPTED:
            return now
        run = answer(world, now, name=f"{run.key.run_id[-8:]}-{nth}", life=life)
    raise AssertionError("it does not end")


def answer(world: Family, run: Run, *, name: str, life: Callable[[], Life] = lambda: Life(None)) -> Run:
    """Answer all questions of a run, and return the run that begins with that."""
    resume = [world.answer(each) for each in questions(world, run)]
    more: dict[str, Any] = {"resume": resume, "forwardedProps": {"agent_id": "lead"}}
    request = asked(run=name, thread=run.thread_id, **more)
    key = RunKey(USER, RunId(name))

    async def work(process: Life) -> None:
        await (await world.service(process).start(caller(), request)).execute(KeptFrames())

    while key not in world.store.runs_by_key:
        live(partial(work, life()))
    return world.store.runs_by_key[key]


def questions(world: Family, run: Run) -> list[Interrupt]:
    found = world.store.interrupts(USER, list(run.interrupt_ids))
    return [found[name] for name in run.interrupt_ids]


def suspended(**more: Any) -> Family:
    """Return a world whose first run waits for the approval of calls of its subagents."""
    world = Family(**more)
    begin(world, Life(None))
    assert world.store.runs_by_key[KEY].status is RunStatus.INTERRUPTED
    assert world.effects, "nothing was done before the question"
    return world


def words(world: Family, run: Run) -> str:
    return str(world.store.runs_by_key[run.key].response)


def of_subagents(made: Counter[tuple[str, str]], world: Family) -> Counter[tuple[str, str]]:
    """Return the effects of what subagents called; the run's own calls behind a point are made anew."""
    own = {call.id for thread in world.store.threads.values() for each in thread.messages for call in each.tool_calls}
    return Counter({(name, call): times for (name, call), times in made.items() if call not in own})


@pytest.mark.fault("F-29ab")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("nth", [0, -1], ids=["before their calls", "beside what was done"])
def test_the_new_run_asks_what_was_open_and_goes_on_from_there(how: str, nth: int) -> None:
    world = suspended()
    before, turns = of_subagents(world.made, world), world.turns.copy()
    run = go_back(world, points(world)[nth], how)
    execute(world, run.key)
    now = world.store.runs_by_key[run.key]
    assert now.status is RunStatus.INTERRUPTED
    assert (of_subagents(world.made, world), world.turns) == (before, turns), "something was done again"
    assert now.spent.cost_micros == 0
    mine = questions(world, now)
    assert {(each.key, each.made_by, each.inside and each.inside.runs) for each in mine} == {
        (run.key, run.key.run_id, (run.key.run_id,))
    }
    first = questions(world, world.store.runs_by_key[KEY])
    assert sorted(each.asked for each in mine) == sorted(each.asked for each in first)

    last = finish(world, now)

    assert last.status is RunStatus.FINISHED
    assert set(of_subagents(world.made, world).values()) == {1}
    assert set(world.turns.values()) == {1}, "a model was asked for a turn again"
    alone = suspended()
    assert words(world, last) == words(alone, finish(alone, alone.store.runs_by_key[KEY]))


@pytest.mark.fault("F-29ab")
@pytest.mark.parametrize("how", HOW)
def test_each_run_from_a_point_has_its_own(how: str) -> None:
    world = suspended()
    done = of_subagents(world.made, world)
    origin = [each for key, each in sorted(world.store.steps.items(), key=str) if key[0] == KEY]
    runs = [go_back(world, points(world)[-1], "fork")]
    for _ in range(2):
        run = go_back(world, points(world)[-1], how)
        execute(world, run.key)
        runs.append(run)
    execute(world, runs[0].key)
    assert [each for key, each in sorted(world.store.steps.items(), key=str) if key[0] == KEY] == origin
    # The first of two in one thread has been passed over by the second.
    alive = runs if how == "fork" else [runs[0], runs[2]]
    last = [finish(world, world.store.runs_by_key[each.key]) for each in alive]
    assert {each.status for each in last} == {RunStatus.FINISHED}
    assert len({words(world, each) for each in last}) == 1
    again = of_subagents(world.made, world)
    assert {again[each] for each in done} == {1}, "what was done before the question is done once"
    assert {times for each, times in again.items() if each not in done} == {len(alive)}, "each was approved for itself"
    assert [each for key, each in sorted(world.store.steps.items(), key=str) if key[0] == KEY] == origin


@pytest.mark.fault("F-29ab")
def test_the_question_of_before_is_answered_beside_a_fork() -> None:
    world = suspended()
    fork = go_back(world, points(world)[-1], "fork")
    execute(world, fork.key)
    for run in (KEY, fork.key):
        assert finish(world, world.store.runs_by_key[run]).status is RunStatus.FINISHED
    # Two of the first turns of diggers, and one of each other agent's; then each branch has its own.
    assert world.turns["scout", "look around", 0] == 1
    assert world.turns["scout", "look around", 2] == 2


@pytest.mark.fault("F-29ab")
def test_a_copy_is_copied_on() -> None:
    world = suspended()
    run = world.store.runs_by_key[KEY]
    for _ in range(3):
        run = go_back(world, points(world, run.key)[-1], "fork")
        execute(world, run.key)
        run = world.store.runs_by_key[run.key]
        assert run.status is RunStatus.INTERRUPTED
    assert finish(world, run).status is RunStatus.FINISHED
    assert set(of_subagents(world.made, world).values()) == {1}
    assert set(world.turns.values()) == {1}


@pytest.mark.fault("F-29ab")
@pytest.mark.parametrize("how", HOW)
def test_wherever_the_process_that_goes_back_dies_its_repeat_has_the_same(how: str) -> None:
    for step, after in ((step, after) for step in count(1) for after in (False, True)):
        world = suspended()
        life, point = Life(step, after=after), points(world)[-1]

        async def work(world: Family = world, life: Life = life, point: str = point) -> None:
            go_back(world, point, how, life=life, by=key())

        live(work)
        run = go_back(world, point, how, by=key())
        last = finish(world, run)
        assert last.status is RunStatus.FINISHED, step
        assert set(of_subagents(world.made, world).values()) == {1}, step
        if not life.is_dead:
            break


@pytest.mark.fault("F-29ab")
@pytest.mark.parametrize("asks", [False, True])
def test_wherever_the_first_run_died_what_its_subagents_did_is_done_once(asks: bool) -> None:
    """Forked while nobody executes the run: calls at work are made again, looked up, or asked about."""
    met: Counter[str] = Counter()
    for step in count(1):
        world = Family(asks=asks)
        life = Life(step, after=step % 2 == 0)
        begin(world, life)
        if not life.is_dead:
            break
        found = points(world) if KEY in world.store.runs_by_key else []
        if not found:
            continue
        before = of_subagents(world.made, world)
        last = finish(world, go_back(world, found[-1], "fork"))
        assert last.status is RunStatus.FINISHED, step
        assert set(of_subagents(world.made, world).values()) == {1}, step
        met["some" if before else "none"] += 1
    assert met["some"] > 5
    assert met["none"] > 5


@pytest.mark.fault("F-29ab")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("nth", range(8))
def test_wherever_the_runs_from_a_point_die_each_call_is_made_once(how: str, nth: int, seed: int) -> None:
    dice, kills = random.Random(f"{seed} {nth}"), [5]

    def life() -> Life:
        if not kills[0] or dice.random() < 0.3:
            return Life(None)
        kills[0] -= 1
        return Life(dice.randint(1, 40), after=dice.random() < 0.5)

    world = suspended(asks=dice.random() < 0.5)
    last = finish(world, go_back(world, dice.choice(points(world)), how), life)
    if last.status is not RunStatus.FAILED:
        assert last.status is RunStatus.FINISHED
        assert set(of_subagents(world.made, world).values()) == {1}
    assert max(of_subagents(world.made, world).values()) == 1
    assert world.unapproved == []


@pytest.mark.fault("F-29ab")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("nth", range(6))
def test_an_answer_that_was_lost_half_way_is_gone_on_with(how: str, nth: int, seed: int) -> None:
    """The run that answered is given up by who goes back to the point of the run that asked."""
    world, dice = suspended(), random.Random(f"{seed} {nth}")
    run = world.store.runs_by_key[KEY]
    life = Life(dice.randint(4, 60), after=dice.random() < 0.5)
    first, deaths = points(world)[-1], [life]
    later = answer(world, run, name="r2", life=lambda: deaths.pop() if deaths else Life(None))
    if how == "restore_as_run" and world.store.runs_by_key[later.key].status in ACTIVE:
        world.control(Life(None)).cancel(USER, later.key.run_id)
        world.clock.pass_by(LEASE * 2)
        live(lambda: world.executor(Life(None)).go_on(later.key))
    is_over = world.store.runs_by_key[later.key].status is RunStatus.FINISHED
    last = finish(world, go_back(world, first, how))
    assert last.status is RunStatus.FINISHED
    if not is_over:  # else all that it did is behind the point
        assert set(of_subagents(world.made, world).values()) == {1}


class TestTheAgentsOfNow:
    """Edits of an admin hold for those that were at work at the point, too."""

    def edit(self, world: Family, name: str, **changes: Any) -> None:
        agent = world.agents().find(name)
        world.agents().replace(agent.id, replace(agent.spec, **changes))

    @pytest.mark.fault("F-29ab")
    def test_does_not_call_what_it_has_not_any_more(self) -> None:
        world = suspended()
        self.edit(world, "digger", tools=("again",))
        last = finish(world, go_back(world, points(world)[-1], "fork"))
        assert last.status is RunStatus.FINISHED
        assert Counter(name for name, _ in of_subagents(world.made, world)) == {"again": 3, "look": 1}
        assert set(world.turns.values()) == {1}

    @pytest.mark.fault("F-29ab")
    def test_asks_about_what_has_to_be_approved_by_now(self) -> None:
        copies = 0
        rule = ApprovalRule(policy=ApprovalPolicy.ALWAYS)
        for step in count(1):
            world = Family()
            world.rule = ApprovalRule(policy=ApprovalPolicy.NEVER)
            begin(world, Life(step))
            if world.unapproved:
                break
            if KEY not in world.store.runs_by_key or not points(world):
                continue
            self.edit(world, "digger", approvals=[ToolApproval(tool=each, rule=rule) for each in ("look", "again")])
            run = go_back(world, points(world)[-1], "fork")
            stored = [each for key, each in world.store.steps.items() if key[0] == run.key]
            copies += len(read_steps(stored, own=run.key.run_id).transcripts)
            assert finish(world, run).status is RunStatus.FINISHED
            assert world.unapproved == [], step
        assert copies > 5

    @pytest.mark.fault("F-29ab")
    def test_one_that_is_gone_has_no_copy_and_its_call_fails(self) -> None:
        world = suspended()
        agents = {name: world.agents().find(name).id for name in ("scout", "digger")}
        world.agents().delete(agents["digger"])
        run = go_back(world, points(world)[-1], "fork")
        copies = read_steps([each for key, each in world.store.steps.items() if key[0] == run.key], own=run.key.run_id)
        assert {each.definition.agent_id for each in copies.transcripts.values()} == {agents["scout"]}
        assert finish(world, run).status is RunStatus.FINISHED
        assert world.turns["scout", "look around", 0] == 1
        thread = world.store.threads[ThreadKey(USER, run.thread_id)]
        assert any("AGENT_NOT_FOUND" in str(each.content) for each in thread.messages if each.failed)


def test_a_copy_is_what_it_was_in_fewer_records() -> None:
    """With a summary, numbers that only their text has, and what each step has used."""
    definition = definition_of_scout()
    began, later, beside = RunId("r1"), RunId("r2"), RunId("r3")
    original = Transcript(run_id=began, begun_by=began, asked_by=began, subagent="sub_a", definition=definition)
    said = [
        Message(id="m0", role="user", content="task"),
        *(Message(id=f"m{n}", role="assistant", content=f"{n} " + "x" * 100_000) for n in range(1, 6)),
        Message(id="m6", role="summary", content="they said much", keeps=1),
        Message(
            id="m7", role="assistant", content="", tool_calls=(ToolCall("c1", "look", '{"n":1.0000000000000000001}'),)
        ),
    ]
    used = Used(Usages(), Spent(tokens=3, cost_micros=7), 1)
    steps = [
        record(
            original,
            by=began if at < 4 else later,
            message=each,
            definition=definition if at == 0 else None,
            used=used if at else None,
        )
        for at, each in enumerate(said)
    ]
    copies = copied(reversed(steps), definition, beside=beside)
    assert [each.at for each in copies] == list(range(len(copies)))
    assert len(copies) == 3
    assert {(each.run_id, each.subagent) for each in copies} == {(beside, "sub_a")}
    before, after = (read_steps(each, own=beside).transcripts["sub_a"] for each in (steps, copies))
    assert (after.begun_by, after.asked_by, after.turns, after.used) == (began, later, before.turns, before.used)
    assert (after.messages, after.compacted, after.definition) == (before.messages, before.compacted, definition)
    assert not read_steps(copies, own=beside).steps, "nothing of it was used by the new run"
    ended = record(original, by=later, ended=Ended("done"))._replace(epoch=2)
    own = read_steps([*steps, ended], own=began).transcripts["sub_a"]
    copy = read_steps(copied([*steps, ended], definition, beside=beside), own=beside).transcripts["sub_a"]
    assert (own.ended, own.told_by) == (Ended("done"), later)
    assert (copy.ended, copy.told_by) == (Ended("done"), beside), "who goes on with it tells its own thread"


def definition_of_scout() -> Definition:
    return Definition(
        agent_id=AgentId("a1"),
        version=1,
        name="scout",
        call_id="c0",
        parent="",
        path=(),
        system="scout",
        target=Target(model="claude-test"),
        max_tokens=100,
        max_turns=3,
    )

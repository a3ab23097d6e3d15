"""Forks from every point of a run, and restoring it, also where the process dies at any call."""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator, Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from karma.agents.domain import Agent
from karma.agents.service import Catalogue
from karma.conversations.domain import Message, Thread, ThreadKey
from karma.core.errors import AppError, Conflict, NotFound, ValidationFailed
from karma.core.ids import UserId
from karma.core.requests import IdempotencyKeyReused
from karma.models.budgets import Budget, BudgetName, NamedBudget, Spent
from karma.models.domain import Usage
from karma.models.ports import (
    ModelEvent,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.runs.calls import PASSED_OVER, not_made
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import CheckpointKind, Run, RunKey, RunStatus, ThreadBusy
from karma.runs.modifications import GivenResult, Modifications, changed, common
from karma.runs.points import RunPoint, write_point_id
from karma.runs.setup import load_setup
from tests.fakes.agents import catalogue
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller
from tests.support.forks import execute, forks
from tests.support.lost_runs import KEY, THREAD, TOOLS, Killed, Life, Teller, World, begin
from tests.support.requests import key

STEPS = 20
OTHER = UserId("01890000-0000-7000-8000-000000000002")


class Worker(Teller):
    """A model that calls a tool in each of its turns but the last one."""

    def __init__(self, life: Life) -> None:
        super().__init__(life)
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self.requests.append(replace(request, messages=tuple(request.messages)))
        turn = sum(message.role == "assistant" for message in request.messages)
        said = {"type": "text", "text": f"turn {turn}"}
        yield [TextDelta(f"turn {turn}")]
        if turn >= STEPS - 1:
            yield [TurnEnded(StopReason.END, Usage(100, 50), [said])]
            return
        call_id = f"call_{turn}"
        yield [ToolBegun(call_id, "again"), ToolArguments(call_id, "{}"), ToolEnded(call_id, "{}")]
        call = {"type": "tool_use", "id": call_id, "name": "again", "input": {}}
        yield [TurnEnded(StopReason.TOOL_USE, Usage(100, 50), [said, call])]


class Patient(Catalogue):
    """Agents that may take many steps."""

    def __init__(self) -> None:
        self._found = catalogue(tools=TOOLS)

    def find(self, ref: str) -> Agent:
        agent = self._found.find(ref)
        return replace(agent, spec=replace(agent.spec, max_steps=STEPS + 5))


def worked() -> World:
    """Return a world with a run of twenty steps."""
    world, life = World(), Life(None)
    world.given_agents = Patient()
    begin(world, life, model=Worker(life))
    run = world.store.runs_by_key[KEY]
    assert (run.status, run.turns) == (RunStatus.FINISHED, STEPS)
    return world


@pytest.fixture(scope="module")
def long_run() -> World:
    return worked()


@pytest.fixture
def world() -> World:
    world = World()
    begin(world, Life(None))
    return world


def points(world: World, key: RunKey = KEY) -> list[RunPoint]:
    service = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
    return service.page(key.user_id, key.run_id, limit=1000)


def name(point: RunPoint) -> str:
    return write_point_id(point.id)


def parent(world: World) -> bytes:
    store = world.store
    kept = (store.runs_by_key[KEY], store.logs[KEY], store.setups[KEY], store.checkpoints[KEY], store.threads[THREAD])
    return pickle.dumps(kept)


def conversation(world: World, run: Run) -> list[Message]:
    thread = world.store.threads[ThreadKey(run.key.user_id, run.thread_id)]
    return [thread.messages[each] for each in thread.path_to(thread.latest)]


def run_on(world: World, run: Run) -> tuple[Run, Worker]:
    """Let a process execute a forked run, and return it as it ended, with its model."""
    life = Life(None)
    worker = Worker(life)
    kept = world.executor

    def executor(life: Life, **more: Any) -> Any:
        return kept(life, **{**more, "model": worker})

    world.executor = executor  # type: ignore[method-assign]  # the same processes, with a model that is asked
    try:
        execute(world, run.key, life)
    finally:
        world.executor = kept  # type: ignore[method-assign]
    return world.store.runs_by_key[run.key], worker


def last_question(messages: Sequence[Message]) -> Message:
    return [each for each in messages if each.role == "user"][-1]


EACH: dict[str, Callable[[list[Message]], Modifications]] = {
    "nothing": lambda _: Modifications(),
    "system_prompt": lambda _: Modifications(system_prompt="Be brief."),
    "model": lambda _: Modifications(model="claude-other"),
    "tools": lambda _: Modifications(tools=("look",)),
    "max_steps": lambda _: Modifications(max_steps=3),
    "max_tokens": lambda _: Modifications(max_tokens=77),
    "modified_query": lambda _: Modifications(modified_query="Another question"),
    "message": lambda _: Modifications(message="And now?"),
    "messages": lambda held: Modifications(messages={held[1].id: "Other words"}),
    "keep_messages": lambda held: Modifications(keep_messages=len(held) - 1),
    "tool_results": lambda held: Modifications(
        tool_results={held[-1].tool_call_id or held[-1].tool_calls[0].id: GivenResult("replaced", failed=True)}
    ),
}


@pytest.mark.req("R-A-23")
@pytest.mark.parametrize("kind", EACH)
def test_from_every_point_with_each_kind_of_change_the_parent_stays_byte_for_byte(long_run: World, kind: str) -> None:
    before = parent(long_run)
    whole = conversation(long_run, long_run.store.runs_by_key[KEY])
    found = points(long_run)
    assert len(found) == 2 * (STEPS - 1)
    for point in found:
        held = whole[: point.messages]
        wanted = EACH[kind](held)
        expected = changed(held, wanted, passed_over=lambda calls: [not_made(call, PASSED_OVER) for call in calls])
        forked = forks(long_run).fork(caller(), name(point), wanted, description=kind, key=None)
        run = forked.run
        new = long_run.store.threads[ThreadKey(KEY.user_id, run.thread_id)]
        assert run.thread_id != THREAD.thread_id
        assert len(new.messages) == len(expected)
        assert [replace(each, id="") for each in new.messages] == [replace(each, id="") for each in expected]
        assert (run.parent_run_id, run.status) == (KEY.run_id, RunStatus.RUNNING)
        assert long_run.executions.requested[-1] == run.key
        (first,) = points(long_run, run.key)
        assert (first.kind, first.id, first.description) == (CheckpointKind.FORK, forked.point, kind)
        assert first.messages == len(expected)
        setup = load_setup(long_run.store.setups[run.key])
        assert setup.system[0] == (wanted.system_prompt or load_setup(long_run.store.setups[KEY]).system[0])
        if wanted.model:
            assert (run.model, setup.target and setup.target.model) == ("claude-other", "claude-other")
        if wanted.tools is not None:
            assert setup.tools == ("look",)
        assert setup.max_turns == (wanted.max_steps or STEPS + 5)
        assert wanted.max_tokens in {None, setup.max_tokens}
        assert parent(long_run) == before


@pytest.mark.parametrize("nth", [0, 1, 4, 11, 2 * STEPS - 3])
def test_a_fork_goes_on_from_its_point_and_makes_the_calls_that_were_open_there(long_run: World, nth: int) -> None:
    world = deepcopy_world(long_run)
    before, point = parent(world), points(world)[nth]
    run = forks(world).fork(caller(), name(point), Modifications(), key=None).run
    effects = dict(world.effects)
    ended, worker = run_on(world, run)
    assert (ended.status, ended.turns) == (RunStatus.FINISHED, STEPS - point.steps)
    messages = conversation(world, run)
    whole = conversation(world, world.store.runs_by_key[KEY])
    assert [(each.role, each.content) for each in messages] == [(each.role, each.content) for each in whole]
    assert [each.id for each in messages[: point.messages]] == [each.id for each in whole[: point.messages]]
    assert worker.requests[0].messages[: point.messages] == tuple(whole[: point.messages])
    assert parent(world) == before
    assert dict(world.effects) == effects, "the tool knows calls by their ids"


def deepcopy_world(world: World) -> World:
    """Return a world with what is stored in another one."""
    other = World()
    other.given_agents = world.given_agents
    for name in ("runs_by_key", "logs", "setups", "checkpoints", "threads"):
        setattr(other.store, name, deepcopy(getattr(world.store, name)))
    other.effects, other.done = world.effects.copy(), set(world.done)
    other.clock.at = world.clock.at
    return other


REFUSED: dict[str, Modifications] = {
    "modifications.model": Modifications(model="nobody's"),
    "modifications.tools.1": Modifications(tools=("look", "nobody's")),
    "modifications.messages.0.id": Modifications(messages={"nobody's": "x"}),
    "modifications.tool_results.0.tool_call_id": Modifications(tool_results={"nobody's": GivenResult("x")}),
    "modifications.keep_messages": Modifications(keep_messages=1000),
    "modifications.message": Modifications(keep_messages=7, message=None),
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_not_possible_is_refused_by_its_field_and_nothing_is_written(world: World, field: str) -> None:
    point = points(world)[-1]
    wanted = REFUSED[field]
    if field == "modifications.message":
        # An answer without calls ends there: it is the run's last message, behind all points.
        held = conversation(world, world.store.runs_by_key[KEY])
        with pytest.raises(ValidationFailed) as refused:
            changed(held, Modifications())
    else:
        with pytest.raises(ValidationFailed) as refused:
            forks(world).fork(caller(), name(point), wanted, key=None)
    details = refused.value.details
    assert isinstance(details, list)
    assert [each["field"] for each in details] == [field]
    assert len(world.store.runs_by_key) == 1
    assert len(world.store.threads) == 1


@pytest.mark.parametrize(
    ("wanted", "asked"), [(Modifications(message="And now?"), "And now?"), (Modifications(), None)]
)
def test_a_run_that_begins_at_a_point_shows_what_it_is_asked(
    world: World, wanted: Modifications, asked: str | None
) -> None:
    point = name(points(world)[-1])
    for run in (
        forks(world).fork(caller(), point, wanted, key=None).run,
        forks(world).restore_as_run(caller(), point, wanted, key=None).run,
    ):
        assert run is not None
        assert run.input_query == (asked or world.store.runs_by_key[KEY].input_query)
        assert run.input_query


def test_what_did_not_change_is_shared() -> None:
    said = [Message(id=f"m{n}", role="user", content=f"{n}") for n in range(5)]
    assert common(said, changed(said, Modifications())) == 5
    assert common(said, changed(said, Modifications(messages={"m3": "x"}))) == 3
    assert common(said, changed(said, Modifications(keep_messages=2, message="x"))) == 2


def test_points_of_others_and_of_deleted_threads_are_not_found(world: World) -> None:
    point = name(points(world)[0])
    for ask in (
        lambda who, at: forks(world).fork(who, at, Modifications(), key=None),
        lambda who, at: forks(world).in_place.restore(who, at, Modifications()),
        lambda who, at: forks(world).restore_as_run(who, at, Modifications(), key=None),
    ):
        with pytest.raises(NotFound):
            ask(caller(user_id=OTHER), point)
        with pytest.raises(NotFound):
            ask(caller(), f"{point}A")
        kept = world.store.threads[THREAD]
        world.store.threads[THREAD] = Thread(key=THREAD, is_deleted=True)
        with pytest.raises(NotFound):
            ask(caller(), point)
        world.store.threads[THREAD] = kept
    assert len(world.store.runs_by_key) == 1


def test_a_repeat_with_the_key_is_the_same_run_and_another_request_is_refused(world: World) -> None:
    first, second = (name(each) for each in points(world)[:2])
    wanted = Modifications(system_prompt="Be brief.")
    made = forks(world).fork(caller(), first, wanted, key=key("k"))
    again = forks(world).fork(caller(), first, wanted, key=key("k"))
    assert again.run.key == made.run.key
    assert len(world.store.runs_by_key) == 2
    for point, other in ((second, wanted), (first, Modifications())):
        with pytest.raises(IdempotencyKeyReused):
            forks(world).fork(caller(), point, other, key=key("k"))
    ended, _ = run_on(world, made.run)
    assert forks(world).fork(caller(), first, wanted, key=key("k")).run == ended
    assert len(world.store.runs_by_key) == 2


def killed(work: Callable[[], object]) -> bool:
    try:
        work()
    except Killed:
        return True
    return False


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("how", ["fork", "restore_as_run", "restore"])
def test_wherever_its_process_dies_all_is_written_or_nothing_and_a_repeat_ends_it(how: str, after: bool) -> None:
    steps = 0
    while True:
        steps += 1
        world = World()
        begin(world, Life(None))
        before, thread = parent(world), world.store.threads[THREAD]
        point = name(points(world)[2])

        def ask(life: Life, world: World = world, point: str = point) -> object:
            if how == "restore":
                return forks(world, life).in_place.restore(caller(), point, Modifications(), key=key("k"))
            return getattr(forks(world, life), how)(caller(), point, Modifications(message="Go on"), key=key("k"))

        died = killed(lambda: ask(Life(steps, after=after)))  # noqa: B023  called at once
        new = [run for run in world.store.runs_by_key if run != KEY]
        if how == "restore":
            assert replace(world.store.threads[THREAD], version=0, restored_to=None) == replace(thread, version=0)
        for run in new:
            # Whole: it can be executed, whoever asks for that.
            assert set(world.store.checkpoints[run]) == set(world.store.logs[run]) == {1}
            assert world.watchdog.armed[-1][0] == run
        if how == "fork":
            assert parent(world) == before
        ask(Life(None))
        assert len(world.store.runs_by_key) == (1 if how == "restore" else 2)
        for run in [run for run in world.store.runs_by_key if run != KEY]:
            assert run in world.executions.requested
            execute(world, run)
            assert world.store.runs_by_key[run].status is RunStatus.FINISHED
        if not died:
            break
    assert steps > 4


class TestRestoring:
    @pytest.mark.req("R-A-22")
    def test_the_thread_goes_on_behind_each_point_and_the_rest_stays_reachable(self, world: World) -> None:
        whole = world.store.threads[THREAD]
        for point in points(world):
            restored = forks(world).in_place.restore(caller(), name(point), Modifications())
            again = forks(world).in_place.restore(caller(), name(point), Modifications())
            thread = world.store.threads[THREAD]
            assert (restored.run, restored) == (None, again)
            assert (thread.latest, thread.messages) == (point.position, whole.messages)
            assert thread.path_to(whole.latest) == whole.path_to(whole.latest)
            behind = [each for each in whole.messages[point.position + 1 :] if each.role == "tool"]
            assert [each.tool_call_id for each in restored.effects] == [each.tool_call_id for each in behind]
            assert {each.name for each in restored.effects} <= set(TOOLS)

    def test_a_repeat_with_the_key_does_not_cut_the_thread_again(self, world: World) -> None:
        first, second = points(world)[:2]
        made = forks(world).in_place.restore(caller(), name(first), Modifications(), key=key("k"))
        run = forks(world).restore_as_run(caller(), name(second), Modifications(message="Go on"), key=None).run
        assert run is not None
        execute(world, run.key)
        went_on = world.store.threads[THREAD]
        again = forks(world).in_place.restore(caller(), name(first), Modifications(), key=key("k"))
        assert (again, world.store.threads[THREAD]) == (made, went_on)

    def test_a_key_is_that_of_one_way_to_go_back(self, world: World) -> None:
        """Whether the thread itself was restored or a run began: what the key asked for first is what it asks for."""
        first, point = (name(each) for each in points(world)[:2])
        forks(world).in_place.restore(caller(), point, Modifications(), key=key("k"))
        with pytest.raises(IdempotencyKeyReused):
            forks(world).restore_as_run(caller(), point, Modifications(), key=key("k"))
        run = forks(world).restore_as_run(caller(), first, Modifications(message="Go on"), key=key("l")).run
        assert run is not None
        execute(world, run.key)
        with pytest.raises(IdempotencyKeyReused):
            forks(world).in_place.restore(caller(), first, Modifications(), key=key("l"))

    @pytest.mark.req("R-A-22")
    def test_a_new_run_goes_on_in_a_branch_and_names_what_was_done(self, world: World) -> None:
        whole, point = world.store.threads[THREAD], points(world)[3]
        restored = forks(world).restore_as_run(caller(), name(point), Modifications(message="Go on"), key=None)
        run = restored.run
        assert run is not None
        thread = world.store.threads[THREAD]
        assert thread.active_run_id == run.key.run_id
        assert thread.messages[: whole.next_message] == whole.messages
        assert thread.path_to(thread.latest)[:-1] == whole.path_to(point.position)
        assert [each.name for each in restored.effects] == ["look", "again"]
        with pytest.raises(ThreadBusy):
            forks(world).in_place.restore(caller(), name(point), Modifications())
        with pytest.raises(ThreadBusy):
            forks(world).restore_as_run(caller(), name(point), Modifications(message="Go on"), key=None)
        execute(world, run.key)
        assert world.store.runs_by_key[run.key].status is RunStatus.FINISHED
        assert world.store.threads[THREAD].active_run_id is None

    def test_a_new_run_has_the_budget_of_the_one_that_it_goes_back_in_anew(self, world: World) -> None:
        budget = NamedBudget(name=BudgetName.RUN, budget=Budget(max_tokens=10**6), before=Spent(tokens=7))
        world.store.runs_by_key[KEY] = replace(world.store.runs_by_key[KEY], budgets=(budget,))
        forked = forks(world).fork(caller(), name(points(world)[-1]), Modifications(), key=None)
        assert forked.run.budgets == (replace(budget, before=Spent()),)

    def test_without_a_change_a_new_run_copies_nothing(self, world: World) -> None:
        size = world.store.threads[THREAD].next_message
        for point in points(world):
            run = forks(world).restore_as_run(caller(), name(point), Modifications(), key=None).run
            assert run is not None
            assert world.store.threads[THREAD].next_message == size
            assert run.answers == point.position
            execute(world, run.key)
            size = world.store.threads[THREAD].next_message

    def test_a_run_of_before_setups_were_stored_is_refused(self, world: World) -> None:
        world.store.setups.clear()
        with pytest.raises(Conflict) as refused:
            forks(world).fork(caller(), name(points(world)[0]), Modifications(), key=None)
        assert refused.value.code == "RUN_TOO_OLD"
        assert isinstance(refused.value, AppError)


@pytest.mark.parametrize("wanted", [Modifications(modified_query="Else?"), Modifications(keep_messages=1)])
def test_what_is_cut_off_before_a_point_is_named_too(world: World, wanted: Modifications) -> None:
    made = {call.id for each in world.store.threads[THREAD].messages for call in each.tool_calls}
    restored = forks(world).restore_as_run(caller(), name(points(world)[-1]), wanted, key=None)
    assert made
    assert {each.tool_call_id for each in restored.effects} == made

"""A run that begins without a client is executed once, whichever process dies when, and ends as a streamed one."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from karma.billing.allowances import Metric
from karma.core.errors import ValidationFailed
from karma.models.domain import ModelNotConfigured, Target
from karma.runs.background import run_input
from karma.runs.domain import LEASE, NOT_EXECUTED, Run, RunExists, RunStatus, ThreadBusy
from karma.runs.requests import RunInput
from karma.runs.schemas import StartRunBody
from karma.runs.watchdog import BEGIN_WITHIN, FIRST_LOOK, Inspector, Watch, attend
from karma.runs.wishes import Wish
from tests.fakes.runs import KeptFrames, caller
from tests.support.agui import verify
from tests.support.lost_runs import KEY, THREAD, Life, Teller, World, begin, cancel, go_on, live, pause, resume, screen
from tests.support.run_world import asked, user

REQUEST = asked(user("go", "u1"), run="r1")


def begin_in_background(world: World, life: Life | None = None, request: RunInput = REQUEST) -> list[Run]:
    found: list[Run] = []

    async def work() -> None:
        found.append((await world.background(life or Life(None)).begin(caller(), request)).run)

    live(work)
    return found


def execute_what_is_asked_for(world: World, life: Life | None = None) -> bool:
    """Execute each run of the queue, as its consumer does: at once, no lease has to end. False: one found no place."""
    found = True
    while world.executions.requested:
        key = world.executions.requested.pop(0)
        found &= live(lambda: world.executor(life or Life(None)).go_on(key))  # noqa: B023  run at once
    return found


def look_when_it_is_time(world: World) -> None:
    """Let the watchdog look at each run when its message comes, until it asks for no further look."""
    while world.watchdog.armed:
        key, delay = world.watchdog.armed.pop(0)
        world.watchdog.chains.pop(0)
        world.clock.pass_by(delay)
        attend(Inspector(world.store, world.executions, world.clock), world.watchdog, Watch(key, 0))
        execute_what_is_asked_for(world)


def streamed() -> World:
    world = World()
    begin(world, Life(None), KeptFrames())
    return world


def names_of(effects: Counter[tuple[str, str]]) -> Counter[str]:
    return Counter(name for name, _ in effects.elements())


def spent(world: World) -> int:
    return sum(amount for (_, metric, _), amount in world.store.usage.taken.items() if metric is Metric.MODEL_SPEND)


class TestARunWithoutAClient:
    def test_is_stored_with_no_lease_and_asked_for_once(self) -> None:
        world = World()
        (run,) = begin_in_background(world)
        assert run.status is RunStatus.RUNNING
        (first,) = world.log
        assert (first.epoch, first.is_expired(world.clock.now())) == (NOT_EXECUTED, True)
        assert world.executions.requested == [KEY]
        assert world.watchdog.armed == [(KEY, FIRST_LOOK)]

    def test_is_executed_at_once_by_a_process_whose_clock_is_behind(self) -> None:
        world = World()
        begin_in_background(world)
        world.clock.pass_by(-LEASE / 2)
        execute_what_is_asked_for(world)
        assert world.log[-1].terminal

    def test_ends_as_one_that_is_streamed(self) -> None:
        world, expected = World(), streamed()
        begin_in_background(world)
        execute_what_is_asked_for(world)
        assert world.told() == expected.told()
        assert names_of(world.effects) == names_of(expected.effects)
        assert spent(world) == spent(expected)
        run, like = world.store.run(KEY), expected.store.run(KEY)
        assert run is not None
        assert like is not None
        assert (run.status, run.turns, run.cost_micros) == (RunStatus.FINISHED, like.turns, like.cost_micros)

    def test_shows_its_readers_the_message_that_it_answers(self) -> None:
        world = World()
        begin_in_background(world)
        execute_what_is_asked_for(world)
        events = world.shown()
        verify(events)
        empty, snapshot, *_ = [event["messages"] for event in events if event["type"] == "MESSAGES_SNAPSHOT"]
        assert empty == []  # clients that hold a message of it alone put what they lack behind that
        assert [each["content"] for each in snapshot] == ["go"]
        kept = [message.id for message in world.store.thread(THREAD).messages if message.role != "user"]
        assert [each["id"] for each in screen(events)] == kept

    def test_is_counted_as_begun_and_not_as_lost(self, capsys: pytest.CaptureFixture[str]) -> None:
        world = World()
        begin_in_background(world)
        execute_what_is_asked_for(world)
        told = capsys.readouterr().out
        assert told.count('"RunStarted":[1.0]') == 1
        assert "RunTakenOver" not in told


class TestARepeat:
    def test_is_answered_by_the_same_run_and_asks_for_a_process_that_was_not_asked_for(self) -> None:
        world = World()
        begin_in_background(world)
        world.executions.requested.clear()  # the process died before
        (again,) = begin_in_background(world)
        assert again.key == KEY
        assert world.executions.requested == [KEY]
        execute_what_is_asked_for(world)
        (ended,) = begin_in_background(world)
        assert ended.status is RunStatus.FINISHED
        assert len(world.store.runs_by_key) == 1

    def test_that_asks_for_something_else_is_refused(self) -> None:
        world = World()
        begin_in_background(world)
        with pytest.raises(RunExists):
            begin_in_background(world, request=asked(user("stop", "u2"), run="r1"))

    def test_of_another_request_meets_a_busy_thread(self) -> None:
        world = World()
        begin_in_background(world)
        with pytest.raises(ThreadBusy):
            begin_in_background(world, request=asked(user("else", "u2"), run="r2"))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(1, 14))
def test_wherever_the_first_process_dies_the_run_is_executed_once_or_never_began(step: int, after: bool) -> None:
    """Each step is a call of the store or of a queue: what the process did not do any more, the watchdog does."""
    world = World()
    begin_in_background(world, Life(step, after=after))
    execute_what_is_asked_for(world)
    look_when_it_is_time(world)
    run = world.store.run(KEY)
    if run is None:
        assert world.effects == Counter()
        assert spent(world) == 0
        return
    assert run.status is RunStatus.FINISHED
    assert world.told() == streamed().told()
    assert set(world.effects.values()) == {1}


@pytest.mark.parametrize("step", range(1, 40, 3))
def test_wherever_its_first_execution_dies_another_goes_on(step: int) -> None:
    world = World()
    begin_in_background(world)
    execute_what_is_asked_for(world, Life(step))
    go_on(world, Life(None))
    run = world.store.run(KEY)
    assert run is not None
    # Of a call of `ask` nobody knows what became of it, so that somebody is asked.
    asks = [each.awaited.name for each in world.store.interrupts_by_id.values()]
    assert (run.status, asks) in [(RunStatus.FINISHED, []), (RunStatus.INTERRUPTED, ["ask"])]
    assert set(world.effects.values()) <= {1}
    assert world.effects or asks


class TestBeforeItIsExecuted:
    def test_it_is_cancelled_at_once_and_costs_nothing(self) -> None:
        world = World()
        begin_in_background(world)
        run = cancel(world, reason="no longer needed")
        assert (run.status, run.cost_micros, spent(world)) == (RunStatus.CANCELLED, 0, 0)
        execute_what_is_asked_for(world)
        assert world.effects == Counter()
        verify(world.shown())

    def test_it_is_paused_at_once_and_resumed(self) -> None:
        world = World()
        begin_in_background(world)
        assert pause(world).status is RunStatus.PAUSED
        execute_what_is_asked_for(world)
        assert world.effects == Counter()
        resume(world)
        world.clock.pass_by(timedelta(seconds=1))
        execute_what_is_asked_for(world)
        assert world.log[-1].terminal

    def test_it_fails_where_its_model_is_not_configured(self) -> None:
        class Unknown(Teller):
            def prepare(self, target: Target) -> None:
                raise ModelNotConfigured("The language model is not configured")

        world = World()
        begin_in_background(world)
        live(lambda: world.executor(Life(None), model=Unknown(Life(None))).go_on(KEY))
        run = world.store.run(KEY)
        assert run is not None
        assert (run.status, run.error_code, run.cost_micros) == (RunStatus.FAILED, "MODEL_NOT_CONFIGURED", 0)
        assert spent(world) == 0
        assert world.store.thread(THREAD).active_run_id is None
        verify(world.shown())

    def test_it_waits_for_its_turn_in_a_long_queue_and_is_asked_for_ever_more_rarely(self) -> None:
        world = World()
        begin_in_background(world)
        world.executions.requested.clear()
        inspector = Inspector(world.store, world.executions, world.clock)
        waited = timedelta()
        while waited < BEGIN_WITHIN:
            again_in = inspector.look(KEY)
            if again_in is None:
                break
            world.clock.pass_by(again_in)
            waited += again_in
        assert len(world.executions.requested) <= 9
        inspector.look(KEY)
        run = world.store.run(KEY)
        assert run is not None
        assert (run.error_code, run.cost_micros, spent(world)) == ("OWNER_LOST", 0, 0)

    def test_a_wish_that_came_first_is_heard(self) -> None:
        world = World()
        begin_in_background(world)
        world.store.wish(KEY, Wish.CANCEL, at=world.clock.now(), reason="stop")
        execute_what_is_asked_for(world)
        run = world.store.run(KEY)
        assert run is not None
        assert (run.status, run.cancel_reason) == (RunStatus.CANCELLED, "stop")


class TestTwoAtOnce:
    def test_on_one_thread_one_of_them_begins(self) -> None:
        world = World()
        runs = world.background(Life(None))

        async def both() -> list[object]:
            each = [runs.begin(caller(), asked(user(name), run=name)) for name in ("r1", "r2")]
            return list(await asyncio.gather(*each, return_exceptions=True))

        found = asyncio.run(both())
        assert sorted(type(each).__name__ for each in found) == ["Beginning", "ThreadBusy"]

    def test_executions_of_one_run_are_one(self) -> None:
        world = World()
        begin_in_background(world)

        async def both() -> list[bool]:
            return await asyncio.gather(*(world.executor(Life(None)).go_on(KEY) for _ in range(2)))

        assert sorted(asyncio.run(both())) == [False, True]
        assert set(world.effects.values()) == {1}


class TestABody:
    def test_asks_for_what_a_stream_s_asks_for(self) -> None:
        context = [{"description": "d", "value": "v"}]
        body = StartRunBody(agent_id="brief", message="go", thread_id="t1", context=context)
        found = run_input(body, None, taken=())
        like = asked(
            {"role": "user", "content": "go"},
            run="r1",
            context=context,
            forwardedProps={"agent_id": "brief"},
        )
        assert replace(found, run_id=like.run_id) == like

    def test_may_answer_questions_and_bring_no_message(self) -> None:
        answers = [{"interruptId": "r1/1", "status": "resolved", "payload": {"approved": True}}]
        found = run_input(StartRunBody(thread_id="t1", resume=answers), None, taken=())
        like = asked(run="r2", resume=answers)
        assert (found.resume, found.messages) == (like.resume, like.messages)
        assert len(found.resume) == 1

    @pytest.mark.parametrize(
        ("more", "field"),
        [
            ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
            ({"message": "x", "tools": [{"name": "a b"}]}, "tools.0.name"),
            ({"message": "x", "context": [{"description": 1}]}, "context.0.description"),
            ({"resume": [{"interruptId": "r1/1", "status": "maybe"}]}, "resume.0.status"),
        ],
    )
    def test_that_is_wrong_inside_is_refused_by_the_name_of_its_field(
        self, more: dict[str, object], field: str
    ) -> None:
        with pytest.raises(ValidationFailed) as caught:
            run_input(StartRunBody.model_validate(more), None, taken=())
        assert next(entry["field"] for entry in caught.value.details or [] if isinstance(entry, dict)) == field

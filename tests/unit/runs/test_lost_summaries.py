"""Summaries in the middle of which a process stops, and calls that wait while a conversation is summarised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from functools import partial

import orjson

from karma.agents.domain import MultitaskStrategy
from karma.conversations.domain import Message, ThreadKey, ToolCall
from karma.core.ids import RunId, ThreadId
from karma.models.domain import Target
from karma.models.ports import ModelEvent, ModelRequest
from karma.runs.compaction import covered, parts_of
from karma.runs.domain import LEASE, RunKey, RunStatus
from karma.runs.interrupts import Interrupt, Reason
from karma.runs.plan import RunLimits, RunPlan
from karma.runs.wishes import Wish
from tests.fakes.runs import SetClock, caller
from tests.support.agui import verify
from tests.support.lost_runs import KEY, THREAD, Forgetful, Life, World, begin, live, pause, resume
from tests.support.run_world import asked, user
from tests.support.windowed import is_record


class Stuck(Forgetful):
    """Begins to write a record, and does not end."""

    def __init__(self, life: Life, world: World) -> None:
        super().__init__(life)
        self._world = world
        self.pauses = False

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        if is_record(request):
            if self.pauses:
                self._world.store.wish(KEY, Wish.PAUSE, at=self._world.clock.now())
            await asyncio.Event().wait()
        async for batch in super().stream(request):
            yield batch


def ended_as_without(world: World) -> bool:
    expected = World(forgets=True)
    begin(expected, Life(None))
    run = world.store.run(KEY)
    assert run is not None
    assert run.status is RunStatus.FINISHED
    whole = expected.store.run(KEY)
    assert whole is not None
    assert (run.cost_micros or 0) > (whole.cost_micros or 0), "the record that was lost is not counted"
    assert world.summaries() == expected.summaries() == 1
    verify(world.shown())
    return world.told() == expected.told()


def names(world: World) -> list[str]:
    events = [orjson.loads(data) for segment in world.log for data in segment.events]
    return [event["name"] for event in events if event["type"] == "CUSTOM"]


def test_a_process_that_is_stopped_in_the_middle_of_a_record_hands_the_run_over() -> None:
    world = World(forgets=True)
    deadline = world.clock.now() + timedelta(seconds=0.3)

    begin(world, Life(None), model=Stuck(Life(None), world), limits=RunLimits(reserve_s=0), deadline=deadline)
    assert world.executions.requested == [KEY]
    assert world.summaries() == 0
    world.clock.pass_by(timedelta(milliseconds=1))
    live(lambda: world.executor(Life(None)).go_on(KEY))

    assert ended_as_without(world)
    assert names(world) == [
        "karma.compacting",
        "karma.answer_stopped",
        "karma.compaction_failed",
        "karma.compacting",
        "karma.compacted",
    ]


def test_a_run_can_be_paused_in_the_middle_of_a_record_and_resumed() -> None:
    world = World(forgets=True)
    model = Stuck(Life(None), world)
    model.pauses = True

    begin(world, Life(None), model=model)
    run = world.store.run(KEY)
    assert run is not None
    assert run.status is RunStatus.PAUSED
    assert names(world) == ["karma.compacting", "karma.compaction_failed", "karma.run_paused"]
    assert pause(world).status is RunStatus.PAUSED
    resume(world)
    world.clock.pass_by(timedelta(seconds=1))
    live(lambda: world.executor(Life(None)).go_on(KEY))

    assert ended_as_without(world)


LONG = "These words have a place. " * 60


def planned(messages: list[Message], *, left: Sequence[Interrupt] = ()) -> RunPlan:
    return RunPlan(
        run_id=RunId("r"),
        thread=ThreadKey(caller().user_id, ThreadId("t")),
        target=Target(model="m", context_window=4_000),
        max_turns=9,
        system=("Be brief.",),
        messages=messages,
        stored=len(messages),
        frontend_tools=(),
        until=SetClock().now(),
        left=left,
    )


def said(n: int) -> list[Message]:
    return [
        Message(id=f"u{n}", role="user", content=f"{n} {LONG}"),
        Message(id=f"a{n}", role="assistant", content=f"{n} {LONG}"),
    ]


def test_a_call_that_waits_for_an_answer_is_not_summarised() -> None:
    waits = ToolCall("call_1", "echo", "{}")
    asked = Message(id="a", role="assistant", content=LONG, tool_calls=(waits,))
    messages = [*said(0), Message(id="u", role="user", content=LONG), asked, *said(1), *said(2), *said(3)]
    question = Interrupt(
        key=RunKey(caller().user_id, RunId("r0")),
        n=1,
        thread_id=ThreadId("t"),
        call=waits,
        made_by=RunId("r0"),
        reason=Reason.TOOL_CALL,
        message="May it?",
        response_schema={},
        expires_at=SetClock().now(),
    )

    assert covered(planned(messages), whole=9_000, is_forced=False) > 4
    assert covered(planned(messages, left=[question]), whole=9_000, is_forced=False) == 3


def test_a_cut_is_never_between_a_call_and_its_result() -> None:
    calls = tuple(ToolCall(f"call_{n}", "echo", "{}") for n in range(3))
    results = [Message(id=f"t{n}", role="tool", content=LONG, tool_call_id=f"call_{n}") for n in range(3)]
    messages = [
        *said(0),
        Message(id="u", role="user", content="Do it."),
        Message(id="a", role="assistant", tool_calls=calls),
    ]
    for made in range(4):
        plan = planned([*messages, *results[:made]])
        for whole in range(500, 9_000, 500):
            at = covered(plan, whole=whole, is_forced=True)
            # Behind all results, or before the call.
            assert at == 4 + made or at <= 3


def test_what_is_too_long_for_all_parts_leaves_out_the_oldest_and_says_so() -> None:
    messages = [message for n in range(400) for message in said(n)]

    parts = parts_of(messages, 300)

    assert len(parts) <= 8
    assert all(sum(len(line.encode()) for line in part) <= 4 * 300 for part in parts)
    first, last = orjson.loads(parts[0][0]), orjson.loads(parts[-1][-1])
    assert int(first["left_out"].split()[0]) > 700
    assert last["assistant"].startswith("399 ")


def ask(world: World, name: str, strategy: MultitaskStrategy) -> None:
    request = asked(user(f"go {name}"), run=name, forwardedProps={"multitask_strategy": strategy.value})
    asyncio.run(world.background(Life(None)).begin(caller(), request))


def execute(world: World) -> None:
    while world.executions.requested:
        key = world.executions.requested.pop(0)
        live(partial(world.executor(Life(None)).go_on, key))


def left_after_its_summary() -> World:
    """Return a world in which the process of a run is lost after it has summarised the conversation."""
    for step in range(1, 200):
        world = World(forgets=True)
        begin(world, Life(step))
        run = world.store.run(KEY)
        if run is not None and world.summaries() and run.status is RunStatus.RUNNING:
            world.clock.pass_by(LEASE + timedelta(seconds=1))
            return world
    raise AssertionError("no run was lost behind its summary")


def test_runs_that_wait_begin_with_what_those_before_them_have_summarised() -> None:
    world = World(forgets=True)
    for name in ("r1", "r2", "r3"):
        ask(world, name, MultitaskStrategy.ENQUEUE)
    execute(world)

    assert {run.status for run in world.store.runs_by_key.values()} == {RunStatus.FINISHED}
    assert world.summaries() >= 2
    # A model that did not know how often it has answered would say another number.
    answers = [words for role, words, _ in world.told() if role == "assistant"]
    assert [f"part 0 of {n}." in words for n, words in enumerate(answers)] == [True] * 6


def test_a_run_in_the_place_of_one_that_has_summarised_begins_where_that_had_begun() -> None:
    world = left_after_its_summary()
    ask(world, "r2", MultitaskStrategy.ROLLBACK)
    execute(world)

    run = world.store.run(RunKey(KEY.user_id, RunId("r2")))
    assert run is not None
    assert run.status is RunStatus.FINISHED
    thread = world.store.thread(THREAD)
    path = thread.path_to(thread.latest)
    assert all(at >= run.begins_at for at in path if thread.messages[at].role == "summary")
    assert [words for role, words, _ in world.told() if role == "user"] == ["go r2"]


def test_a_run_that_interrupts_one_that_has_summarised_goes_on_behind_the_summary() -> None:
    world = left_after_its_summary()
    answered = sum(role == "assistant" for role, _, _ in world.told())
    before = world.summaries()
    ask(world, "r2", MultitaskStrategy.INTERRUPT)
    execute(world)

    assert world.summaries() >= before
    answers = [words for role, words, _ in world.told() if role == "assistant"]
    assert len(answers) > answered
    assert [f"part 0 of {n}." in words for n, words in enumerate(answers)] == [True] * len(answers)

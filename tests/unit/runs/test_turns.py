"""Runs that wait for their turn in a thread, and runs in whose place another one begins."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import orjson
import pytest

from karma.agents.domain import MultitaskStrategy
from karma.conversations.domain import ThreadChanged
from karma.core.errors import ValidationFailed
from karma.core.ids import RunId
from karma.runs.asking import Beginning
from karma.runs.domain import ACTIVE, LEASE, Run, RunKey, RunStatus, ThreadBusy
from karma.runs.replay import read
from karma.runs.turns import MAX_QUEUE, MAX_QUEUED, QUEUE_EXPIRED_REASON, QueueFull, RunIsQueued
from karma.runs.watchdog import FIRST_LOOK, Inspector
from tests.fakes.runs import caller
from tests.support.agui import verify
from tests.support.lost_runs import THREAD, Life, World, live
from tests.support.run_world import asked, user

ORDERS = int(os.environ.get("INTERLEAVINGS") or 12)


def key(name: str) -> RunKey:
    return RunKey(caller().user_id, RunId(name))


def ask(world: World, name: str, strategy: MultitaskStrategy | None = MultitaskStrategy.ENQUEUE) -> Run:
    props: dict[str, object] = {"multitask_strategy": strategy.value} if strategy else {}
    if world.strategy:
        props["agent_id"] = "brief"
    request = asked(user(f"go {name}"), run=name, forwardedProps=props)
    return asyncio.run(world.background(Life(None)).begin(caller(), request)).run


def begin(world: World, name: str, strategy: MultitaskStrategy) -> Beginning:
    request = asked(user(f"go {name}"), run=name, forwardedProps={"multitask_strategy": strategy.value})
    return asyncio.run(world.background(Life(None)).begin(caller(), request))


def execute(world: World, life: Life | None = None) -> None:
    """Execute what is asked for until nothing is."""
    while world.executions.requested:
        each = world.executions.requested.pop(0)
        live(lambda: world.executor(life or Life(None)).go_on(each))  # noqa: B023  run at once


def status(world: World, name: str) -> RunStatus:
    run = world.store.run(key(name))
    assert run is not None
    return run.status


def look(world: World, name: str) -> timedelta | None:
    return Inspector(world.store, world.executions, world.clock).look(key(name), chain=0)


def said(world: World) -> list[str]:
    thread = world.store.thread(THREAD)
    return [
        str(thread.messages[at].content) for at in thread.path_to(thread.latest) if thread.messages[at].role == "user"
    ]


class TestARunThatWaits:
    def test_begins_when_those_before_it_have_ended_in_order(self) -> None:
        world = World()
        assert [ask(world, name).status for name in ("r1", "r2", "r3")] == ["running", "queued", "queued"]
        assert said(world) == ["go r1"]
        execute(world)
        assert {status(world, name) for name in ("r1", "r2", "r3")} == {RunStatus.FINISHED}
        assert said(world) == ["go r1", "go r2", "go r3"]
        assert world.store.turns(THREAD)[:2] == (None, ())
        r2 = world.store.run(key("r2"))
        assert r2 is not None
        assert (r2.follows + 1, r2.begins_at) == (r2.answers, r2.answers + 1)

    def test_begins_at_once_where_nothing_is_before_it(self) -> None:
        assert ask(World(), "r1").status is RunStatus.RUNNING

    def test_is_found_by_the_watchdog_where_nobody_woke_it(self) -> None:
        world = World()
        ask(world, "r1")
        ask(world, "r2")
        live(lambda: world.executor(Life(None)).go_on(key("r1")))
        world.executions.requested.clear()  # the process died before it asked
        assert look(world, "r2") is not None
        execute(world)
        assert status(world, "r2") is RunStatus.FINISHED

    def test_is_not_begun_before_its_turn_by_a_message_that_comes_too_early(self) -> None:
        world = World()
        ask(world, "r1")
        ask(world, "r2")
        ask(world, "r3")
        world.executions.requested[:] = [key("r3"), key("r2")]
        execute(world)
        assert {status(world, name) for name in ("r2", "r3")} == {RunStatus.QUEUED}
        assert look(world, "r3") is not None
        assert world.executions.requested == []

    def test_is_cancelled_at_once_and_passed_over(self) -> None:
        world = World()
        for name in ("r1", "r2", "r3"):
            ask(world, name)
        run = world.control(Life(None)).cancel(caller().user_id, RunId("r2"), reason="no")
        assert (run.status, run.cost_micros, run.cancel_reason) == (RunStatus.CANCELLED, 0, "no")
        assert status(world, "r1") is RunStatus.RUNNING
        execute(world)
        assert said(world) == ["go r1", "go r3"]

    def test_is_woken_when_the_run_before_it_is_cancelled_without_a_process(self) -> None:
        world = World()
        ask(world, "r1")
        ask(world, "r2")
        world.executions.requested.clear()
        world.control(Life(None)).cancel(caller().user_id, RunId("r1"))
        assert world.executions.requested == [key("r2")]

    def test_is_not_paused(self) -> None:
        world = World()
        ask(world, "r1")
        ask(world, "r2")
        with pytest.raises(RunIsQueued):
            world.control(Life(None)).pause(caller().user_id, RunId("r2"))
        assert world.control(Life(None)).resume(caller().user_id, RunId("r2")).status is RunStatus.QUEUED

    def test_is_cancelled_after_an_hour(self) -> None:
        world = World()
        ask(world, "r1")
        ask(world, "r2")
        world.clock.pass_by(MAX_QUEUED)
        assert look(world, "r2") is None
        run = world.store.run(key("r2"))
        assert run is not None
        assert (run.status, run.cancel_reason) == (RunStatus.CANCELLED, QUEUE_EXPIRED_REASON)

    def test_waits_behind_no_more_than_a_number(self) -> None:
        world = World()
        ask(world, "r0")
        for n in range(MAX_QUEUE):
            ask(world, f"q{n}")
        with pytest.raises(QueueFull):
            ask(world, "more")
        world.control(Life(None)).cancel(caller().user_id, RunId("q3"))
        assert ask(world, "more").status is RunStatus.QUEUED
        assert len(world.store.turns(THREAD).queue) == MAX_QUEUE

    def test_needs_something_new_to_say(self) -> None:
        world = World()
        ask(world, "r1")
        execute(world)
        ask(world, "r2")
        messages = world.store.thread(THREAD).messages
        first = {"id": messages[0].id, "role": "user", "content": messages[0].content}
        request = asked(first, run="r3", forwardedProps={"multitask_strategy": "enqueue"})
        with pytest.raises(ValidationFailed):
            asyncio.run(world.background(Life(None)).begin(caller(), request))

    def test_another_request_does_not_begin_before_it(self) -> None:
        world = World()
        ask(world, "r1")
        ask(world, "r2")
        live(lambda: world.executor(Life(None)).go_on(key("r1")))
        with pytest.raises(ThreadBusy) as caught:
            ask(world, "r3", MultitaskStrategy.REJECT)
        assert caught.value.details == {"run_id": "r2"}
        assert ask(world, "r4").status is RunStatus.QUEUED

    def test_one_that_interrupts_goes_before_it(self) -> None:
        world = World()
        ask(world, "r1")
        ask(world, "r2")
        assert ask(world, "r3", MultitaskStrategy.INTERRUPT).status is RunStatus.RUNNING
        execute(world)
        assert said(world) == ["go r1", "go r3", "go r2"]

    @pytest.mark.parametrize("step", range(1, 45, 4))
    def test_begins_once_wherever_processes_die(self, step: int) -> None:
        world = World()
        for name in ("r1", "r2", "r3"):
            ask(world, name)
        life = Life(step)
        execute(world, life)
        for _ in range(6):
            world.clock.pass_by(LEASE + FIRST_LOOK)
            for name in ("r1", "r2", "r3"):
                look(world, name)
            execute(world)
        # A call whose outcome nobody knows is asked about; those that wait do so until nobody can answer any more.
        if asked_ids := world.store.thread(THREAD).interrupts:
            (question,) = world.store.interrupts(caller().user_id, asked_ids).values()
            world.clock.pass_by(question.expires_at - world.clock.now())
            look(world, "r2")
            execute(world)
        assert {status(world, name) for name in ("r1", "r2", "r3")} <= {RunStatus.FINISHED, RunStatus.INTERRUPTED}
        assert said(world) == ["go r1", "go r2", "go r3"]
        assert set(world.effects.values()) == {1}


class TestARunThatIsRolledBack:
    def test_gives_its_place_to_the_new_one_and_its_effects_are_named(self) -> None:
        world = World()
        ask(world, "r1")
        live(lambda: world.executor(Life(33)).go_on(key("r1")))  # dies behind its first tools
        world.clock.pass_by(LEASE * 2)
        done = [name for name, _ in world.effects.elements()]

        begun = begin(world, "r2", MultitaskStrategy.ROLLBACK)

        assert begun.rolled_back is not None
        assert begun.rolled_back.run.key == key("r1")
        assert status(world, "r1") not in ACTIVE
        assert said(world) == ["go r2"]
        thread = world.store.thread(THREAD)
        kept = [str(each.content) for each in thread.messages if each.role == "user"]
        assert kept == ["go r1", "go r2"], "nothing is deleted"
        assert len(done) >= 1
        execute(world)
        assert status(world, "r2") is RunStatus.FINISHED
        log = world.store.segments(key("r2"), after=0, limit=1)[0]
        assert b"karma.rolled_back" in b"".join(log.events)

    def test_names_calls_of_tools_that_act_alone(self) -> None:
        world = World()
        world.permission = "device:control"
        ask(world, "r1")
        live(lambda: world.executor(Life(30)).go_on(key("r1")))
        world.clock.pass_by(LEASE * 2)
        begun = begin(world, "r2", MultitaskStrategy.ROLLBACK)
        assert begun.rolled_back is not None
        found = {(each.name, each.status) for each in begun.rolled_back.effects}
        assert found <= {("again", "succeeded"), ("ask", "succeeded"), ("ask", "failed"), ("again", "failed")}
        assert found

    def test_that_had_ended_already_keeps_what_it_said(self) -> None:
        world = World()
        ask(world, "r1")
        execute(world)
        begun = begin(world, "r2", MultitaskStrategy.ROLLBACK)
        assert begun.rolled_back is None
        assert said(world) == ["go r1", "go r2"]


class TestAnAgent:
    def test_says_what_becomes_of_an_active_run_where_the_request_does_not(self) -> None:
        world = World()
        world.strategy = MultitaskStrategy.ENQUEUE
        ask(world, "r1", None)
        assert ask(world, "r2", None).status is RunStatus.QUEUED
        with pytest.raises(ThreadBusy):
            ask(world, "r3", MultitaskStrategy.REJECT)


@pytest.mark.parametrize("nth", range(ORDERS))
@pytest.mark.parametrize("strategy", MultitaskStrategy)
def test_of_two_at_once_each_ends_once_whatever_their_order(
    strategy: MultitaskStrategy, nth: int, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The calls of two requests, each in a thread of its own, in an order that is drawn.

    A third run is active, and none, one or two wait for their turn.
    """
    dice = random.Random(seed)
    monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.001)
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0.001)
    world = World()
    ask(world, "r0")
    waiting = [f"q{n}" for n in range(nth % 3)]
    for name in waiting:
        ask(world, name)
    begun: dict[str, Beginning] = {}

    async def one(name: str, after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        request = asked(user(f"go {name}"), run=name, forwardedProps={"multitask_strategy": strategy.value})
        with suppress(ThreadBusy, ThreadChanged):
            begun[name] = await world.background(Life(None)).begin(caller(), request)

    async def both() -> None:
        await asyncio.gather(*(one(name, dice.randint(0, 40)) for name in ("r1", "r2")))

    asyncio.run(both())
    execute(world)
    for _ in range(3):
        world.clock.pass_by(LEASE * 2)
        for name in [*begun, *waiting]:
            look(world, name)
        execute(world)

    runs = list(world.store.runs_by_key.values())
    assert not [run for run in runs if run.status in ACTIVE]
    assert world.store.turns(THREAD).active is None
    for run in runs:
        log = world.store.segments(run.key, after=0, limit=10**6)
        assert [segment.terminal for segment in log] == [False] * (len(log) - 1) + [True]
    assert {status(world, name) for name in waiting} <= {RunStatus.FINISHED}
    behind = [f"go {name}" for name in waiting]
    match strategy:
        case MultitaskStrategy.REJECT:
            assert begun == {}
            assert said(world) == ["go r0", *behind]
        case MultitaskStrategy.ENQUEUE:
            assert sorted(begun) == ["r1", "r2"]
            assert [run.status for run in runs] == [RunStatus.FINISHED] * len(runs)
            assert said(world)[:-2] == ["go r0", *behind]
            assert sorted(said(world)[-2:]) == ["go r1", "go r2"]
        case MultitaskStrategy.INTERRUPT:
            assert said(world)[0] == "go r0"
            assert any(said(world)[-1 - len(behind) :] == [f"go {name}", *behind] for name in begun)
        case MultitaskStrategy.ROLLBACK:
            # Also of one that came when the other had just ended what was active.
            (last,) = [begun[name] for name in begun if said(world) == [f"go {name}", *behind]]
            assert last.rolled_back is not None


@pytest.mark.parametrize("others", [5, MAX_QUEUE - 1, MAX_QUEUE + 4])
def test_of_many_at_once_all_wait_for_whom_there_is_room(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes first changes the thread for all others, which are told of nothing but a queue that is full."""
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0)
    world = World()
    ask(world, "r0")
    rounds: list[str] = []
    start = world.store.start

    def first_of_its_round(run: Run, **more: Any) -> None:
        """Let one write through after all that are under way have read the thread: the worst order there is."""
        rounds.append(run.key.run_id)
        start(run, **more)

    monkeypatch.setattr(world.store, "start", first_of_its_round)

    async def in_lockstep(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args, **kwargs)

    monkeypatch.setattr(asyncio, "to_thread", in_lockstep)

    async def one(name: str) -> object:
        request = asked(user(f"go {name}"), run=name, forwardedProps={"multitask_strategy": "enqueue"})
        try:
            return (await world.background(Life(None)).begin(caller(), request)).run.status
        except QueueFull as exc:
            return type(exc)

    async def all_at_once() -> list[object]:
        return list(await asyncio.gather(*(one(f"q{n}") for n in range(others))))

    met = asyncio.run(all_at_once())

    assert met.count(RunStatus.QUEUED) == min(others, MAX_QUEUE)
    assert met.count(QueueFull) == max(0, others - MAX_QUEUE)
    assert len(rounds) > 2 * others, "they did not meet"
    assert len(set(world.store.turns(THREAD).queue)) == min(others, MAX_QUEUE)


def test_one_that_others_come_before_each_time_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0)
    world = World()
    ask(world, "r0")
    tries: list[str] = []

    def never(run: Run, **_: Any) -> None:
        tries.append(run.key.run_id)
        raise ThreadChanged

    monkeypatch.setattr(world.store, "start", never)
    with pytest.raises(ThreadChanged) as caught:
        ask(world, "r1")
    assert (caught.value.headers["Retry-After"], caught.value.details) == ("1", None)
    assert len(tries) == MAX_QUEUE + 6


def test_events_of_a_run_that_waited_are_what_clients_accept() -> None:
    world = World()
    ask(world, "r1")
    ask(world, "r2")
    execute(world)
    segments = read(world.store, key("r2"), after=0, limit=10**6, link=list)
    verify([orjson.loads(data) for segment in segments for data in segment.events])


def test_stopping_an_agent_cancels_those_that_wait_too() -> None:
    world = World()
    for name in ("r1", "r2", "r3"):
        ask(world, name)
    agent_id = world.store.runs_by_key[key("r2")].agent_id
    assert agent_id is not None
    world.control(Life(None)).stop_agent(caller().user_id, agent_id)
    assert {status(world, name) for name in ("r2", "r3")} == {RunStatus.CANCELLED}
    execute(world)
    assert status(world, "r1") is RunStatus.CANCELLED
    assert world.effects == {}

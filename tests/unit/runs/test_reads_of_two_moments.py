"""A request reads its thread, and the thread's active run stores a turn, results, a question or its end meanwhile.

The run is executed by a process of its own, which goes on between any two calls of the request, by as many of its
commits as the dice say. Nobody is told of a bug, and nothing that was said or done is lost.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.agents.service import Catalogue
from karma.conversations.domain import Message, Thread, ThreadChanged
from karma.core.errors import AppError
from karma.core.ids import new_id
from karma.runs.asking import Beginning
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import ACTIVE, LEASE, Run, RunStatus, ThreadBusy
from karma.runs.ending import cancel_lost
from karma.runs.events import CURRENT
from karma.runs.foreseeing import foreseen
from karma.runs.opening import shown
from karma.runs.turns import wake_next
from karma.runs.wishes import cancel_reason
from tests.fakes.agents import catalogue
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller
from tests.support.lost_runs import THREAD, TOOLS, Handle, Life, World, live
from tests.support.run_world import asked, user
from tests.unit.runs.test_forked_by_rules import asks_about
from tests.unit.runs.test_requests_before_queues import in_lockstep
from tests.unit.runs.test_turns import ask, execute, key, look, said, status

pytestmark = pytest.mark.fault("F-38a")

ORDERS = int(os.environ.get("ORDERS") or 24)
STEPS = 24
"""Calls of a request, those of its first polls for the end of the active run included."""
_DEADLINE_S = 30
ACTIVE_RUN = key("r0")


class Writer(Life):
    """The process of the active run, which stands still behind each commit until it is let go on."""

    def __init__(self, world: World, *, hears: bool = False) -> None:
        """Take the run over; one that `hears` of a wish ends the run for it instead of going on."""
        super().__init__(None)
        self._world, self._hears = world, hears
        self._turn, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._seen, self._is_over = self._commits, False
        world.executions.requested.remove(ACTIVE_RUN)
        self._thread = threading.Thread(target=self._execute, daemon=True)
        self._thread.start()
        self.go_on()  # it takes the run over

    @property
    def _commits(self) -> tuple[int, bool]:
        tail = self._world.store.tail(ACTIVE_RUN)
        return len(self._world.store.checkpoints[ACTIVE_RUN]), tail is not None and tail.terminal

    def _execute(self) -> None:
        assert self._turn.acquire(timeout=_DEADLINE_S)
        live(lambda: self._world.executor(self).go_on(ACTIVE_RUN))
        self._is_over = True
        self._stands.release()

    def afterwards(self) -> None:
        super().afterwards()
        if self._commits != self._seen:
            self._seen = self._commits
            self._stands.release()
            assert self._turn.acquire(timeout=_DEADLINE_S)

    def go_on(self) -> None:
        """Let it go on to its next commit, or end the run as a writer does that hears of a wish."""
        if self._is_over:
            return
        store = self._world.store
        reason, tail, run = cancel_reason(store.wishes(ACTIVE_RUN)), store.tail(ACTIVE_RUN), store.run(ACTIVE_RUN)
        assert tail is not None
        assert run is not None
        if reason is not None and self._hears and not tail.terminal:
            cancel_lost(store, tail, run, self._world.clock.now(), reason=reason)
            wake_next(store, self._world.executions, THREAD)
            return
        self._turn.release()
        assert self._stands.acquire(timeout=_DEADLINE_S)

    def end(self) -> None:
        """Let it go on to its end."""
        while not self._is_over:
            self._hears = False
            self.go_on()
        self._thread.join(_DEADLINE_S)


class Met(Life):
    """A process between whose calls the active run goes on: before which, and by how many commits."""

    def __init__(self, writer: Writer, commits: Mapping[int, int]) -> None:
        super().__init__(None)
        self._writer, self._commits = writer, commits

    def before(self) -> None:
        super().before()
        for _ in range(self._commits.get(self.steps, self.steps > STEPS)):
            self._writer.go_on()


def in_a_thread(work: Callable[[], object]) -> None:
    """Do what another process does, which has a loop of its own."""
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()


def asking(*tools: str) -> Catalogue:
    """Return agents, of which the one that is asked without a name asks about calls of these tools."""
    agents = catalogue(tools=TOOLS)
    built_in = agents.find("")
    agents._built_in = replace(built_in, spec=replace(built_in.spec, approvals=asks_about(*tools)))
    return agents


def scene(*, asks: bool = False, has_budget: bool = False) -> World:
    """Return a world whose thread has a run of four turns, or of two, of which the second `asks` a question."""
    world = World(unique_ids=True)
    world.given_agents = asking(*(["look"] if asks else []))
    ask(world, "r0")
    if has_budget:
        thread = world.store.threads[THREAD]
        spending = replace(thread.spending, max_tokens=10**6, max_cost_micros=10**9)
        world.store.threads[THREAD] = replace(thread, spending=spending)
    return world


def request(world: World, life: Life, strategy: MultitaskStrategy) -> Beginning | AppError:
    """Ask for a run; return it, or the refusal, which says when to come again."""
    wanted = asked(user("go now"), run="now", forwardedProps={"multitask_strategy": strategy.value})
    met: list[Beginning | AppError] = []

    async def work() -> None:
        try:
            met.append(await world.background(life).begin(caller(), wanted))
        except (ThreadBusy, ThreadChanged) as exc:
            met.append(exc)

    live(work)
    return met[0]


def settle(world: World) -> None:
    """Execute what is left, in the place of processes that are gone; nobody answers what is asked."""
    for _ in range(4):
        execute(world)
        world.clock.pass_by(LEASE * 2)
        if names := world.store.thread(THREAD).interrupts:
            found = world.store.interrupts(caller().user_id, names).values()
            world.clock.pass_by(max(each.expires_at for each in found) - world.clock.now())
        for each in list(world.store.runs_by_key):
            look(world, each.run_id)


@pytest.mark.parametrize("nth", range(ORDERS))
@pytest.mark.parametrize("strategy", MultitaskStrategy)
def test_a_request_is_refused_or_begins_whatever_the_active_run_stores_meanwhile(
    strategy: MultitaskStrategy, nth: int, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.0)
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0.0)
    monkeypatch.setattr(asyncio, "to_thread", in_lockstep)
    dice = random.Random(seed)
    world = scene(asks=dice.random() < 0.5, has_budget=dice.random() < 0.5)
    writer = Writer(world, hears=dice.random() < 0.7)
    for _ in range(dice.randint(0, 3)):
        writer.go_on()
    steps = dice.sample(range(1, STEPS + 1), dice.randint(1, 4))
    first = dice.choice([steps[0], 1 + nth % STEPS])
    met = request(world, Met(writer, {**{at: dice.randint(1, 2) for at in steps}, first: 1}), strategy)
    stored = world.store.thread(THREAD).messages
    writer.end()
    settle(world)

    thread, runs = world.store.thread(THREAD), list(world.store.runs_by_key.values())
    assert not [run for run in runs if run.status in ACTIVE]
    for run in runs:
        log = world.store.segments(run.key, after=0, limit=10**6)
        assert [segment.terminal for segment in log] == [False] * (len(log) - 1) + [True]
    assert thread.messages[: len(stored)] == stored, "nothing is deleted"
    assert set(world.effects.values()) <= {1}
    words = said(world)
    if isinstance(met, AppError):
        assert int(met.headers["Retry-After"]) > 0
        assert words == ["go r0"]
        assert strategy is not MultitaskStrategy.ENQUEUE
        return
    assert words[-1] == "go now"
    is_replaced = met.rolled_back is not None
    assert ("go r0" in words) != is_replaced
    if strategy in {MultitaskStrategy.REJECT, MultitaskStrategy.ENQUEUE}:
        assert status(world, "r0") in {RunStatus.FINISHED, RunStatus.INTERRUPTED}
    branch = thread.conversation(thread.latest).messages
    calls = {call.id for message in branch for call in message.tool_calls}
    told = {each.tool_call_id for each in branch if each.role == "tool"}
    asked_about = world.store.interrupts(caller().user_id, thread.interrupts).values()
    assert calls - told == {each.awaited.id for each in asked_about}


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_what_is_foreseen_is_of_one_moment(ahead: int) -> None:
    """The thread was read first, and the run has stored more by the time its checkpoint is read."""
    world = scene()
    writer, read = Writer(world), world.store.thread(THREAD)
    for _ in range(ahead):
        writer.go_on()
    found = foreseen(world.store, read, ACTIVE_RUN.run_id, at=world.clock.now())
    now = world.store.thread(THREAD)
    assert found.messages[: now.next_message] == now.messages
    assert found.next_message >= now.next_message > read.next_message
    writer.end()
    with pytest.raises(ThreadChanged):
        foreseen(world.store, read, ACTIVE_RUN.run_id, at=world.clock.now())


@pytest.mark.parametrize("at", range(1, 7))
def test_a_repeat_that_comes_with_its_first_is_answered_by_its_run(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has all of the conversation, the first only what is new: they are one request by what the thread has then."""
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0.0)
    monkeypatch.setattr(asyncio, "to_thread", in_lockstep)
    world = World(unique_ids=True)
    ask(world, "before")
    execute(world)
    earlier = [dict(shown(each, CURRENT)) for each in world.store.thread(THREAD).messages]
    words = user("go", new_id())
    life, begun = Life(None), list[Run]()

    async def one(life: Life, *messages: dict[str, Any]) -> None:
        begun.append((await world.background(life).begin(caller(), asked(*messages, run="r1"))).run)

    life.meets = lambda: in_a_thread(lambda: asyncio.run(one(Life(None), words)))
    life.meets_at = at
    asyncio.run(one(life, *earlier, words))
    assert {run.key for run in begun} == {key("r1")}
    execute(world)
    assert said(world).count("go") == 1


@pytest.mark.parametrize("at", range(1, 6))
def test_a_label_counts_the_messages_of_its_point(at: int) -> None:
    world = scene()
    writer = Writer(world)
    life = Met(writer, {at: 1})
    points = CheckpointService(Handle(world.store, life), MemoryCheckpoints(world.store), world.clock)
    point = points.label(caller().user_id, ACTIVE_RUN.run_id, description="here", tags=())
    thread = world.store.thread(THREAD)
    assert point.messages == len(thread.shown_to(point.position))
    writer.end()


def test_a_position_that_was_stored_later_is_no_bug() -> None:
    thread = Thread(key=THREAD, messages=(Message(id="m", role="user"),), next_message=1)
    assert [each.id for each in thread.conversation(0).messages] == ["m"]
    with pytest.raises(ThreadChanged):
        thread.conversation(1)

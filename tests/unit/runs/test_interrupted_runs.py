"""Approvals, answers and deaths in any order: no call is made without its approval, none twice, and none is lost.

Each process is killed at some call of its store, its model or a tool, before or after the call had its effect, and
each client sends what it was not told of again. SEED plays a failure again; KILLS and INTERLEAVINGS play so many.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from karma.core.errors import AppError, NotFound
from karma.core.ids import RunId
from karma.models.ports import ModelEvent, ModelRequest
from karma.runs.domain import ACTIVE, LEASE, Run, RunHasEnded, RunKey, RunStatus
from karma.runs.execution import Executor
from karma.runs.interrupts import Interrupt, Reason
from karma.runs.service import RunService
from karma.tools.domain import ApprovalPolicy, ApprovalRule
from karma.tools.toolbox import Tool, ToolContext
from tests.fakes.runs import KeptFrames, caller
from tests.support.agui import verify
from tests.support.lost_runs import THREAD, Life, Nothing, Teller, World, live
from tests.support.run_world import asked, user

USER = caller().user_id
RUNS = int(os.environ.get("KILLS") or 32)
INTERLEAVINGS = int(os.environ.get("INTERLEAVINGS") or 24)
RULE = ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.word != '1'")
"""The calls of the model's first and third turns have to be approved, that of the second need not be."""


class Approving(World):
    """A world whose tools have to be approved; a tool knows its calls by run and id, as commands do."""

    rule = RULE
    free: Sequence[str] = ("1",)
    """Words of calls that need no approval."""

    def __init__(self) -> None:
        super().__init__()
        self.approved: set[str] = set()
        self.unapproved: list[str] = []
        """Calls that were made without being approved."""

    def tools(self, life: Life) -> list[Tool]:
        return [replace(tool, approval=self.rule, run=self._run(tool, life)) for tool in super().tools(life)]

    def _run(self, tool: Tool, life: Life) -> Callable[[Any, ToolContext], Any]:
        async def run(arguments: Nothing, context: ToolContext) -> object:
            life.before()
            if arguments.word not in self.free and context.call_id not in self.approved:
                self.unapproved.append(context.call_id)
            key = f"{context.run_id} {context.call_id}"
            self.effect(tool.name, key if tool.name == "again" else context.call_id)
            life.afterwards()
            return {"done": tool.name}

        return run

    def open(self) -> list[Interrupt]:
        """Return the open questions."""
        found = self.store.interrupts(USER, self.store.thread(THREAD).interrupts)
        return [found[name] for name in self.store.thread(THREAD).interrupts]

    def answer(self, question: Interrupt) -> dict[str, Any]:
        """Answer a question as somebody would who knows what happened."""
        self.approved.add(question.asked.id)
        payload: dict[str, Any] = {"approved": True}
        if question.reason is Reason.UNKNOWN_OUTCOME:
            has_happened = (question.asked.name, question.asked.id) in self.done
            payload = {"outcome": "happened", "result": {"done": "ask"}} if has_happened else {"outcome": "call_again"}
        return {"interruptId": question.id, "status": "resolved", "payload": payload}


class Person:
    """A client and its user, who answers all that is asked, or a part of it first."""

    def __init__(self, world: Approving, dice: random.Random, kills: int) -> None:
        self._world = world
        self._dice = dice
        self._kills = kills
        self.runs: list[Run] = []
        self._resume: list[dict[str, Any]] = []

    def _life(self) -> Life:
        if self._kills <= 0 or self._dice.random() < 0.3:
            return Life(None)
        self._kills -= 1
        return Life(self._dice.randint(1, 30), after=self._dice.random() < 0.5)

    def _go(self) -> Run:
        """Send a request until it has begun a run, and let processes go on with that until it has ended."""
        run_id = f"r{len(self.runs) + 1}"
        messages = [] if self._resume else [user("go", "u1")]
        more: dict[str, Any] = {"resume": self._resume} if self._resume else {}
        if self._world.agent:
            more["forwardedProps"] = {"agent_id": self._world.agent}
        key = RunKey(USER, RunId(run_id))
        while self._world.store.run(key) is None:
            life = self._life()
            request = asked(*messages, run=run_id, **more)

            async def work(life: Life = life, request: Any = request) -> None:
                await (await self._world.service(life).start(caller(), request)).execute(KeptFrames())

            live(work)
        while (run := self._world.store.run(key)) is not None and run.status in ACTIVE:
            self._world.clock.pass_by(LEASE + timedelta(seconds=1))
            life = self._life()
            live(partial(self._world.executor(life).go_on, key))
        assert run is not None
        self.runs.append(run)
        return run

    def finish(self) -> Run:
        """Go on until a run has ended without a question, or the first one has failed."""
        for _ in range(20):
            run = self._go()
            if run.status is RunStatus.FAILED and self._resume:
                continue  # the same answers once more, under another id, as the stock client's user would
            if run.status is not RunStatus.INTERRUPTED:
                return run
            questions = self._world.open()
            assert [each.id for each in questions] == list(run.interrupt_ids)
            some = self._dice.sample(questions, self._dice.randint(1, len(questions)))
            self._resume = [self._world.answer(each) for each in some]
        raise AssertionError("it does not end")


@pytest.mark.fault("F-02g")
@pytest.mark.parametrize("nth", range(RUNS))
def test_wherever_processes_die_each_approved_call_is_made_once_and_no_other(nth: int, seed: int) -> None:
    dice = random.Random(seed)
    expected = Approving()
    Person(expected, random.Random(seed), 0).finish()
    world = Approving()
    person = Person(world, dice, dice.randint(1, 6))

    last = person.finish()

    assert set(world.effects.values()) <= {1}
    assert world.unapproved == []
    for run in person.runs:
        log = world.store.segments(run.key, after=0, limit=10**6)
        assert [each.n for each in log] == list(range(1, len(log) + 1))
        assert [each.terminal for each in log] == [False] * (len(log) - 1) + [True]
    if all(run.status is not RunStatus.FAILED for run in person.runs):
        assert last.status is RunStatus.FINISHED
        assert Counter(name for name, _ in world.effects) == Counter(name for name, _ in expected.effects)
        assert sorted(world.told()) == sorted(expected.told()), "another conversation"
        assert world.store.thread(THREAD).interrupts == ()


def _in_any_order(monkeypatch: pytest.MonkeyPatch, dice: random.Random) -> None:
    """Let each call that leaves the loop return after a moment that the dice decide."""

    async def later(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for _ in range(dice.randint(0, 6)):
            await asyncio.sleep(0)
        found = function(*args, **kwargs)
        for _ in range(dice.randint(0, 6)):
            await asyncio.sleep(0)
        return found

    monkeypatch.setattr(asyncio, "to_thread", later)
    monkeypatch.setattr("karma.runs.recording._PAUSE_S", 0)
    monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.001)
    monkeypatch.setattr("karma.runs.repeats._POLL_S", 0.001)
    monkeypatch.setattr("karma.runs.repeats._MAX_POLL_S", 0.001)
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


@pytest.mark.fault("F-02g")
@pytest.mark.parametrize("kind", ["repeat", "same", "other", "parts"])
def test_of_two_answers_at_once_each_question_takes_one(kind: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    for nth in range(max(1, INTERLEAVINGS // 4)):
        with monkeypatch.context() as patched:
            _answer_twice(kind, random.Random(f"{seed} {nth}"), patched)


def _answer_twice(kind: str, dice: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Approving()
    live(lambda: _start(world, asked(user("go", "u1"), run="r1"), KeptFrames()))
    one, two = world.open()
    yes = [world.answer(one), world.answer(two)]
    no = [{**each, "payload": {"approved": False}} for each in yes]
    first, second = {
        "repeat": (("r2", yes), ("r2", yes)),
        "same": (("r2", yes), ("r3", yes)),
        "other": (("r2", yes), ("r3", no)),
        "parts": (("r2", yes[:1]), ("r3", yes[1:])),
    }[kind]
    requests = [asked(run=run, resume=resume) for run, resume in (first, second)]
    frames = [KeptFrames(), KeptFrames()]
    _in_any_order(monkeypatch, dice)

    async def both() -> list[Any]:
        starts = [_start(world, *each) for each in zip(requests, frames, strict=True)]
        return await asyncio.gather(*starts, return_exceptions=True)

    met = asyncio.run(both())

    refused = [each for each in met if each is not None]
    assert all(isinstance(each, AppError) and each.status == 409 for each in refused), met
    assert len(refused) <= 1
    begun = {key.run_id for key in world.store.runs_by_key} - {"r1"}
    assert len(begun) == (2 if kind == "parts" and not refused else 1)
    assert set(world.effects.values()) <= {1}
    for each, failure in zip(frames, met, strict=True):
        if failure is None:
            verify(each.events, held=[one.awaited.id, two.awaited.id])
    answers = [each.answer for each in world.store.interrupts(USER, [one.id, two.id]).values()]
    by = {each.by for each in answers if each is not None}
    assert by <= begun
    if kind in {"repeat", "same"}:
        assert not refused, "the same answer is refused"
        assert {each.events[0]["runId"] for each in frames} == begun
    elif kind == "other":
        (failure,) = refused
        assert failure.code in {"INTERRUPT_ANSWERED", "CONFLICT"}
        results = [m for m in world.store.thread(THREAD).messages if m.tool_call_id in {one.awaited.id, two.awaited.id}]
        assert [m.failed for m in results] == [begun == {"r3"}] * 2


async def _start(world: Approving, request: Any, frames: KeptFrames, life: Life | None = None) -> None:
    await (await world.service(life or Life(None)).start(caller(), request)).execute(frames)


class Halted(Teller):
    """A model that says nothing more once a run was asked to end, so that it ends where it was met."""

    def __init__(self, life: Life, world: CancelledThere) -> None:
        super().__init__(life)
        self._world = world

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self._world.asked_models += 1
        async for batch in super().stream(request):
            await self._world.halt()
            yield batch
            await self._world.halt()


class CancelledThere(Approving):
    """A world in which the run that answers begin is cancelled at some step."""

    def __init__(self) -> None:
        super().__init__()
        self.is_cancelled = False
        self.asked_models = 0

    async def halt(self) -> None:
        if self.is_cancelled:
            await asyncio.Event().wait()

    def tools(self, life: Life) -> list[Tool]:
        def halting(tool: Tool) -> Tool:
            async def run(arguments: Nothing, context: ToolContext) -> object:
                await self.halt()
                done = await tool.run(arguments, context)
                await self.halt()
                return done

            return replace(tool, run=run)

        return [halting(tool) for tool in super().tools(life)]

    def service(self, life: Life, **more: Any) -> RunService:
        return super().service(life, **{"model": Halted(life, self), **more})

    def executor(self, life: Life, **more: Any) -> Executor:
        return super().executor(life, **{"model": Halted(life, self), **more})

    def cancel(self) -> None:
        with suppress(NotFound, RunHasEnded):
            self.control(Life(None)).cancel(USER, RunId("r2"))
            self.is_cancelled = True


@pytest.mark.parametrize("is_lost", [False, True], ids=["its process lives", "its process is lost"])
def test_the_same_answer_gets_the_run_that_it_began_wherever_that_was_cancelled(
    is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled at each step of its process in turn: before its calls, during them, between and behind them."""
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
    phases = Counter[int]()
    for step in range(1, 100):
        world = CancelledThere()
        live(partial(_start, world, asked(user("go", "u1"), run="r1"), KeptFrames()))
        questions = world.open()
        yes = [world.answer(each) for each in questions]
        life = Life(step) if is_lost else Life(None, meets=world.cancel, meets_at=step)
        live(partial(_start, world, asked(run="r2", resume=yes), KeptFrames(), life))
        if is_lost:
            world.cancel()
            world.clock.pass_by(LEASE + timedelta(seconds=1))
            live(partial(world.executor(Life(None)).go_on, RunKey(USER, RunId("r2"))))
        run = world.store.run(RunKey(USER, RunId("r2")))
        if run is None or run.status is not RunStatus.CANCELLED:
            if phases:
                break  # it had ended before
            continue  # it was not stored yet
        phases[len(world.effects)] += 1
        world.is_cancelled = False
        results = Counter(each.tool_call_id for each in world.store.thread(THREAD).messages if each.role == "tool")
        assert {results[each.awaited.id] for each in questions} == {1}, f"step {step}"
        before = (world.store.thread(THREAD), world.effects.copy(), world.asked_models)

        frames = KeptFrames()
        live(partial(_start, world, asked(run="r3", resume=yes), frames))

        assert world.store.run(RunKey(USER, RunId("r3"))) is None, f"step {step}"
        assert frames.events[0]["runId"] == "r2"
        assert (world.store.thread(THREAD), world.effects, world.asked_models) == before
        live(partial(_start, world, asked(user("never mind", "u2"), run="r4"), KeptFrames()))
        after = world.store.run(RunKey(USER, RunId("r4")))
        assert after is not None
        assert after.status in {RunStatus.FINISHED, RunStatus.INTERRUPTED}
        assert world.effects.keys() & before[1].keys() == before[1].keys()
        assert set(world.effects.values()) <= {1}
    assert phases.keys() >= ({0, 2} if is_lost else {1, 2}), phases

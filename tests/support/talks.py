"""Conversations in a thread whose runs wait for each other, with calls at work, questions, and processes that die."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import orjson

from karma.agents.domain import MultitaskStrategy
from karma.conversations.domain import Message
from karma.core.errors import AppError
from karma.models.domain import Usage
from karma.models.ports import ModelEvent, ModelRequest, StopReason, TextDelta, ToolBegun, ToolEnded, TurnEnded
from karma.runs.domain import ACTIVE, LEASE, Run, RunStatus
from karma.runs.interrupts import Interrupt
from karma.runs.watchdog import FIRST_LOOK, Inspector
from karma.tools.domain import ApprovalPolicy, ApprovalRule
from karma.tools.toolbox import Tool, ToolContext
from tests.fakes.runs import caller
from tests.support.effects import verify_effects
from tests.support.lost_runs import THREAD, Life, Nothing, Teller, World, live
from tests.support.run_world import FIND_TOOL, asked, user

USER = caller().user_id
RULE = ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.word == 'ask'")
FRONTEND = str(FIND_TOOL["name"])


Plan = Sequence[tuple[str, str]]
"""Calls of one turn of the model: the tool, and the word that it is given."""


class Scripted(Teller):
    """A model whose turns make the calls that are planned; without a plan it answers."""

    def __init__(self, life: Life, talk: Talk) -> None:
        super().__init__(life)
        self._talk = talk

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        plan = self._talk.plan(request)
        blocks: list[dict[str, object]] = [{"type": "text", "text": "Well."}]
        batches: list[Sequence[ModelEvent]] = [[TextDelta("Well.")]]
        for name, word in plan:
            self._talk.calls += 1
            call_id, arguments = f"c{self._talk.calls}", {self._talk.takes.get(name, "word"): word}
            blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": arguments})
            batches.append([ToolBegun(call_id, name), ToolEnded(call_id, orjson.dumps(arguments).decode())])
        stop = StopReason.TOOL_USE if plan else StopReason.END
        for batch in [*batches, [TurnEnded(stop, Usage(10, 5), blocks)]]:
            self._life.before()
            yield batch
            self._life.afterwards()


class Talk(World):
    """A thread in which runs wait, with tools that say what they did, some of which have to be approved."""

    def __init__(self, *plans: Plan, plan: Callable[[], Plan] | None = None) -> None:
        super().__init__()
        self.takes: dict[str, str] = {}
        """Names of the argument that tools take, where it is not `word`."""
        self._plans = list(plans)
        self._next = plan or (lambda: self._plans.pop(0) if self._plans else ())
        self.calls = 0
        self.names = 0
        self.at_work: Callable[[], object] | None = None
        """The event that comes while the next tool is at work."""
        self.made: dict[str, str] = {}
        """Results that tools have given, by call."""
        self.answered: dict[str, str] = {}
        """Results that the client has given, by call."""
        self.unsure: set[str] = set()
        """Calls whose process died with them."""
        self.approved: set[str] = set()

    def plan(self, request: ModelRequest) -> Plan:
        return self._next()

    def tools(self, life: Life) -> list[Tool]:
        return [replace(tool, approval=RULE, run=self._run(tool.name, life)) for tool in super().tools(life)]

    def _run(self, name: str, life: Life) -> Callable[[Any, ToolContext], Any]:
        async def run(arguments: Nothing, context: ToolContext) -> object:
            assert arguments.word != "ask" or context.call_id in self.approved
            self.unsure.add(context.call_id)
            happens, self.at_work = self.at_work, None
            if happens is not None:
                await asyncio.to_thread(happens)
                await asyncio.sleep(0.01)  # until its process has read what was asked of it
            life.before()
            done = {"done": f"{name} {context.call_id}"}
            self.done.add((name, context.call_id))
            self.made[context.call_id] = orjson.dumps(done).decode()
            life.afterwards()
            return done

        return run

    def request(
        self, *messages: dict[str, Any], strategy: MultitaskStrategy | None, agent: str = "", **more: Any
    ) -> Run:
        """Ask for a run in the background, as `POST /runs` does."""
        self.names += 1
        props = {"multitask_strategy": strategy.value} if strategy else {}
        props |= {"agent_id": agent} if agent else {}
        request = asked(*messages, run=f"r{self.names}", tools=[FIND_TOOL], forwardedProps=props, **more)
        return asyncio.run(self.background(Life(None)).begin(caller(), request)).run

    def say(self, text: str, strategy: MultitaskStrategy | None = MultitaskStrategy.ENQUEUE, *, agent: str = "") -> Run:
        return self.request(user(text), strategy=strategy, agent=agent)

    def give(self, call_id: str, strategy: MultitaskStrategy | None = MultitaskStrategy.ENQUEUE) -> Run:
        """Give the result of a call of the client's tool; one that is refused was not given."""
        result = {"id": f"of-{call_id}", "role": "tool", "toolCallId": call_id, "content": f"picked {call_id}"}
        begun = self.request(result, strategy=strategy)
        self.answered[call_id] = f"picked {call_id}"
        return begun

    def execute(self, life: Callable[[], Life] = lambda: Life(None)) -> None:
        """Execute what is asked for until nothing is."""
        while self.executions.requested:
            key, process = self.executions.requested.pop(0), life()
            live(partial(self.executor(process, model=Scripted(process, self)).go_on, key))
            if not process.is_dead:
                self.unsure.clear()

    def settle(self) -> None:
        """Let time pass until each run has ended; who has paused one resumes it."""
        for _ in range(12):
            self.clock.pass_by(LEASE + FIRST_LOOK)
            for run in self.active():
                if run.status is RunStatus.PAUSED:
                    self.control(Life(None)).resume(USER, run.key.run_id)
                Inspector(self.store, self.executions, self.clock).look(run.key)
            self.execute()

    def rest(self, dice: random.Random) -> None:
        """Let each run end: what is asked is answered, or nobody answers in time."""
        for _ in range(20):
            self.settle()
            if not self.active():
                return
            with suppress(AppError):
                if (questions := self.open()) and dice.random() < 0.5:
                    self.approve(questions)
                    continue
            # Runs that wait behind a question are looked at when it expires, and given up an hour later (0049).
            expiries = [each.expires_at - self.clock.now() for each in self.open()]
            waits = max(expiries, default=timedelta(days=7))
            self.clock.pass_by(max(waits, timedelta(0)) + timedelta(seconds=5))

    def look(self, run: Run) -> timedelta | None:
        return Inspector(self.store, self.executions, self.clock).look(run.key, chain=0)

    def active(self) -> list[Run]:
        return [run for run in self.store.runs_by_key.values() if run.status in ACTIVE]

    def status(self, run: Run) -> RunStatus:
        found = self.store.run(run.key)
        assert found is not None
        return found.status

    def open(self) -> list[Interrupt]:
        names = self.store.thread(THREAD).interrupts
        found = self.store.interrupts(USER, names)
        return [found[name] for name in names]

    def approve(self, questions: Sequence[Interrupt]) -> Run:
        resume = []
        for each in questions:
            self.approved.add(each.awaited.id)
            is_approval = "approved" in orjson.dumps(each.response_schema).decode()
            payload = {"approved": True} if is_approval else {"outcome": "give_up"}
            resume.append({"interruptId": each.id, "status": "resolved", "payload": payload})
        return self.request(strategy=None, resume=resume)

    def branch(self) -> list[Message]:
        thread = self.store.thread(THREAD)
        return [thread.messages[at] for at in thread.path_to(thread.latest)]

    def results(self) -> list[tuple[str, str]]:
        verify_effects(self.branch())
        return [(each.tool_call_id, str(each.content)) for each in self.branch() if each.role == "tool"]

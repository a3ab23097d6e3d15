"""Conversations whose calls ask: to be approved, for a form, or by those of an agent that is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from karma.agents.domain import Subagent
from karma.conversations.history import awaited_calls
from karma.core.ids import AgentId
from karma.models.ports import ModelRequest
from karma.runs.domain import Run, RunStatus
from karma.runs.expiry import Expiry
from karma.runs.interrupts import Interrupt, Reason
from karma.tools.domain import ApprovalPolicy, ApprovalRule, OnExpiry
from karma.tools.inputs import Form, InputRequest, InputRequired
from karma.tools.toolbox import Tool, ToolContext
from tests.fakes.agents import catalogue
from tests.support.lost_runs import THREAD, TOOLS, Handle, Life, Nothing, live
from tests.support.run_world import spec
from tests.support.talks import USER, Plan, Scripted, Talk

WAIT_S: Final = 3_600
"""Seconds for which a question waits."""
FORM: Final = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


class Asking(Talk):
    """A thread of an agent whose calls ask: to be approved, for a form, or by those of an agent that it calls."""

    def __init__(self, *plans: Plan, plan: Callable[[], Plan] | None = None, refuses: bool = True) -> None:
        super().__init__(*plans, plan=plan)
        self.permission = "device:control"
        self.given_agents = catalogue(tools=TOOLS)
        self.given_agents.create(spec(name="scout", system_prompt="scout", tools=TOOLS))
        scout = Subagent(agent_id=AgentId("scout"), name="", description="")
        self.given_agents.create(spec(name="brief", system_prompt="lead", tools=TOOLS, subagents=(scout,)))
        self.rule = ApprovalRule(
            policy=ApprovalPolicy.WHEN,
            when="args.word == 'ask'",
            expires_in_s=WAIT_S,
            on_expiry=OnExpiry.REFUSE if refuses else OnExpiry.CANCEL,
        )
        self.hangs = False
        """The call that is at work does not end by itself."""
        self.takes = {"scout": "task"}
        self.unapproved: list[str] = []

    def plan(self, request: ModelRequest) -> Plan:
        if request.system[0] != "scout":
            return self._next()
        has_results = any(each.role == "tool" for each in request.messages)
        return () if has_results else [("again", "ask"), ("look", "ask")]

    def tools(self, life: Life) -> list[Tool]:
        return [replace(each, approval=self.rule, run=self._asks(each, life)) for each in super().tools(life)]

    def _asks(self, tool: Tool, life: Life) -> Callable[[Any, ToolContext], Any]:
        run = tool.run
        assert run is not None

        async def asking(arguments: Nothing, context: ToolContext) -> object:
            if arguments.word == "ask" and context.call_id not in self.approved:
                self.unapproved.append(context.call_id)
            if arguments.word == "form" and not (context.given and context.given.answers):
                form = Form(message="Sure?", schema=FORM)
                raise InputRequired(InputRequest(message="Sure?", forms={"f": form}, kept={}))
            made = await run(arguments, context)
            if self.hangs:
                self.hangs = False
                await asyncio.Event().wait()
            return made

        return asking

    def execute(self, life: Callable[[], Life] = lambda: Life(None)) -> None:
        while self.executions.requested:
            key, process = self.executions.requested.pop(0), life()
            self.store.fail = lambda _: None
            live(partial(self.executor(process, model=Scripted(process, self)).go_on, key))

    def answer(self, *questions: Interrupt, beside: str = "") -> Run:
        """Answer questions so that their calls are made."""
        resume = []
        for each in questions:
            self.approved.add(each.asked.id)
            payload: dict[str, object] = {"approved": True}
            if each.reason is Reason.INPUT_REQUIRED:
                payload = {"f": {"action": "accept", "content": {"ok": True}}}
            elif each.reason is Reason.UNKNOWN_OUTCOME:
                payload = {"outcome": "give_up"}
            resume.append({"interruptId": each.id, "status": "resolved", "payload": payload})
        said = [{"id": f"beside-{self.names}", "role": "user", "content": beside}] if beside else []
        return self.request(*said, strategy=None, agent="brief", resume=resume)

    def approve(self, questions: Sequence[Interrupt]) -> Run:
        return self.answer(*questions)

    def fail_once(self) -> None:
        """Let the next segment not be written, for a reason that nobody foresaw."""

        def fail(name: str) -> Exception | None:
            if name != "append":
                return None
            self.store.fail = lambda _: None
            return RuntimeError()

        self.store.fail = fail

    def waiting(self) -> list[Interrupt]:
        return [each for each in self.open() if each.is_waiting(self.clock.now())]

    def expire(self, life: Life | None = None) -> None:
        """Deal with each question whose time is over, as one process does."""
        deals = Expiry(
            store=Handle(self.store, life or Life(None)),
            runs=self.background(Life(None)),
            caller_by_now=lambda given: given,
            clock=self.clock,
        )

        async def work() -> None:
            for key, n, _ in self.store.expiring(self.clock.now(), limit=99).questions:
                await deals.expire(key, n)

        live(work)

    def cancel(self) -> None:
        """Cancel the run that has the thread."""
        for run in self.active():
            if run.status is not RunStatus.QUEUED:
                self.control(Life(None)).cancel(USER, run.key.run_id, reason="enough")

    def stop(self, agent: str) -> None:
        self.control(Life(None)).stop_agent(USER, self.agents().find(agent).id)

    def verify(self) -> None:
        """Compare the questions that the thread names with those that are open, and with the calls that wait."""
        thread = self.store.thread(THREAD)
        if thread.active_run_id is not None:
            return
        asked = self.store.interrupts_by_id
        named = {name: asked[name] for name in thread.interrupts}
        awaited = {call.id for call in awaited_calls(thread.conversation(thread.latest).messages)}
        is_open = {name for name, each in asked.items() if each.answer is None}
        assert is_open <= named.keys(), "a question that is open, and that its thread does not name"
        ghosts = [each for each in named.values() if each.answer is None and each.awaited.id not in awaited]
        assert not ghosts, "a question that nobody can answer"
        assert self.unapproved == [], self.unapproved

"""A run in memory: its store, a scripted model, a tool that echoes, and a client that keeps its screen."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import orjson

from karma.agents.domain import AgentSpec
from karma.billing.allowances import Allowances, Terms
from karma.billing.plans import PlanName, plan_at
from karma.conversations.attachments import Library
from karma.conversations.domain import ThreadKey
from karma.core.ids import ThreadId, UserId, new_id
from karma.identity.domain import Role
from karma.mcp.offering import McpTools
from karma.runs.domain import RunKey
from karma.runs.plan import RunLimits
from karma.runs.requests import RunInput, parse_run_input
from karma.runs.service import RunService
from karma.runs.watchdog import Inspector
from karma.tools.failures import ToolFailed
from karma.tools.toolbox import Tool, ToolContext, WhenLost, described
from tests.fakes.agents import catalogue
from tests.fakes.attachments import MemoryAttachments, MemoryDeviceFiles, ScriptedFetch
from tests.fakes.configuration import as_built
from tests.fakes.runs import (
    KeptFrames,
    MemoryRuns,
    RememberedWatchdog,
    RequestedExecutions,
    ScriptedModel,
    SetClock,
    caller,
)
from tests.support.agui import verify
from tests.support.run_services import run_service

FIND_TOOL = {"name": "askUser", "description": "Ask", "parameters": {"type": "object", "properties": {}}}


@dataclass(frozen=True)
class Echo:
    word: str = described("What to say")


async def echo(asked: Echo, context: ToolContext) -> object:
    if asked.word == "fail":
        raise ToolFailed("cannot say that")
    if asked.word == "break":
        raise RuntimeError("secret detail")
    if asked.word == "hang":
        await asyncio.Event().wait()
    return {"said": asked.word, "to": context.caller.name}


ECHO = Tool(
    name="echo",
    description="Echo",
    parameters=Echo,
    permission="device:read",
    when_lost=WhenLost.CALL_AGAIN,
    timeout_s=0.05,
    run=echo,
)


def asked(
    *messages: dict[str, Any], thread: str = "t1", run: str = "", taken: Container[str] = (), **more: Any
) -> RunInput:
    body = {"threadId": thread, "runId": run or new_id(), "messages": list(messages), "protocolVersion": "1.0", **more}
    return parse_run_input(orjson.dumps(body), taken=taken)


def spec(**more: Any) -> AgentSpec:
    return AgentSpec(**{"name": "brief", "model": "claude-test", "system_prompt": "Be brief.", **more})


def user(content: str, message_id: str = "") -> dict[str, Any]:
    return {"id": message_id or new_id(), "role": "user", "content": content}


class World:
    def __init__(self, *turns: Any, store: MemoryRuns | None = None, limits: RunLimits | None = None) -> None:
        self.store = store or MemoryRuns()
        self.model = ScriptedModel(*turns)
        self.watchdog = RememberedWatchdog()
        self.executions = RequestedExecutions()
        self.clock = SetClock()
        self.limits = limits or RunLimits()
        self.role = Role.USER
        self.plan = PlanName.ENTERPRISE
        self.day_cost_micros: int | None = None
        """The amount that the account allows itself a day."""
        self.agents = catalogue()
        self.tools = [ECHO]
        self.mcp: McpTools | None = None
        self.configuration = as_built()
        self.attachments = MemoryAttachments()
        self.device_files = MemoryDeviceFiles()
        self.web = ScriptedFetch()
        self.library = Library(self.attachments, self.device_files, self.web)

    @property
    def service(self) -> RunService:
        return run_service(
            store=self.store,
            watchdog=self.watchdog,
            model=self.model,
            agents=self.agents,
            configuration=self.configuration,
            tools=self.tools,
            library=self.library,
            allowances=Allowances(terms_of=self.terms, clock=self.clock),
            clock=self.clock,
            limits=self.limits,
            executions=self.executions,
            mcp=self.mcp,
        )

    def terms(self, _: UserId) -> Terms:
        return Terms(plan=plan_at(self.plan, self.clock.now()), day_cost_micros=self.day_cost_micros)

    def inspector(self) -> Inspector:
        return Inspector(self.store, self.executions, self.clock)

    async def go(self, request: RunInput) -> KeptFrames:
        frames = KeptFrames()
        try:
            started = await self.service.start(caller(self.role), request)
            await started.execute(frames)
        finally:
            await self.model.close()
        return frames

    def run(self, request: RunInput) -> list[dict[str, Any]]:
        """Run to the end; the stream must be what clients accept, and the log must say the same as the stream."""
        held = self._awaited()
        frames = asyncio.run(self.go(request))
        events = frames.events
        verify(events, held=held, asked=self._awaited())
        log = [orjson.loads(data) for segment in self.log(request) for data in segment.events]
        sent = [event for event in events if event["type"] != "MESSAGES_SNAPSHOT"]
        for subagent in dict.fromkeys(event.get("subagentRunId") for event in sent):
            # Those that work side by side may be told of in another order than they are recorded in.
            assert merged(said_by(subagent, log)) == merged(said_by(subagent, sent))
        return events

    def _awaited(self) -> list[str]:
        """Return the ids of calls that wait for an answer, and of those that led to them."""
        waiting = [each for each in self.store.interrupts_by_id.values() if each.answer is None]
        begun = [
            orjson.loads(data) for log in self.store.logs.values() for each in log.values() for data in each.events
        ]
        inside = [each["toolCallId"] for each in begun if each["type"] == "TOOL_CALL_START"]
        return [each.call.id for each in waiting if each.call] + (
            inside if any(each.inside for each in waiting) else []
        )

    def log(self, request: RunInput) -> list[Any]:
        return self.store.segments(RunKey(caller().user_id, request.run_id), after=0, limit=10**6)

    def thread(self, thread: str = "t1") -> Any:
        return self.store.thread(ThreadKey(caller().user_id, ThreadId(thread)))

    def stored(self, request: RunInput) -> Any:
        return self.store.run(RunKey(caller().user_id, request.run_id))


def said_by(subagent: str | None, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of one subagent; None: those of the run's own agent."""
    return [event for event in events if event.get("subagentRunId") == subagent]


def merged(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join neighbouring deltas of one item."""
    out: list[dict[str, Any]] = []
    for event in events:
        if out and "delta" in event and {**out[-1], "delta": ""} == {**event, "delta": ""}:
            out[-1] = {**event, "delta": out[-1]["delta"] + event["delta"]}
        else:
            out.append(event)
    return out

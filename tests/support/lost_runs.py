"""Runs whose processes die at some call of their store, their model or a tool, and go on in others."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_hex
from typing import Any

import orjson

from karma.agents.domain import MultitaskStrategy
from karma.agents.service import Catalogue
from karma.billing.plans import PlanName
from karma.conversations.domain import ThreadKey
from karma.core.ids import RunId, ThreadId
from karma.models.domain import ModelErrorCode, ReasoningEffort, Target, Usage
from karma.models.ports import (
    Model,
    ModelEvent,
    ModelFailed,
    ModelRequest,
    ReasoningDelta,
    ReasoningEnded,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.runs.background import BackgroundRuns
from karma.runs.control import RunControl
from karma.runs.domain import LEASE, Run, RunKey, Segment
from karma.runs.execution import Executor
from karma.runs.places import NoPlace, PlaceLeases
from karma.runs.plan import RunLimits
from karma.runs.recording import RunRecorder
from karma.runs.replay import read
from karma.runs.service import RunService
from karma.tools.domain import COMMAND, FILE, MCP
from karma.tools.toolbox import Tool, ToolContext, WhenLost, described
from tests.fakes.agents import catalogue
from tests.fakes.attachments import library
from tests.fakes.configuration import as_built
from tests.fakes.runs import KeptFrames, MemoryRuns, RememberedWatchdog, RequestedExecutions, SetClock, caller
from tests.support.plans import allowances
from tests.support.run_services import executor, known_by, no_mcp_tools, run_service
from tests.support.run_world import asked, spec, user

KEY = RunKey(caller().user_id, RunId("r1"))

THREAD = ThreadKey(caller().user_id, ThreadId("t1"))

SHOWN = {"again": MCP, "look": FILE, "ask": COMMAND}
"""The tools, each with the type of activity that it shows."""
TOOLS = tuple(SHOWN)


class Killed(BaseException):
    """The process is dead: whatever it still tries fails so."""


@dataclass
class Life:
    """One process: it dies at its `left`-th step, before or after it."""

    left: int | None
    after: bool = False
    is_dead: bool = False
    meets: Callable[[], None] | None = None
    """Work of another process that comes before its `meets_at`-th step."""
    meets_at: int = 0
    steps: int = 0

    def before(self) -> None:
        if self.is_dead:
            raise Killed
        self.steps += 1
        if self.meets is not None and self.steps == self.meets_at:
            self.meets()
        if self.left is not None:
            self.left -= 1
            if self.left <= 0 and not self.after:
                self._die()

    def afterwards(self) -> None:
        if self.is_dead or (self.left is not None and self.left <= 0):
            self._die()

    def _die(self) -> None:
        self.is_dead = True
        raise Killed


class Handle:
    """One process's handle of something: each call is a step of its life."""

    def __init__(self, of: object, life: Life, *, counts: bool = True) -> None:
        self._of = of
        self._life = life
        self._counts = counts

    def __getattr__(self, name: str) -> Any:  # so that it is accepted wherever the other is
        found = getattr(self._of, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if (name == "wishes" or not self._counts) and not self._life.is_dead:
                return found(*args, **kwargs)  # by the clock, and so no step that could be counted
            self._life.before()
            result = found(*args, **kwargs)
            self._life.afterwards()
            return result

        return call if callable(found) else found


@dataclass(frozen=True)
class Nothing:
    word: str = described("Anything", default="")


class World:
    """Everything that outlives processes: the store, and the effects of tools."""

    def __init__(self, *, thinks: bool = False, forgets: bool = False, unique_ids: bool = False) -> None:
        """Begin a world.

        Args:
            thinks: the run's agent shows its reasoning.
            forgets: its model reads few messages.
            unique_ids: its model gives each call an id that no other call has; else it counts them in each turn.
        """
        self.thinks = thinks
        self.unique_ids = unique_ids
        self.forgets = forgets
        self.agent = ""
        """Name of the agent that is asked; "": as the rest of the world says."""
        self.strategy: MultitaskStrategy | None = None
        """The words of an agent called `brief` to a second request; None: there is no such agent."""
        self.leases_are_steps = False
        self.permission = "device:read"
        """Permission that the tools ask for."""
        self.store = MemoryRuns()
        self.leases: PlaceLeases | None = None  # those of the store
        self.clock = SetClock()
        self.executions = RequestedExecutions()
        self.watchdog = RememberedWatchdog()
        self.given_agents: Catalogue | None = None
        self.day_cost_micros: int | None = None
        """The amount that the account allows itself a day."""
        self.plan_name = PlanName.ENTERPRISE
        self.effects: Counter[tuple[str, str]] = Counter()
        """Calls that took effect, by tool and id: a call that is made again under its id has one effect."""
        self.done: set[tuple[str, str]] = set()

    def effect(self, name: str, call_id: str) -> None:
        if name == "again" and (name, call_id) in self.done:
            return  # as a command that was sent with this key before
        self.done.add((name, call_id))
        self.effects[name, call_id] += 1

    def tools(self, life: Life) -> list[Tool]:
        def tool(name: str, when_lost: WhenLost) -> Tool:
            async def run(_: Nothing, context: ToolContext) -> object:
                life.before()
                context.show(SHOWN[name], {"status": "sent"})
                self.effect(name, context.call_id)
                context.show(SHOWN[name], {"status": "succeeded"})
                life.afterwards()
                return {"done": name}

            async def look_up(_: Nothing, context: ToolContext) -> object:
                life.before()
                return {"done": name} if (name, context.call_id) in self.done else None

            return Tool(
                name=name,
                description="",
                parameters=Nothing,
                permission=self.permission,
                when_lost=when_lost,
                timeout_s=5,
                run=run,
                look_up=look_up if when_lost is WhenLost.LOOK_UP else None,
            )

        return [tool("again", WhenLost.CALL_AGAIN), tool("look", WhenLost.LOOK_UP), tool("ask", WhenLost.ASK)]

    def executor(self, life: Life, *, model: Model | None = None, limits: RunLimits | None = None) -> Executor:
        return executor(
            store=Handle(self.store, life),
            executions=Handle(self.executions, life),
            model=model or self.teller(life),
            tools=self.tools(life),
            library=library(),
            allowances=allowances(self.plan_name, clock=self.clock, a_day=self.day_cost_micros),
            clock=self.clock,
            limits=limits or RunLimits(),
            agents=self.agents(),
            leases=Handle(self.leases or self.store.leases, life, counts=self.leases_are_steps),
        )

    def teller(self, life: Life) -> Teller:
        """Return the model, as a process has it."""
        found = Forgetful(life) if self.forgets else Teller(life)
        found.unique_ids = self.unique_ids
        return found

    def control(self, life: Life) -> RunControl:
        return RunControl(
            Handle(self.store, life),
            executions=Handle(self.executions, life),
            watchdog=Handle(self.watchdog, life),
            clock=self.clock,
            agents=self.agents(),
        )

    def service(self, life: Life, *, model: Model | None = None, limits: RunLimits | None = None) -> RunService:
        return run_service(
            store=Handle(self.store, life),
            watchdog=RememberedWatchdog(),
            executions=Handle(self.executions, life),
            model=model or self.teller(life),
            agents=self.agents(),
            configuration=as_built(),
            tools=self.tools(life),
            library=library(),
            allowances=allowances(self.plan_name, clock=self.clock, a_day=self.day_cost_micros),
            clock=self.clock,
            limits=limits or RunLimits(),
        )

    def agents(self) -> Catalogue:
        if self.given_agents is not None:
            return self.given_agents
        agents = catalogue(tools=TOOLS)
        if self.thinks:
            agents.create(spec(tools=TOOLS, reasoning=ReasoningEffort.LOW))
        elif self.strategy:
            agents.create(spec(tools=TOOLS, multitask_strategy=self.strategy))
        return agents

    def background(self, life: Life) -> BackgroundRuns:
        """Return what begins runs without a client: it has no model, and no process of its own."""
        executions = Handle(self.executions, life)
        store, mcp = Handle(self.store, life), no_mcp_tools(self.clock)
        allowed = allowances(self.plan_name, clock=self.clock, a_day=self.day_cost_micros)
        records = RunRecorder(
            store=store,
            watchdog=Handle(self.watchdog, life),
            executions=executions,
            tools=self.tools(life),
            limits=RunLimits(),
            mcp=mcp,
            agents=self.agents(),
            configuration=as_built(),
            library=library(),
            known=known_by(store, allowed, mcp),
            clock=self.clock,
        )
        return BackgroundRuns(records, executions)

    @property
    def log(self) -> list[Segment]:
        return self.store.segments(KEY, after=0, limit=10**6)

    def shown(self, *, after: int = 0) -> list[dict[str, Any]]:
        found = read(self.store, KEY, after=after, limit=10**6, link=list)
        return [orjson.loads(data) for segment in found for data in segment.events]

    def told(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Return the conversation without its ids."""
        thread = self.store.thread(THREAD)
        names = {call.id: call.name for each in thread.messages for call in each.tool_calls}
        return [
            (
                names.get(each.tool_call_id, each.role),
                str(each.content),
                tuple(call.name + call.arguments for call in each.tool_calls),
            )
            for each in thread.conversation(thread.latest).messages
        ]

    def summaries(self) -> int:
        """Return the number of summaries of the conversation's beginning."""
        thread = self.store.thread(THREAD)
        return sum(thread.messages[at].role == "summary" for at in thread.path_to(thread.latest))


class Teller:
    """A model whose answer depends on the conversation alone, as a real one's would."""

    padding = ""
    """The end of each part of its answers."""
    unique_ids = False

    def __init__(self, life: Life) -> None:
        self._life = life

    def prepare(self, target: Target) -> None:
        pass

    def preload(self, target: Target) -> None:
        pass

    async def close(self) -> None:
        pass

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        turn = sum(message.role == "assistant" for message in request.messages)
        thoughts: list[Sequence[ModelEvent]] = []
        if request.reasoning is not None:
            thoughts = [[ReasoningDelta(f"thought of {turn}. ")], [ReasoningEnded(), ReasoningDelta("Another.")]]
        for batch in [*thoughts, *self._answer(turn)]:
            self._life.before()
            yield batch
            self._life.afterwards()

    def _answer(self, turn: int) -> list[Sequence[ModelEvent]]:
        parts = [f"part {i} of {turn}. {self.padding}" for i in range(3)]
        said: list[Sequence[ModelEvent]] = [[TextDelta(part)] for part in parts]
        blocks: list[dict[str, object]] = [{"type": "text", "text": f"{turn}"}]
        names = {0: ("again", "ask"), 1: ("look",), 2: ("look", "again")}.get(turn, ())
        for i, name in enumerate(names):
            # Like a provider, or like a gateway: the same ids in each turn.
            call_id = f"toolu_{token_hex(10)}" if self.unique_ids else f"call_{i}"
            blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": {"word": f"{turn}"}})
            said.append(
                [ToolBegun(call_id, name), ToolArguments(call_id, '{"word":'), ToolArguments(call_id, f'"{turn}"}}')]
            )
            said.append([ToolEnded(call_id, f'{{"word":"{turn}"}}')])
        stop = StopReason.TOOL_USE if names else StopReason.END
        blocks[0] = {"type": "text", "text": "".join(parts)}
        return [*said, [TurnEnded(stop, Usage(100, 50), blocks)]]


class Forgetful(Teller):
    """A model that reads few messages, and knows what came before by a record that says how often it has answered."""

    padding = "and so on, " * 40
    READS = 5

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self._life.before()
        shown = "\n".join(str(message.content) for message in request.messages)
        known = sum(int(turns) for turns in re.findall(r"turns=(\d+)", shown)[:1])
        if request.system[0].startswith("You write the record"):
            said = shown.count('{"assistant":')
            record = f"turns={known + said}"
            written: list[Sequence[ModelEvent]] = [[TextDelta(record)], [TurnEnded(StopReason.END, Usage(100, 50), ())]]
            for batch in written:
                yield batch
                self._life.afterwards()
                self._life.before()
            return
        if len(request.messages) > self.READS:
            raise ModelFailed(ModelErrorCode.CONTEXT_WINDOW_EXCEEDED)
        turn = known + sum(message.role == "assistant" for message in request.messages)
        for batch in self._answer(turn):
            self._life.before()
            yield batch
            self._life.afterwards()


async def until_death(work: Callable[[], Any]) -> bool:
    """Do some work; where it dies, so does whatever it has left in the loop. False: its account had no place for it."""
    try:
        async with asyncio.timeout(30):
            await work()
    except Killed:
        pass
    except NoPlace:
        return False
    finally:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    return True


def live(work: Callable[[], Any]) -> bool:
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda *_: None)  # the dead have nobody who would hear them
        return runner.run(until_death(work))


def begin(world: World, life: Life, sink: KeptFrames | None = None, **more: Any) -> KeptFrames:
    agent: dict[str, Any] = {"forwardedProps": {"agent_id": "brief"}} if world.thinks else {}
    agent = {"forwardedProps": {"agent_id": world.agent}} if world.agent else agent
    request, frames = asked(user("go", "u1"), run="r1", **agent), sink or KeptFrames()
    deadline = more.pop("deadline", None)

    async def work() -> None:
        await (await world.service(life, **more).start(caller(), request, deadline=deadline)).execute(frames)

    live(work)
    return frames


def go_on(world: World, life: Life) -> None:
    world.clock.pass_by(LEASE + timedelta(seconds=1))
    assert live(lambda: world.executor(life).go_on(KEY)), "the run has the place of its earlier process"


def cancel(world: World, life: Life | None = None, *, reason: str = "") -> Run:
    """Cancel the run as a request does."""
    return world.control(life or Life(None)).cancel(KEY.user_id, KEY.run_id, reason=reason)


def pause(world: World, life: Life | None = None) -> Run:
    """Pause the run as a request does."""
    return world.control(life or Life(None)).pause(KEY.user_id, KEY.run_id)


def resume(world: World, life: Life | None = None) -> Run:
    """Resume the run as a request does."""
    return world.control(life or Life(None)).resume(KEY.user_id, KEY.run_id)


def screen(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a client shows after these events, but the user's own messages and activities."""
    shown: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"]
        if kind == "MESSAGES_SNAPSHOT":
            told = [each for each in event["messages"] if each["role"] not in {"user", "activity"}]
            calls = [[call["id"] for call in each.get("toolCalls", ())] for each in told]
            shown = [
                {"id": each["id"], "content": each.get("content", ""), "calls": ids}
                for each, ids in zip(told, calls, strict=True)
            ]
        elif kind in {"TEXT_MESSAGE_START", "TOOL_CALL_START"}:
            message_id = event.get("parentMessageId") or event["messageId"]
            if message_id not in [each["id"] for each in shown]:
                shown.append({"id": message_id, "content": "", "calls": []})
            shown[-1]["calls"] += [event["toolCallId"]] if kind == "TOOL_CALL_START" else []
        elif kind == "TEXT_MESSAGE_CONTENT":
            (message,) = [each for each in shown if each["id"] == event["messageId"]]
            message["content"] += event["delta"]
        elif kind == "TOOL_CALL_RESULT":
            shown.append({"id": event["messageId"], "content": event["content"], "calls": []})
    return shown

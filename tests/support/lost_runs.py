"""Runs whose processes die at some call of their store, their model or a tool, and go on in others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson

from karma.conversations.domain import ThreadKey
from karma.core.ids import RunId, ThreadId
from karma.models.domain import Target, Usage
from karma.models.ports import (
    Model,
    ModelEvent,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.runs.control import RunControl
from karma.runs.domain import LEASE, Run, RunKey, Segment
from karma.runs.execution import Executor
from karma.runs.plan import RunLimits
from karma.runs.replay import read
from karma.runs.service import RunService
from karma.tools.toolbox import Tool, ToolContext, WhenLost, described
from tests.fakes.agents import catalogue
from tests.fakes.configuration import as_built
from tests.fakes.runs import (
    KeptFrames,
    MemoryRuns,
    RememberedWatchdog,
    RequestedExecutions,
    SetClock,
    caller,
    library,
)
from tests.support.plans import allowances
from tests.support.run_services import executor, run_service
from tests.support.run_world import asked, user

KEY = RunKey(caller().user_id, RunId("r1"))

THREAD = ThreadKey(caller().user_id, ThreadId("t1"))

TOOLS = ("again", "look", "ask")


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

    def __init__(self, of: object, life: Life) -> None:
        self._of = of
        self._life = life

    def __getattr__(self, name: str) -> Any:  # so that it is accepted wherever the other is
        found = getattr(self._of, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "wishes" and not self._life.is_dead:
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

    def __init__(self) -> None:
        self.store = MemoryRuns()
        self.clock = SetClock()
        self.executions = RequestedExecutions()
        self.watchdog = RememberedWatchdog()
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
                self.effect(name, context.call_id)
                life.afterwards()
                return {"done": name}

            async def look_up(_: Nothing, context: ToolContext) -> object:
                life.before()
                return {"done": name} if (name, context.call_id) in self.done else None

            return Tool(
                name=name,
                description="",
                parameters=Nothing,
                permission="device:read",
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
            model=model or Teller(life),
            tools=self.tools(life),
            library=library(),
            allowances=allowances(clock=self.clock),
            clock=self.clock,
            limits=limits or RunLimits(),
        )

    def control(self, life: Life) -> RunControl:
        return RunControl(
            Handle(self.store, life),
            executions=Handle(self.executions, life),
            watchdog=Handle(self.watchdog, life),
            clock=self.clock,
        )

    def service(self, life: Life, *, model: Model | None = None, limits: RunLimits | None = None) -> RunService:
        return run_service(
            store=Handle(self.store, life),
            watchdog=RememberedWatchdog(),
            executions=Handle(self.executions, life),
            model=model or Teller(life),
            agents=catalogue(tools=TOOLS),
            configuration=as_built(),
            tools=self.tools(life),
            library=library(),
            allowances=allowances(clock=self.clock),
            clock=self.clock,
            limits=limits or RunLimits(),
        )

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
            for each in (thread.messages[at] for at in thread.path_to(thread.latest))
        ]


class Teller:
    """A model whose answer depends on the conversation alone, as a real one's would."""

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
        for batch in self._answer(turn):
            self._life.before()
            yield batch
            self._life.afterwards()

    def _answer(self, turn: int) -> list[Sequence[ModelEvent]]:
        said: list[Sequence[ModelEvent]] = [[TextDelta(f"part {i} of {turn}. ")] for i in range(3)]
        blocks: list[dict[str, object]] = [{"type": "text", "text": f"{turn}"}]
        names = {0: ("again", "ask"), 1: ("look",), 2: ("look", "again")}.get(turn, ())
        for i, name in enumerate(names):
            call_id = f"call_{i}"  # like a gateway: the same ids in each turn
            blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": {"word": f"{turn}"}})
            said.append(
                [ToolBegun(call_id, name), ToolArguments(call_id, '{"word":'), ToolArguments(call_id, f'"{turn}"}}')]
            )
            said.append([ToolEnded(call_id, f'{{"word":"{turn}"}}')])
        stop = StopReason.TOOL_USE if names else StopReason.END
        text = "".join(f"part {i} of {turn}. " for i in range(3))
        blocks[0] = {"type": "text", "text": text}
        return [*said, [TurnEnded(stop, Usage(100, 50), blocks)]]


async def until_death(work: Callable[[], Any]) -> None:
    """Do some work; where it dies, so does whatever it has left in the loop."""
    try:
        async with asyncio.timeout(30):
            await work()
    except Killed:
        pass
    finally:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def live(work: Callable[[], Any]) -> None:
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda *_: None)  # the dead have nobody who would hear them
        runner.run(until_death(work))


def begin(world: World, life: Life, sink: KeptFrames | None = None, **more: Any) -> KeptFrames:
    request, frames = asked(user("go", "u1"), run="r1"), sink or KeptFrames()
    deadline = more.pop("deadline", None)

    async def work() -> None:
        await (await world.service(life, **more).start(caller(), request, deadline=deadline)).execute(frames)

    live(work)
    return frames


def go_on(world: World, life: Life) -> None:
    world.clock.pass_by(LEASE + timedelta(seconds=1))
    live(lambda: world.executor(life).go_on(KEY))


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
    """Return what a client shows after these events, the user's own messages left out."""
    shown: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"]
        if kind == "MESSAGES_SNAPSHOT":
            shown = [
                {
                    "id": each["id"],
                    "content": each.get("content", ""),
                    "calls": [c["id"] for c in each.get("toolCalls", ())],
                }
                for each in event["messages"]
                if each["role"] != "user"
            ]
        elif kind in {"TEXT_MESSAGE_START", "TOOL_CALL_START"}:
            message_id = event.get("parentMessageId") or event["messageId"]
            if message_id not in [each["id"] for each in shown]:
                shown.append({"id": message_id, "content": "", "calls": []})
            if kind == "TOOL_CALL_START":
                shown[-1]["calls"].append(event["toolCallId"])
        elif kind == "TEXT_MESSAGE_CONTENT":
            (message,) = [each for each in shown if each["id"] == event["messageId"]]
            message["content"] += event["delta"]
        elif kind == "TOOL_CALL_RESULT":
            shown.append({"id": event["messageId"], "content": event["content"], "calls": []})
    return shown

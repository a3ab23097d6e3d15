"""Runs in memory whose agents call other agents; each model answers by its own script."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import orjson

from karma.agents.domain import Agent, AgentSpec, Subagent
from karma.core.ids import AgentId
from karma.models.domain import Usage
from karma.models.ports import (
    ModelEvent,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from tests.fakes.agents import catalogue
from tests.fakes.runs import ScriptedModel, Step
from tests.support.lost_runs import TOOLS, Life, Teller
from tests.support.lost_runs import World as LostWorld
from tests.support.run_world import World, spec


class ScriptedModels(ScriptedModel):
    """Plays a script for each agent, which it knows by its prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: dict[str, list[Sequence[Step]]] = defaultdict(list)
        self.by_agent: dict[str, list[ModelRequest]] = defaultdict(list)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        prompt = request.system[0]
        player = ScriptedModel(self.scripts[prompt].pop(0))
        try:
            async for batch in player.stream(request):
                yield batch
        finally:
            self.by_agent[prompt] += player.requests
            self.requests += player.requests


class SubagentWorld(World):
    """A world whose agents have the prompts that are their names."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.models = ScriptedModels()
        self.model = self.models

    def agent(self, name: str, *subagents: str, **more: Any) -> Agent:
        """Make an agent that may call others, which are named as their tools."""
        called = tuple(Subagent(agent_id=AgentId(each), name="", description="") for each in subagents)
        own: AgentSpec = spec(name=name, system_prompt=name, subagents=called, **more)
        return self.agents.create(own)

    def script(self, name: str, *turns: Sequence[Step]) -> None:
        """Say what the model of an agent answers, call by call."""
        self.models.scripts[name] += turns


class Delegating(LostWorld):
    """A world whose processes die, and whose agents call each other: two at once, and two levels deep."""

    def __init__(self, *, asks: bool = False) -> None:
        """Begin; with `asks` a subagent calls a tool of which nobody knows what became of it after a loss."""
        super().__init__()
        self.agent = "lead"
        self.asks = asks
        self.given_agents = catalogue(tools=TOOLS)
        for name, *called in (("digger",), ("scout", "digger"), ("lead", "scout", "digger")):
            named = tuple(Subagent(agent_id=AgentId(each), name="", description="") for each in called)
            self.given_agents.create(spec(name=name, system_prompt=name, tools=TOOLS, subagents=named))

    def teller(self, life: Life) -> Teller:
        return Chain(life, asks=self.asks)


class Chain(Teller):
    """A model whose answer depends on its agent and on its conversation alone."""

    def __init__(self, life: Life, *, asks: bool) -> None:
        super().__init__(life)
        self._calls: dict[tuple[str, int], Sequence[tuple[str, dict[str, str]]]] = {
            ("lead", 0): (
                ("scout", {"task": "look around"}),
                ("again", {"word": "0"}),
                ("digger", {"task": "dig here"}),
            ),
            ("lead", 1): (("look", {"word": "1"}),),
            ("scout", 0): (("again", {"word": "s"}), ("ask" if asks else "look", {"word": "s"})),
            ("scout", 1): (("digger", {"task": "dig there"}),),
            ("digger", 0): (("look", {"word": "d"}), ("again", {"word": "d"})),
        }

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        agent = request.system[0]
        turn = sum(message.role == "assistant" for message in request.messages)
        for batch in self.said(agent, turn):
            self._life.before()
            yield batch
            self._life.afterwards()

    def said(self, agent: str, turn: int) -> list[Sequence[ModelEvent]]:
        """Return what an agent says in a turn."""
        words = [f"{agent} says part {i} of {turn}. " for i in range(2)]
        said: list[Sequence[ModelEvent]] = [[TextDelta(each)] for each in words]
        blocks: list[dict[str, object]] = [{"type": "text", "text": "".join(words)}]
        calls = self._calls.get((agent, turn), ())
        for i, (name, arguments) in enumerate(calls):
            call_id, written = f"call_{i}", orjson.dumps(arguments).decode()
            blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": arguments})
            said.append([ToolBegun(call_id, name), ToolArguments(call_id, written)])
            said.append([ToolEnded(call_id, written)])
        return [*said, [TurnEnded(StopReason.TOOL_USE if calls else StopReason.END, Usage(100, 50), blocks)]]

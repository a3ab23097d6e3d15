"""Three runs at work at a time, by real clients of a real server that keeps a journal of its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson

from karma.agents.domain import Agent
from karma.billing.allowances import Allowances, Metric
from karma.configuration.current import RunChoice
from karma.conversations.domain import ThreadKey
from karma.core.clock import monotonic
from karma.core.ids import RunId
from karma.integrations.anthropic import AnthropicModel
from karma.integrations.openai import OpenAIModel
from karma.models.budgets import UNLIMITED, Budget
from karma.models.domain import ANTHROPIC, OPENAI, Target
from karma.models.retrying import RetryingModel
from karma.models.router import RoutedModel
from karma.runs.background import BackgroundRuns
from karma.runs.control import RunControl
from karma.runs.domain import LEASE, Run, RunKey
from karma.runs.execution import Executor
from karma.runs.replay import read
from karma.runs.wishes import Wishes
from local.waiting import until
from tests.fakes.runs import KeptFrames, caller
from tests.support import chat_stream
from tests.support.faulty_server import Behaviour, Call, FaultyServer, stream, trickle
from tests.support.model_server import message, sse, text, tool_use
from tests.support.plans import allowance
from tests.support.run_services import executor, recorder
from tests.support.run_world import asked, user
from tests.support.subagents import SubagentWorld

STREAM, BACKGROUND, SUBAGENT = MODES = ("stream", "background", "subagent")
USER = caller().user_id


class OneChoice:
    """A configuration in which every agent has the same model."""

    def __init__(self, choice: RunChoice) -> None:
        self.choice = choice

    def for_refusal(self) -> RunChoice:
        return self.choice

    def for_run(self, *, agent: str, model: str, summaries: str = "") -> RunChoice:
        return self.choice


@dataclass
class Talk:
    """The answers of a provider's server."""

    endless: Behaviour
    """It speaks, a piece every 20 ms, until its client leaves."""
    silent: Behaviour
    """It keeps the connection alive, and says nothing after the first piece."""
    says: Callable[[str], Behaviour]
    calls: Callable[[str, dict[str, str]], Behaviour]


def anthropic_talk() -> Talk:
    begun = message(text("Hel"))[:4]
    more = sse("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo "})
    return Talk(
        trickle(*begun, every=more),
        trickle(*begun, every=sse("ping")),
        lambda said: stream(*message(text(said))),
        lambda name, given: stream(
            *message(tool_use("toolu_1", name, orjson.dumps(given).decode()), stop_reason="tool_use")
        ),
    )


def openai_talk() -> Talk:
    begun, usage = chat_stream.chunks("Hel")[:2], {"prompt_tokens": 11, "completion_tokens": 7}

    def calls(name: str, given: dict[str, str]) -> Behaviour:
        call = {"index": 0, "id": "c1", "function": {"name": name, "arguments": orjson.dumps(given).decode()}}
        return chat_stream.chat(calls=[call], usage=usage)

    return Talk(
        trickle(*begun, every=chat_stream.chunk({"content": "lo "})),
        trickle(*begun, every=b": keep-alive\n\n"),
        lambda said: chat_stream.chat(said, usage=usage),
        calls,
    )


def words_of(request: dict[str, Any], role: str) -> list[str]:
    """Return what somebody said in a request of either provider."""
    said = [each["content"] for each in request["messages"] if each["role"] == role]
    return [each if isinstance(each, str) else "".join(part.get("text", "") for part in each) for each in said]


@dataclass
class Scene:
    """Three runs at work, and the server that they call. The agent `scout` is the one that is stopped."""

    server: FaultyServer
    talk: Talk
    provider: str = ANTHROPIC
    scout: Callable[[dict[str, Any]], Behaviour] | None = None
    """Answers it; None: endlessly."""
    world: SubagentWorld = field(default_factory=SubagentWorld)
    frames: dict[str, KeptFrames] = field(default_factory=lambda: {STREAM: KeptFrames(), SUBAGENT: KeptFrames()})
    seen: dict[str, float] = field(default_factory=dict)
    """Monotonic seconds at which a run's process first read of a wish for it."""
    titles: list[ThreadKey] = field(default_factory=list)
    """Threads for which a title was asked, after their run in the background."""
    budget: Budget = UNLIMITED
    """Of each run of it."""
    lead_budget: Budget = UNLIMITED
    """Of each run of the agent that calls it."""

    def __post_init__(self) -> None:
        world, server = self.world, self.server
        world.model = RoutedModel(  # type: ignore[assignment]
            {
                ANTHROPIC: lambda: RetryingModel(AnthropicModel(secret_arn="secret", base_url=server.url)),
                OPENAI: lambda: RetryingModel(OpenAIModel(secret_arn="secret")),
            }
        )
        target = Target(model="claude-haiku-5-5")
        if self.provider == OPENAI:
            target = Target(model="m", provider=OPENAI, base_url=f"{server.url}/v1", secret="mine")
        world.configuration = OneChoice(RunChoice(target=target, disabled_tools=frozenset()))  # type: ignore[assignment]
        self.agent: Agent = world.agent("scout", tools=("echo",), budget=self.budget)
        self.lead = world.agent("lead", "scout", budget=self.lead_budget)
        server.choose = self._choose
        wishes = world.store.wishes

        def noted(key: RunKey) -> Wishes:
            found = wishes(key)
            if found:
                self.seen.setdefault(key.run_id, monotonic())
            return found

        world.store.wishes = noted  # type: ignore[method-assign]

    def _choose(self, request: dict[str, Any]) -> Behaviour:
        if self.is_lead(request):
            has_asked = any(each["role"] == "assistant" for each in request["messages"])
            return self.talk.says("Done.") if has_asked else self.talk.calls("scout", {"task": SUBAGENT})
        return self.talk.endless if self.scout is None else self.scout(request)

    @staticmethod
    def is_lead(request: dict[str, Any]) -> bool:
        return "scout" in {(each.get("function") or each)["name"] for each in request.get("tools", ())}

    def calls(self, mode: str) -> list[Call]:
        """Return the journal's calls of the agent `scout` in a run."""
        own = [each for each in self.server.calls if not self.is_lead(each.request)]
        return [each for each in own if words_of(each.request, "user")[0] == mode]

    def run(self, mode: str) -> Run:
        found = self.world.store.run(RunKey(USER, RunId(mode)))
        assert found is not None
        return found

    def log(self, mode: str) -> list[dict[str, Any]]:
        found = read(self.world.store, RunKey(USER, RunId(mode)), after=0, limit=10**6, link=list)
        return [orjson.loads(data) for segment in found for data in segment.events]

    @property
    def parts(self) -> dict[str, Any]:
        world = self.world
        return {
            "store": world.store,
            "executions": world.executions,
            "model": world.model,
            "tools": world.tools,
            "library": world.library,
            "allowances": Allowances(terms_of=world.terms, clock=world.clock),
            "clock": world.clock,
            "limits": world.limits,
            "agents": world.agents,
            "configuration": world.configuration,
        }

    def executor(self) -> Executor:
        return executor(**self.parts, ask_title=self.titles.append)

    def control(self) -> RunControl:
        world = self.world
        return RunControl(
            world.store, executions=world.executions, watchdog=world.watchdog, clock=world.clock, agents=world.agents
        )

    def spent(self) -> int:
        """Return what is counted of the owner's plan."""
        found = self.world.store.usage.read(allowance(USER, at=self.world.clock.now()))
        return sum(each.used for each in found if each.metric is Metric.MODEL_SPEND)

    async def begin(self) -> list[asyncio.Task[Any]]:
        """Begin a run of each mode; return the tasks of their processes."""

        def request(mode: str, agent: str) -> Any:
            return asked(user(mode, f"u-{mode}"), thread=mode, run=mode, forwardedProps={"agent_id": agent})

        tasks: list[asyncio.Task[Any]] = []
        for mode, agent in ((STREAM, "scout"), (SUBAGENT, "lead")):
            started = await self.world.service.start(caller(), request(mode, agent))
            tasks.append(started.execute(self.frames[mode]))
        records = recorder(**self.parts, watchdog=self.world.watchdog)
        await BackgroundRuns(records, self.world.executions).begin(caller(), request(BACKGROUND, "scout"))
        return [*tasks, *self.go_on()]

    def go_on(self) -> list[asyncio.Task[Any]]:
        """Execute each run of the queue, as its consumer does."""
        keys, self.world.executions.requested = self.world.executions.requested, []
        return [asyncio.create_task(self.executor().go_on(key)) for key in keys]

    async def until_all_speak(self) -> None:
        def they_do() -> bool:
            return all(any(each.is_open and each.sent for each in self.calls(mode)) for mode in MODES)

        await asyncio.to_thread(until, they_do, deadline_s=20, what="three models that speak", pause_s=0.005)

    async def come_late(self) -> None:
        """Let each run's process be asked for again, once its lease is over, as the watchdog and a late message do."""
        self.world.clock.pass_by(LEASE + timedelta(seconds=1))
        self.world.executions.requested += [RunKey(USER, RunId(mode)) for mode in MODES]
        await asyncio.gather(*self.go_on())

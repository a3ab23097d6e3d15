"""Subagents whose conversations become longer than their model reads: they are summarised for it, and go on."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from karma.models.ports import ModelRequest
from karma.models.prices import cost
from karma.runs.domain import RunStatus
from karma.runs.subagents.steps import read_steps
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from tests.fakes.agents import catalogue
from tests.support.agui import verify
from tests.support.run_world import asked, user
from tests.support.subagents import SubagentWorld
from tests.support.windowed import FACT, Said, WindowedModel, configured, text_of

pytestmark = [pytest.mark.usefixtures("no_blocking_calls")]

WINDOW = 4_000
LONG = "These are words that fill the window of a model. " * 20
STEPS = 20


class Scene(SubagentWorld):
    """An agent `lead` that asks `scout` once, which makes long steps, the last of which may need approval."""

    def __init__(self, *, window: int | None = WINDOW, asks: bool = False, **more: Any) -> None:
        super().__init__()
        self.windowed = WindowedModel(WINDOW, self._answer)
        self.model = self.windowed  # type: ignore[assignment]
        self.configuration = configured(own=window)
        self.agents = catalogue(more_models=("own",))
        self._left = STEPS
        self._asks = asks
        rule = ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.word == 'ask'")
        approvals = (ToolApproval(tool="echo", rule=rule),)
        self.agent("scout", model="own", tools=("echo",), max_steps=50, approvals=approvals, **more)
        self.agent("lead", "scout", model="own")

    def _answer(self, request: ModelRequest) -> Said:
        if request.system[0] == "lead":
            called = any(message.role == "tool" for message in request.messages)
            return ("Found.", ()) if called else ("", [("scout", orjson.dumps({"task": "look FACT-0"}).decode())])
        if self._left == 0:
            return "Done.", ()
        self._left -= 1
        word = "ask" if self._asks and self._left == 0 else f"{LONG} FACT-{self._left + 1}"
        return f"Step {self._left}", [("echo", orjson.dumps({"word": word}).decode())]

    def ask(self, run: str = "r1", **more: Any) -> list[dict[str, Any]]:
        request = asked(*(() if more else (user("go", "u1"),)), run=run, forwardedProps={"agent_id": "lead"}, **more)
        return self.run(request)


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event.get("name") == name]


@pytest.mark.parametrize("window", [None, WINDOW], ids=["a window that is not known", "a window that is configured"])
def test_goes_on_beyond_its_window_and_is_charged_to_its_run(window: int | None) -> None:
    world = Scene(window=window)

    events = world.ask()

    verify(events)
    assert events[-1]["type"] == "RUN_FINISHED"
    (result,) = [each for each in world.thread().messages if each.role == "tool"]
    assert (result.content, result.failed) == ("Done.", False)
    (begun,) = [each["subagentRunId"] for each in events if each["type"] == "SUBAGENT_STARTED"]
    told = named(events, "karma.compacted")
    assert told
    assert {each["subagentRunId"] for each in [*told, *named(events, "karma.compacting")]} == {begun}
    assert all(each["value"]["tokensAfter"] < each["value"]["tokensBefore"] for each in told)
    assert world.windowed.refused == (0 if window else len(told))
    last = [each for each in world.windowed.requests if each.system[0] == "scout"][-1]
    assert set(FACT.findall(text_of(last))) == {f"FACT-{n}" for n in range(STEPS + 1)}
    assert not [each for each in world.thread().messages if each.role == "summary"], "it is the subagent's alone"
    (run,) = world.store.runs_by_key.values()
    assert run.status is RunStatus.FINISHED
    target = world.windowed.requests[0].target
    assert run.cost_micros is not None
    spent = [cost(usage, target, world.clock.now()) for usage in world.windowed.used.values()]
    assert abs(run.cost_micros - sum(spent)) <= len(world.windowed.requests) + len(world.windowed.records)
    (scout,) = run.delegated
    assert (scout["turns"], scout["calls"]) == (STEPS + 1, 1)


def test_another_process_goes_on_with_the_summary_and_makes_no_other() -> None:
    world = Scene(asks=True)
    events = world.ask()
    (question,) = events[-1]["outcome"]["interrupts"]
    (run,) = world.store.runs_by_key.values()
    (transcript,) = read_steps(world.store.delegated(run.key), own=run.key.run_id).transcripts.values()
    assert transcript.compacted is not None
    assert not [each for _, each in transcript.messages if each.role == "summary"]
    records = len(world.windowed.records)

    answer = {"interruptId": question["id"], "status": "resolved", "payload": {"approved": True}}
    again = world.ask("r2", resume=[answer])

    assert again[-1]["type"] == "RUN_FINISHED"
    assert len(world.windowed.records) == records
    last = [each for each in world.windowed.requests if each.system[0] == "scout"][-1]
    assert "[The conversation is longer" in text_of(last)
    assert set(FACT.findall(text_of(last))) >= {"FACT-0", f"FACT-{STEPS}"}

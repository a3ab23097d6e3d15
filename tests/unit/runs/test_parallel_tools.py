"""Calls of one turn: made side by side up to a bound, told and stored in the order in which the model made them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from karma.conversations.domain import ToolCall
from karma.core.ids import RunId
from karma.models.ports import StopReason
from karma.runs.requests import parse_run_input
from karma.tools.failures import ToolFailed
from karma.tools.toolbox import MAX_AT_ONCE, Tool, Toolbox, ToolContext, WhenLost, described
from tests.fakes.runs import caller, ended, text, tool
from tests.support.agui import verify
from tests.support.run_world import FIND_TOOL, World, asked, user


@dataclass(frozen=True)
class Take:
    nth: int = described("Number of the call")


class Counted:
    """A tool that counts how many of its calls are made at once; each takes as many steps as the dice say."""

    def __init__(self, dice: random.Random) -> None:
        self.now = self.most = 0
        self._dice = dice

    def tool(self, *, timeout_s: float = 5.0) -> Tool:
        return Tool(
            name="take",
            description="",
            parameters=Take,
            permission="device:read",
            when_lost=WhenLost.CALL_AGAIN,
            timeout_s=timeout_s,
            run=self._take,
        )

    async def _take(self, given: Take, context: ToolContext) -> object:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(self._dice.randint(1, 20)):
                await asyncio.sleep(0)
            if given.nth % 3 == 0:
                raise ToolFailed(f"not {given.nth}")
            return {"nth": given.nth, "call": context.call_id}
        finally:
            self.now -= 1


def outcomes(toolbox: Toolbox, count: int) -> list[Any]:
    async def make() -> list[Any]:
        calls = [ToolCall(f"c{nth}", "take", orjson.dumps({"nth": nth}).decode()) for nth in range(count)]
        return list(await asyncio.gather(*(toolbox.call(call, run_id=RunId("r1")) for call in calls)))

    return asyncio.run(make())


@pytest.mark.parametrize("count", [1, MAX_AT_ONCE, MAX_AT_ONCE + 1, 100])
def test_so_many_are_made_at_once_and_no_more(count: int) -> None:
    counted = Counted(random.Random(count))

    found = outcomes(Toolbox([counted.tool()], caller(), shorten=str), count)

    assert counted.most == min(count, MAX_AT_ONCE)
    assert [each.failed for each in found] == [nth % 3 == 0 for nth in range(count)]
    assert [orjson.loads(each.content).get("nth") for each in found if not each.failed] == [
        nth for nth in range(count) if nth % 3
    ]


def test_what_waits_for_its_turn_does_not_spend_its_time() -> None:
    async def slow(given: Take, _: ToolContext) -> object:
        await asyncio.sleep(0.03)
        return given.nth

    tool_of_time = replace(Counted(random.Random(1)).tool(timeout_s=0.2), run=slow)

    found = outcomes(Toolbox([tool_of_time], caller(), shorten=str), 10 * MAX_AT_ONCE)

    assert not any(each.failed for each in found)  # the last ones began after .27 s


def test_results_come_in_the_order_of_the_calls_and_a_failure_is_its_own() -> None:
    words = ["a", "fail", "b", "break", "hang", "c"]
    calls = [step for nth, word in enumerate(words) for step in tool(f"c{nth}", "echo", f'{{"word":"{word}"}}')]
    mixed = [*calls[:6], *tool("ask", "askUser", "{}"), *calls[6:]]
    world = World([*mixed, *ended(StopReason.TOOL_USE)], [*text("Done"), *ended()])

    events = world.run(asked(user("go"), tools=[FIND_TOOL]))

    results = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert [event["toolCallId"] for event in results] == [f"c{nth}" for nth in range(len(words))]
    assert [event.get("metadata") for event in results] == [
        {"failed": True} if word in {"fail", "break", "hang"} else None for word in words
    ]
    # The client's own tool, called among ours, stays pending, and nothing but it.
    assert events[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["ask"]}
    stored = [message for message in world.thread().messages if message.role == "tool"]
    assert [message.tool_call_id for message in stored] == [event["toolCallId"] for event in results]


@pytest.mark.parametrize("calls", [1, 2, 8])
@pytest.mark.parametrize("version", ["1.0", None])
def test_a_step_is_two_writes_however_many_calls_it_has(version: str | None, calls: int) -> None:
    """One stores the turn, one the results. Clients from before 1.0 take one call at a time: a write more for each."""
    turn = [each for n in range(calls) for each in tool(f"toolu_01A09q90qw90lq91{n}", "echo", '{"word":"a"}')]
    world = World([*text("I look."), *turn, *ended(StopReason.TOOL_USE)], [*text("Done."), *ended()])
    more = {"protocolVersion": version} if version else {}
    body = {"threadId": "t1", "runId": "r1", "messages": [user("hi")], **more}
    request = parse_run_input(orjson.dumps(body))
    frames = asyncio.run(world.go(request))
    verify(frames.events)
    begin_and_end = 2
    assert len(world.log(request)) == begin_and_end + 2 + (0 if version else calls - 1)
    kinds = [event["type"] for event in frames.events if event["type"] in {"TOOL_CALL_START", "TOOL_CALL_END"}]
    one_by_one = ["TOOL_CALL_START", "TOOL_CALL_END"] * calls
    assert kinds == (sorted(one_by_one, reverse=True) if version else one_by_one)

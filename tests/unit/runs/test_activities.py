"""Clients are shown a call of a tool while it is being made; older ones are not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson

from karma.core.ids import RunId
from karma.runs.domain import RunKey
from karma.runs.joining import join
from karma.runs.replay import read
from karma.tools.domain import COMMAND
from karma.tools.toolbox import ToolContext
from tests.fakes.runs import KeptFrames, caller, ended, text, tool
from tests.support.agui_client import HeldMessages
from tests.support.lost_runs import KEY, Life, begin, go_on
from tests.support.lost_runs import World as LostWorld
from tests.support.run_world import ECHO, Echo, World, asked, user
from tests.support.subagents import SubagentWorld

KINDS = {"ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA"}


async def slowly(arguments: Echo, context: ToolContext) -> object:
    """Say how far the call is, three times, the last two the same."""
    for status in ("queued", "sent", "sent"):
        context.show(COMMAND, {"word": arguments.word, "status": status})
    if arguments.word == "hang":
        await asyncio.Event().wait()
    return {"said": arguments.word}


SLOWLY = replace(ECHO, run=slowly)


def world(*turns: Any) -> World:
    made = World(*turns)
    made.tools = [SLOWLY]
    return made


def calls(word: str) -> list[Any]:
    return [*tool("c1", "echo", orjson.dumps({"word": word}).decode()), *ended()]


def activities(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in events if each["type"] in KINDS]


class TestACall:
    def test_is_shown_while_it_is_made_and_then_what_changed(self) -> None:
        made = world(calls("hi"), [*text("Done"), *ended()])

        events = made.run(asked(user("go")))

        common = {"messageId": "c1-activity", "activityType": "karma.command"}
        content = {"toolCallId": "c1", "word": "hi", "status": "queued"}
        patch = [{"op": "replace", "path": "/status", "value": "sent"}]
        assert activities(events) == [
            {"type": "ACTIVITY_SNAPSHOT", **common, "content": content},
            {"type": "ACTIVITY_DELTA", **common, "patch": patch},
        ]
        kinds = [each["type"] for each in events]
        assert kinds.index("TOOL_CALL_END") < kinds.index("ACTIVITY_SNAPSHOT") < kinds.index("TOOL_CALL_RESULT")

    def test_is_in_the_log_once_and_in_no_conversation(self) -> None:
        made = world(calls("hi"), [*text("Done"), *ended()], [*text("Yes"), *ended()])
        events = made.run(asked(user("go", "u1"), run="r1"))
        logged = read(made.store, RunKey(caller().user_id, RunId("r1")), after=0, limit=10**6, link=list)

        held = HeldMessages([user("go", "u1")])
        for each in events:
            held.take(each)
        made.run(asked(*held.messages, user("and now?")))

        stored = [event for each in logged for event in map(orjson.loads, each.events)]
        assert activities(stored) == activities(events)
        said = ["user", "assistant", "tool", "assistant", "user", "assistant"]
        assert [each["role"] for each in held.messages] == ["user", "assistant", "tool", "activity", "assistant"]
        assert [each.role for each in made.thread().messages] == said
        assert [each.role for each in made.model.requests[-1].messages] == said[:-1]

    def test_that_is_cut_off_keeps_what_was_shown_last(self) -> None:
        made = world(calls("hang"), [*text("Done"), *ended()])

        events = made.run(asked(user("go")))

        held = HeldMessages()
        for each in events:
            held.take(each)
        (activity,) = [each for each in held.messages if each["role"] == "activity"]
        assert activity["content"]["status"] == "sent"
        assert b"did not finish" in orjson.dumps(held.messages)

    def test_is_not_shown_to_clients_from_before_activities(self) -> None:
        made = world(calls("hi"), [*text("Done"), *ended()])

        events = made.run(asked(user("go"), protocolVersion=None))

        assert activities(events) == []
        assert "TOOL_CALL_RESULT" in [each["type"] for each in events]


class TestASubagentsCall:
    def test_is_shown_as_the_subagents(self) -> None:
        made = SubagentWorld()
        made.tools = [SLOWLY]
        made.agent("scout", tools=("echo",))
        made.agent("lead", "scout")
        made.script("lead", [*tool("c1", "scout", '{"task":"look"}'), *ended()], [*text("Found."), *ended()])
        made.script("scout", [*tool("c2", "echo", '{"word":"hi"}'), *ended()], [*text("There."), *ended()])

        events = made.run(asked(user("go"), forwardedProps={"agent_id": "lead"}))

        (started,) = [each for each in events if each["type"] == "SUBAGENT_STARTED"]
        shown = activities(events)
        assert [each["messageId"] for each in shown] == ["c2-activity"] * 2
        assert {each["subagentRunId"] for each in shown} == {started["subagentRunId"]}


class TestAfterALoss:
    def test_a_call_that_is_made_again_is_shown_anew_in_its_place(self) -> None:
        begun = 0
        for steps in range(20, 60):
            world = LostWorld()
            first = KeptFrames()
            begin(world, Life(steps), first)
            n = len(world.log)
            go_on(world, Life(None))
            held = HeldMessages()
            for each in world.shown():
                held.take(each)
            again = [each for each in activities(world.shown(after=n)) if each["type"] == "ACTIVITY_SNAPSHOT"]
            seen = {each["messageId"] for each in activities(world.shown()[: len(world.shown()) - len(again)])}
            begun += any(each["messageId"] in seen for each in again)
            shown = [each for each in held.messages if each["role"] == "activity"]
            assert len({each["id"] for each in shown}) == len(shown)
            joined = join(world.store, KEY, link=list)
            assert joined is not None
            late = HeldMessages()
            for data in joined.events:
                late.take(orjson.loads(data))
            assert [each for each in late.messages if each["role"] == "activity"] == shown

        assert begun

"""Runs on a thread: the agent, ids of calls, repeated requests, and conversations that are new to the server."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from karma.agents.domain import SYSTEM_PROMPT
from karma.core.errors import NotFound, ValidationFailed
from karma.models.domain import ModelErrorCode
from karma.models.ports import ModelFailed, StopReason
from karma.runs.reading import RunReader
from tests.fakes.runs import (
    KeptFrames,
    caller,
    ended,
    text,
    tool,
    types,
)
from tests.support.agui import verify
from tests.support.run_world import FIND_TOOL, World, asked, merged, spec, user

pytestmark = pytest.mark.usefixtures("no_blocking_calls")


class TestTheAgent:
    def test_that_is_named_gives_its_prompt_model_and_tools(self) -> None:
        world = World([*text("Hi."), *ended()])
        agent = world.agents.create(spec(model="claude-other"))
        agent = world.agents.replace(agent.id, spec(model="claude-other", description="Changed"))
        asks = {"messages": [user("hi"), {"role": "system", "content": "Be loud."}]}
        request = asked(*asks["messages"], forwardedProps={"agent_id": agent.id})

        events = world.run(request)

        sent = world.model.requests[0]
        assert (sent.target.model, sent.system[0], sent.tools) == ("claude-other", "Be brief.", [])
        assert "Be loud." in sent.system[1]
        assert events[-1]["usage"][0]["model"] == "claude-other"
        assert world.thread().messages[-1].model == "claude-other"
        stored = world.stored(request)
        assert (stored.agent_id, stored.agent_version, stored.model) == (agent.id, 2, "claude-other")

    def test_that_nobody_names_is_the_built_in_one(self) -> None:
        world = World([*text("Hi."), *ended()])
        request = asked(user("hi"))

        world.run(request)

        sent = world.model.requests[0]
        assert (sent.target.model, [tool.name for tool in sent.tools]) == ("claude-test", ["echo"])
        assert sent.system == (SYSTEM_PROMPT,)
        assert (world.stored(request).agent_id, world.stored(request).agent_version) == ("karma", 1)

    def test_that_does_not_exist_starts_nothing(self) -> None:
        world = World()
        request = asked(user("hi"), forwardedProps={"agent_id": "nobody"})

        with pytest.raises(NotFound, match="Agent 'nobody' not found"):
            world.run(request)

        assert (world.stored(request), world.thread().version) == (None, 0)

    def test_without_a_tool_cannot_call_it(self) -> None:
        world = World([*tool("c1", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)], [*text("Done"), *ended()])
        world.agents.create(spec())

        events = world.run(asked(user("hi"), forwardedProps={"agent_id": "Brief"}))

        (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
        assert orjson.loads(result["content"]) == {"error": "Unknown tool: echo", "tools": []}


class TestIdsOfCalls:
    """Gateways begin their numbering anew with each answer, and clients know one call of an id."""

    @pytest.mark.fault("F-07a")
    def test_an_id_that_comes_again_becomes_another(self) -> None:
        turns = [
            [*tool("call_0", "echo", f'{{"word":"{word}"}}'), *ended(StopReason.TOOL_USE, None, use_of("call_0"))]
            for word in ("one", "two")
        ]
        world = World(*turns, [*text("Done."), *ended()], *turns, [*text("Again."), *ended()])

        events = [*world.run(asked(user("go", "u1"))), *world.run(asked(user("go", "u2")))]

        started = [event["toolCallId"] for event in events if event["type"] == "TOOL_CALL_START"]
        answered = {e["toolCallId"]: orjson.loads(e["content"])["said"] for e in events if "content" in e}
        assert len(set(started)) == 4
        assert [answered[call_id] for call_id in started] == ["one", "two", "one", "two"]
        asked_for = [block["id"] for m in world.thread().messages for block in m.blocks if block["type"] == "tool_use"]
        assert asked_for == started

    @pytest.mark.fault("F-07a")
    @pytest.mark.parametrize("strange", ["", "a b", "c#1", "é", "x" * 200])
    def test_an_id_that_no_client_could_answer_becomes_another(self, strange: str) -> None:
        world = World([*tool(strange, "askUser", "{}"), *ended(StopReason.TOOL_USE)], [*text("Thanks."), *ended()])

        (call_id,) = world.run(asked(user("hi"), tools=[FIND_TOOL]))[-1]["outcome"]["pendingToolCallIds"]
        events = world.run(asked({"id": "a1", "role": "tool", "toolCallId": call_id, "content": "blue"}))

        assert events[-1]["type"] == "RUN_FINISHED"
        assert world.model.requests[1].messages[-1].content == "blue"


def use_of(call_id: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "echo", "input": {}}


class TestAConversationThatIsNewToItsThread:
    @pytest.mark.fault("F-02b")
    def test_may_end_in_the_result_of_a_call(self) -> None:
        world = World([*text("Blue it is."), *ended()])
        function = {"name": "askUser", "arguments": '{"what":"colour"}'}
        history = [
            user("paint it", "u1"),
            {"id": "a1", "role": "assistant", "toolCalls": [{"id": "c1", "type": "function", "function": function}]},
            {"id": "t1", "role": "tool", "toolCallId": "c1", "content": "blue"},
        ]

        events = world.run(asked(*history, tools=[FIND_TOOL]))

        assert types(events)[2] == "TEXT_MESSAGE_START"
        shown = [(m.role, m.content, [call.name for call in m.tool_calls]) for m in world.model.requests[0].messages]
        assert shown == [("user", "paint it", []), ("assistant", "", ["askUser"]), ("tool", "blue", [])]

    @pytest.mark.fault("F-07b")
    @pytest.mark.parametrize("blank", ["", " \n", [], [{"type": "text", "text": ""}]])
    def test_is_refused_by_name_when_it_says_nothing(self, blank: object) -> None:
        world = World()

        with pytest.raises(ValidationFailed) as caught:
            world.run(asked({"role": "system", "content": "Be kind."}, {"id": "u1", "role": "user", "content": blank}))

        assert [entry["field"] for entry in caught.value.details] == ["messages.1.content"]  # type: ignore[union-attr, index]
        assert world.thread().version == 0

    @pytest.mark.fault("F-02k", "F-02i")
    def test_an_empty_answer_alone_asks_for_nothing(self) -> None:
        with pytest.raises(ValidationFailed) as caught:
            World().run(asked({"id": "a1", "role": "assistant", "content": " "}))

        assert [entry["field"] for entry in caught.value.details] == ["messages"]  # type: ignore[union-attr, index]


class TestTheSameRequestOnceMore:
    @pytest.mark.fault("F-02d")
    def test_hears_a_run_that_goes_on_from_its_beginning(self) -> None:
        go_on = asyncio.Event()
        world = World([*text("Hel"), go_on.wait, *text("lo"), *ended()])
        request = asked(user("hi", "u1"), run="r1")

        async def go() -> tuple[KeptFrames, KeptFrames]:
            lost, again = KeptFrames(), KeptFrames()
            running = (await world.service.start(caller(), request)).execute(lost)
            repeated = (await world.service.start(caller(), request)).execute(again)
            go_on.set()
            await asyncio.gather(running, repeated)
            return lost, again

        lost, again = asyncio.run(go())

        assert len(world.model.requests) == 1
        assert merged(again.events) == merged(lost.events)

    @pytest.mark.fault("F-02d")
    def test_gets_the_answer_of_a_run_that_has_ended(self) -> None:
        world = World([*text("Hello"), *ended()], [*text("More"), *ended()])
        request = asked(user("hi", "u1"), run="r1")
        lost = world.run(request)
        world.run(asked(user("and?", "u2"), run="r2"))

        again = asyncio.run(world.go(request)).events

        verify(again)
        assert types(again) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", "RUN_FINISHED"]
        assert [each["content"] for each in again[1]["messages"]] == ["hi", "Hello"]
        assert (again[0], again[2], again[3]) == (lost[0], lost[1], lost[-1])
        assert len(world.model.requests) == 2

    @pytest.mark.fault("F-02d")
    def test_gets_the_failure_of_a_run_that_failed(self) -> None:
        world = World([ModelFailed(ModelErrorCode.MODEL_OVERLOADED)])
        request = asked(user("hi", "u1"), run="r1")
        world.run(request)

        again = asyncio.run(world.go(request)).events

        assert types(again) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", "RUN_ERROR"]


class TestBranchesThatWereLeft:
    @pytest.mark.fault("F-02a")
    def test_are_read_by_their_run(self) -> None:
        world = World(
            [*text("One."), *ended()], [*text("Two."), *ended()], [*text("Half")], [*text("Three."), *ended()]
        )
        asks = [
            asked(user("first", "u1"), run="r1"),
            asked(user("first", "u1"), run="r2"),
            asked(user("first", "u1"), run="r3"),
            asked(user("other", "u1"), run="r4"),
        ]
        reader = RunReader(world.store)
        for request in asks:
            world.run(request)

        branches = [reader.messages(world.stored(request)) for request in asks]

        texts = [[message["content"] for message in branch or ()] for branch in branches]
        assert texts == [["first", "One."], ["first", "Two."], ["first"], ["other", "Three."]]


class TestTheClientsTools:
    @pytest.mark.fault("F-07b", "F-24h")
    def test_with_the_name_of_one_of_ours_is_refused_by_name_with_all_else(self) -> None:
        world = World()
        named = [FIND_TOOL, {"name": "echo"}, {"name": "a b"}]

        with pytest.raises(ValidationFailed) as caught:
            asked(user("hi"), tools=named, taken=world.service.own_tools)

        told = [entry["field"] for entry in caught.value.details]  # type: ignore[union-attr, index]
        assert told == ["tools.1.name", "tools.2.name"]

"""Whatever ids a provider gives the calls of an answer, each call of a conversation has one of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any, Final

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from karma.core.errors import Upstream
from karma.integrations.anthropic_turn import Turn
from karma.integrations.openai_turn import ChatTurn
from karma.models.domain import Target
from karma.models.ports import ModelEvent, ModelRequest, StopReason, ToolArguments, ToolBegun, ToolEnded, TurnEnded
from tests.fakes.runs import Step, ended, text, tool
from tests.support.chat_calls import call
from tests.support.chat_stream import chunks
from tests.support.model_server import message, tool_use
from tests.support.run_world import FIND_TOOL, World, asked, user
from tests.support.subagents import SubagentWorld
from tests.unit.runs.test_direct_calls import Calls, read

pytestmark = pytest.mark.fault("F-33a")

Given = Sequence[str]
"""Ids that a provider gives the calls of one answer, "" where it gives none."""
Port = Callable[[Given, str, Sequence[str]], list[ModelEvent]]
REQUEST: Final = ModelRequest(target=Target(model="m"), system=(), messages=(), tools=(), max_tokens=1)
IDS: Final = ("", "call", "call_0", "call_1", "call_2", "call_1_1", "call_1_2", "functions.echo:0", "x" * 70)
HARD: Final[Sequence[Given]] = (
    ("call_1", ""),
    ("call", "call_2", "call"),
    ("call", "call_1", "call"),
    ("x", "x"),
    ("", "call_0"),
    ("", "", "call_1"),
    ("call_2", "", ""),
    ("call_1", "call_1", "call_1_1"),
)
given_ids = st.lists(st.sampled_from(IDS), min_size=1, max_size=4)


def of_chat(ids: Given, named: str, arguments: Sequence[str]) -> list[ModelEvent]:
    turn = ChatTurn()
    pieces = [call(n, arguments[n], call_id=each, name=named) for n, each in enumerate(ids)]
    return [*turn.feed(b"".join(chunks(calls=pieces))), turn.ended(REQUEST)]


def of_messages(ids: Given, named: str, arguments: Sequence[str]) -> list[ModelEvent]:
    blocks = [tool_use(given, named, each) for given, each in zip(ids, arguments, strict=True)]
    return Turn().feed(b"".join(message(*blocks, stop_reason="tool_use")))


PORTS: Final[Sequence[Port]] = (of_chat, of_messages)


def words(ids: Given) -> list[str]:
    return [orjson.dumps({"word": f"w{n}"}).decode() for n, _ in enumerate(ids)]


def answer(port: Port, ids: Given, named: str = "echo") -> list[Step]:
    """Return the answer as its port tells it: a batch of one event each."""
    return [[event] for event in port(ids, named, words(ids))]


@pytest.mark.parametrize("port", PORTS)
@given(ids=given_ids)
@example(ids=HARD[0])
@example(ids=HARD[1])
@example(ids=HARD[3])
@example(ids=HARD[7])
def test_a_port_tells_of_each_call_under_an_id_of_its_own(port: Any, ids: Given) -> None:
    events = [event for step in answer(port, ids) for event in step]  # type: ignore[union-attr]

    begun = [each.id for each in events if isinstance(each, ToolBegun)]
    assert len(set(begun)) == len(ids)
    assert begun[0] == (ids[0] or "call_0"), "the first keeps the one it was given"
    streamed = {each.id: each.delta for each in events if isinstance(each, ToolArguments)}
    whole = {each.call_id: each.arguments for each in events if isinstance(each, ToolEnded)}
    expected = dict(zip(begun, words(ids), strict=True))
    assert (streamed, whole) == (expected, expected)
    (end,) = [each for each in events if isinstance(each, TurnEnded)]
    used = [(each["id"], each["input"]) for each in end.blocks if each["type"] == "tool_use"]
    assert used == [(own, orjson.loads(each)) for own, each in expected.items()]


def require_whole(messages: Sequence[Any], *, said: int) -> None:
    """Require that each call has an id of its own, its own result, and the same id, name and input in its blocks."""
    calls = [made for each in messages for made in each.tool_calls]
    assert len(calls) == said
    assert len({made.id for made in calls}) == len(calls)
    results = {each.tool_call_id: each for each in messages if each.role == "tool"}
    assert results.keys() == {made.id for made in calls}
    for made in calls:
        assert orjson.loads(made.arguments)["word"] in str(results[made.id].content)
    for each in messages:
        used = {block["id"]: (block["name"], block["input"]) for block in each.blocks if block["type"] == "tool_use"}
        assert used == {made.id: (made.name, orjson.loads(made.arguments)) for made in each.tool_calls}


@settings(max_examples=15)
@given(ids=st.lists(given_ids, min_size=3, max_size=3), ports=st.lists(st.sampled_from(PORTS), min_size=3, max_size=3))
@example(ids=HARD[:3], ports=[of_chat] * 3)
@example(ids=[HARD[3]] * 3, ports=[of_messages] * 3)
@example(ids=HARD[3:6], ports=[of_messages, of_chat, of_messages])
def test_each_call_of_a_conversation_is_made_once_with_its_own_arguments(ids: Sequence[Given], ports: Any) -> None:
    first, second, third = (answer(*each) for each in zip(ports, ids, strict=True))
    world = World(first, second, [*text("Done."), *ended()], third, [*text("Done."), *ended()])

    events = [*world.run(asked(user("hi"))), *world.run(asked(user("again")))]

    require_whole(world.thread().messages, said=sum(map(len, ids)))
    told = [each["toolCallId"] for each in events if each["type"] == "TOOL_CALL_START"]
    assert told == [made.id for each in world.thread().messages for made in each.tool_calls]


@pytest.mark.parametrize("port", PORTS)
def test_calls_of_subagents_have_ids_of_their_own(port: Any) -> None:
    for ids in HARD:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",))
        world.agent("lead", "scout")
        tasks = [orjson.dumps({"task": f"t{n}"}).decode() for n, _ in enumerate(ids)]
        world.script("lead", [[event] for event in port(ids, "scout", tasks)], [*text("Done."), *ended()])
        for _ in ids:
            world.script("scout", answer(port, ids), [*text("Found."), *ended()])

        events = world.run(asked(user("go"), forwardedProps={"agent_id": "lead"}))

        assert events[-1]["type"] == "RUN_FINISHED"
        begun = [each["toolCallId"] for each in events if each["type"] == "TOOL_CALL_START"]
        assert len(set(begun)) == len(begun) == len(ids) + len(ids) ** 2
        assert {each["toolCallId"] for each in events if each["type"] == "TOOL_CALL_RESULT"} == set(begun)
        assert [each.content for each in world.thread().messages if each.role == "tool"] == ["Found."] * len(ids)


@pytest.mark.parametrize("port", PORTS)
def test_each_call_of_a_client_s_tool_waits_for_its_own_answer(port: Any) -> None:
    for ids in HARD:
        world = World(answer(port, ids, str(FIND_TOOL["name"])), [*text("Thanks."), *ended()])

        first = world.run(asked(user("hi"), tools=[FIND_TOOL]))
        pending = first[-1]["outcome"]["pendingToolCallIds"]
        results = [
            {"id": f"r{n}", "role": "tool", "toolCallId": each, "content": f"for w{n}"}
            for n, each in enumerate(pending)
        ]
        world.run(asked(*results, tools=[FIND_TOOL]))

        assert len(pending) == len(ids)
        require_whole(world.thread().messages, said=len(ids))


@pytest.mark.parametrize("port", PORTS)
def test_calls_of_a_direct_call_differ_from_each_other_and_from_what_it_was_sent(port: Any) -> None:
    for ids in HARD:
        function = {"name": "echo", "arguments": "{}"}
        named = [each for each in dict.fromkeys(ids) if each]
        earlier = [{"id": each, "type": "function", "function": function} for each in named]
        history = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "toolCalls": earlier},
            *({"role": "tool", "toolCallId": each["id"], "content": "said"} for each in earlier),
        ]
        calls = Calls(answer(port, ids))
        made = calls.admit(read(messages=history if earlier else history[:1]))

        events = calls.make(made)

        told = made.view()["tool_calls"]
        assert len({*named, *(each["id"] for each in told)}) == len(ids) + len(named)
        assert [each["arguments"] for each in told] == words(ids)
        own = [each["id"] for each in told]
        for kind in ("tool_call", "tool_call_arguments", "tool_call_end"):
            assert sorted(each["id"] for each in events if each["type"] == kind) == sorted(own), kind


def test_an_answer_whose_calls_cannot_be_told_apart_makes_none() -> None:
    same = [*tool("c", "echo", '{"word":"a"}'), *tool("c", "echo", '{"word":"b"}'), *ended(StopReason.TOOL_USE)]
    world = World(same)

    events = world.run(asked(user("hi")))

    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "MODEL_STREAM_CUT")
    assert [each.role for each in world.thread().messages] == ["user"]
    calls = Calls(same)
    with pytest.raises(Upstream) as failed:
        calls.make(calls.admit())
    assert failed.value.code == "MODEL_STREAM_CUT"


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_calls_that_end_in_another_order_than_they_began_keep_their_ids(order: Sequence[int]) -> None:
    ids = ("call_1", "call_1", "call_0")
    begun: list[bytes] = []
    more: list[bytes] = []
    ends: list[bytes] = []
    start, *events, told, stop = message(
        *(tool_use(given, "echo", each) for given, each in zip(ids, words(ids), strict=True)), stop_reason="tool_use"
    )
    for event in events:
        where = begun if b"block_start" in event else ends if b"block_stop" in event else more
        where.append(event)
    turn = Turn()
    stream = [start, *begun, *more, *(ends[n] for n in order), told, stop]
    world = World([turn.feed(each) for each in stream], [*text("Done."), *ended()])

    world.run(asked(user("hi")))

    require_whole(world.thread().messages, said=len(ids))

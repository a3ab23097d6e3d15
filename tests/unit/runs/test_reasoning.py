"""Thoughts of a model: shown to clients that know it, kept for the model that thought it, and for no other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from karma.integrations.anthropic_messages import to_messages
from karma.models.domain import ModelErrorCode, ReasoningEffort, Usage, Usages
from karma.models.ports import ModelFailed, ReasoningDelta, ReasoningEnded, StopReason
from karma.runs.domain import RunStatus
from karma.runs.events import open_after
from tests.fakes.runs import ended, text, tool, types
from tests.support.agui import verify
from tests.support.run_world import World, asked, spec, user

THOUGHT = {"type": "thinking", "thinking": "It is theirs.", "signature": "c2lnbmVk"}
REDACTED = {"type": "redacted_thinking", "data": "b3BhcXVl"}
SAID = {"type": "text", "text": "Yes."}
CALLED = {"type": "tool_use", "id": "c1", "name": "echo", "input": {"word": "x"}}
THINKS = [[ReasoningDelta("It is "), ReasoningDelta("theirs.")], [ReasoningEnded()]]
ANSWER = [*THINKS, *text("Yes."), *ended(StopReason.END, Usage(10, 5, None, None, 3), THOUGHT, REDACTED, SAID)]
CALLS = [*THINKS, *tool("c1", "echo", '{"word":"x"}'), *ended(StopReason.TOOL_USE, None, THOUGHT, CALLED)]


def thinker(*turns: Any, model: str = "claude-test") -> World:
    world = World(*turns)
    world.agents.create(spec(reasoning=ReasoningEffort.HIGH, tools=("echo",), model=model))
    return world


def of_thinker(*messages: dict[str, Any], **more: Any) -> Any:
    return asked(*messages, forwardedProps={"agent_id": "brief"}, **more)


def about_reasoning(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"].startswith("REASONING")]


def test_a_client_sees_it_before_the_answer() -> None:
    world = thinker(ANSWER)

    events = world.run(of_thinker(user("Is it mine?")))

    (answer,) = (event["messageId"] for event in events if event["type"] == "TEXT_MESSAGE_START")
    thought = f"{answer}-reasoning-0"
    assert about_reasoning(events) == [
        {"type": "REASONING_START", "messageId": thought},
        {"type": "REASONING_MESSAGE_START", "messageId": thought, "role": "reasoning"},
        {"type": "REASONING_MESSAGE_CONTENT", "messageId": thought, "delta": "It is "},
        {"type": "REASONING_MESSAGE_CONTENT", "messageId": thought, "delta": "theirs."},
        {"type": "REASONING_MESSAGE_END", "messageId": thought},
        {"type": "REASONING_END", "messageId": thought},
    ]
    assert types(events).index("REASONING_END") < types(events).index("TEXT_MESSAGE_START")
    assert events[-1]["usage"][0]["reasoningTokens"] == 3
    assert world.model.requests[0].reasoning is ReasoningEffort.HIGH


def test_each_block_of_it_is_a_message_of_its_own() -> None:
    world = thinker([[ReasoningDelta("a"), ReasoningEnded(), ReasoningDelta("b")], *text("c"), *ended()])

    events = world.run(of_thinker(user("hi")))

    ids = [event["messageId"] for event in events if event["type"] == "REASONING_MESSAGE_START"]
    assert [each.rpartition("-")[2] for each in ids] == ["0", "1"]


def test_an_agent_that_does_not_ask_for_it_shows_none() -> None:
    world = World(ANSWER)

    events = world.run(asked(user("hi")))

    assert about_reasoning(events) == []
    assert world.model.requests[0].reasoning is None


def test_a_client_from_before_1_0_is_shown_none() -> None:
    world = thinker(ANSWER)

    events = world.run(of_thinker(user("hi"), protocolVersion=None))

    assert about_reasoning(events) == []
    assert world.model.requests[0].reasoning is ReasoningEffort.HIGH


def test_signatures_stay_on_the_server_and_go_back_to_the_model_unchanged() -> None:
    world = thinker(CALLS, ANSWER, [*text("Bye"), *ended()])

    frames = asyncio.run(world.go(of_thinker(user("Is it mine?", "u1"))))
    verify(frames.events)
    asyncio.run(world.go(of_thinker(user("Thanks", "u2"))))

    for secret in (THOUGHT["signature"], REDACTED["data"]):
        assert secret.encode() not in frames.data
    called, answered = (list(world.model.requests[at].messages) for at in (1, 2))
    sent = [to_messages(each, model="claude-test") for each in (called, answered)]
    assert sent[0][1]["content"] == [THOUGHT, CALLED]
    # The second turn of the first run, as it came: with the redacted block in its place.
    assert sent[1][-2]["content"] == [THOUGHT, REDACTED, SAID]
    # Another model is sent neither its thinking nor what is redacted of it.
    other = orjson.dumps(to_messages(answered, model="claude-other"))
    assert THOUGHT["signature"].encode() not in other
    assert REDACTED["data"].encode() not in other


def test_reasoning_that_breaks_off_is_closed_and_thought_anew() -> None:
    broken = ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=Usage(9), is_transient=True)
    world = thinker([[ReasoningDelta("It is ")], broken], ANSWER)

    frames = asyncio.run(world.go(of_thinker(user("hi"))))

    verify(frames.events)
    begun = [event["messageId"] for event in frames.events if event["type"] == "REASONING_MESSAGE_START"]
    assert len(set(begun)) == 2
    assert frames.events[-1]["type"] == "RUN_FINISHED"


def test_a_run_that_fails_while_it_thinks_closes_what_is_open() -> None:
    world = thinker([[ReasoningDelta("It is ")], ModelFailed(ModelErrorCode.MODEL_OVERLOADED)])
    request = of_thinker(user("hi"))

    events = world.run(request)

    assert types(events)[-4:] == ["REASONING_MESSAGE_END", "REASONING_END", "MESSAGES_SNAPSHOT", "RUN_ERROR"]
    assert [each["role"] for each in events[-2]["messages"]] == ["user"]
    assert world.stored(request).status is RunStatus.FAILED


def test_a_log_that_was_cut_within_the_beginning_of_a_span_is_closed() -> None:
    world = thinker(ANSWER)
    request = of_thinker(user("hi"))
    world.run(request)
    log = [data for segment in world.log(request) for data in segment.events]

    for cut in range(1, len(log) + 1):
        closing = [event.data for event in open_after(log[:cut]).closing()]
        seen = [orjson.loads(each) for each in [*log[:cut], *closing]]
        verify(seen, complete=False)
        opened = sum(event["type"] in {"REASONING_START", "REASONING_MESSAGE_START"} for event in seen)
        assert opened == sum(event["type"] in {"REASONING_END", "REASONING_MESSAGE_END"} for event in seen)


def test_it_costs_no_more_writes_than_text() -> None:
    pieces = [[ReasoningDelta("word ")] for _ in range(10_000)]
    world = thinker([*pieces, *text("Done"), *ended()])
    request = of_thinker(user("hi"))

    events = world.run(request)

    assert sum(event["type"] == "REASONING_MESSAGE_CONTENT" for event in events) == 10_000
    assert len(world.log(request)) <= 3 + 10_000 * len("word ") // 12_000


def test_an_answer_that_thinks_more_than_can_be_stored_is_stopped() -> None:
    world = thinker([[ReasoningDelta("x" * 100_000)] for _ in range(31)])

    events = world.run(of_thinker(user("hi")))

    assert events[-1]["code"] == "ANSWER_TOO_LARGE"


@pytest.mark.parametrize("reasoning", [None, 0, 7])
def test_usage_is_kept_with_its_reasoning_and_read_by_the_release_before_where_there_is_none(
    reasoning: int | None,
) -> None:
    usage = Usage(10, 5, 2, 1, reasoning)
    usages = Usages({("anthropic", "claude-test"): usage})

    assert Usages.load(orjson.loads(orjson.dumps(usages.dump()))) == usages
    assert len(usages.dump()[0]) == (6 if reasoning is None else 7)
    assert (usage + replace(usage, reasoning_tokens=3)).reasoning_tokens == (reasoning or 0) + 3

"""Content blocks of the Messages API as gateways send them: inputs that are whole at once, and indices given twice."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.integrations.anthropic_turn import Turn
from karma.models.domain import ModelErrorCode
from karma.models.ports import ModelEvent, ModelFailed, ToolArguments, ToolBegun, ToolEnded, TurnEnded
from tests.fakes.runs import ended, text
from tests.support.model_server import message, sse, thinking, tool_use
from tests.support.model_server import text as said
from tests.support.run_world import World, asked, user

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.sampled_from('{}":\\a é😀'), max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
inputs = st.dictionaries(st.text(st.sampled_from("abé"), max_size=3), values, max_size=3)

places = st.sampled_from(["start", "text", "deltas", "both", "null"])


def begun(call_id: str, given: object, *parts: str) -> list[dict[str, Any]]:
    """Return a block of a call whose input, or a part of it, stands where it begins."""
    head, _, *deltas = tool_use(call_id, "echo", *parts)
    return [{"content_block": {**head["content_block"], "input": given}}, *deltas]


def heard(*blocks: list[dict[str, Any]]) -> list[ModelEvent]:
    return Turn().feed(b"".join(message(*blocks, stop_reason="tool_use")))


@pytest.mark.fault("F-33b")
@given(made=st.lists(st.tuples(inputs, places), min_size=1, max_size=4))
def test_an_input_is_the_same_wherever_it_stands(made: list[tuple[dict[str, Any], str]]) -> None:
    blocks = []
    for n, (value, where) in enumerate(made):
        whole = orjson.dumps(value).decode()
        parts = [whole[:1], "", whole[1:]] if where in ("deltas", "both", "null") else []
        given_at = {"start": value, "both": value, "text": whole, "deltas": {}, "null": None}[where]
        blocks.append(begun(f"c{n}", given_at, *parts))

    events = heard(*blocks)

    (end,) = [each for each in events if isinstance(each, TurnEnded)]
    assert [each["input"] for each in end.blocks] == [value for value, _ in made]
    told = {each.id: "" for each in events if isinstance(each, ToolBegun)}
    for each in events:
        if isinstance(each, ToolArguments):
            told[each.id] += each.delta
    assert told == {each.call_id: each.arguments for each in events if isinstance(each, ToolEnded)}
    assert [orjson.loads(each or "{}") for each in told.values()] == [value for value, _ in made]


@pytest.mark.fault("F-33b")
@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use"])
@pytest.mark.parametrize("given_at", [{"a": [1]}, '{"a":[1]}'], ids=["object", "text"])
def test_a_call_that_the_provider_makes_keeps_its_input_too(kind: str, given_at: object) -> None:
    block = {"type": kind, "id": "c", "name": "web_search", "input": given_at}

    (*_, end) = heard([{"content_block": block}])

    assert isinstance(end, TurnEnded)
    assert end.blocks == [{**block, "input": {"a": [1]}}]


@pytest.mark.fault("F-33b")
@pytest.mark.parametrize("given_at", [[1], 7, True], ids=str)
def test_an_input_that_is_no_object_is_no_answer(given_at: object) -> None:
    with pytest.raises(ModelFailed) as failed:
        heard(begun("c", given_at))
    assert failed.value.code is ModelErrorCode.MODEL_STREAM_CUT


BLOCKS: Final = {
    "text": said("I will."),
    "thinking": thinking("Hm.", signature="s"),
    "call": begun("c", {}, '{"word":"a"}'),
    "other call": begun("d", {"word": "b"}),
}


@pytest.mark.fault("F-33c")
@pytest.mark.parametrize("is_open", [False, True], ids=["ended", "open"])
@pytest.mark.parametrize(("first", "second"), list(product(BLOCKS, BLOCKS)))
def test_two_blocks_of_one_index_are_no_answer_and_no_call_is_made(first: str, second: str, is_open: bool) -> None:
    start, _, *events, told, stop = message(BLOCKS[first], stop_reason="tool_use")
    again = [sse("content_block_start", index=0, **BLOCKS[second][0])]
    again += [sse("content_block_delta", index=0, **each) for each in BLOCKS[second][1:]]
    again.append(sse("content_block_stop", index=0))
    stream = [start, *(events[:-1] if is_open else events), *again, told, stop]
    with pytest.raises(ModelFailed) as failed:
        Turn().feed(b"".join(stream))
    assert failed.value.code is ModelErrorCode.MODEL_STREAM_CUT
    turn, steps = Turn(), []
    for each in stream:
        try:
            steps.append(turn.feed(each))
        except ModelFailed as failure:
            steps.append(failure)  # type: ignore[arg-type]
            break
    world = World(steps, [*text("Done."), *ended()])

    events_told = world.run(asked(user("hi")))

    assert events_told[-1]["code"] == "MODEL_STREAM_CUT"
    assert [each.role for each in world.thread().messages] == ["user"]

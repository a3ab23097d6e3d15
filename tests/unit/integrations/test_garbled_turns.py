"""Whatever a model's server puts where another value belongs: an answer of texts, or a failure with its own code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson
import pytest

from karma.integrations.anthropic_turn import Turn
from karma.integrations.openai_turn import ChatTurn
from karma.models.domain import Target, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)

OTHERS: Final[tuple[object, ...]] = (
    None, True, False, 0, -1, 7, 2**63, 1e300, "", "x", "9" * 5000, "\ud800", [], ["stop"], [[]], [None], [{}], {},
    {"a": 1}, {"type": {}}, [{"type": []}], [{"type": "text", "text": 5}], {"text": ["x"]}, "x" * 70_000,
)  # fmt: skip
REQUEST: Final = ModelRequest(target=Target(model="m"), system=(), messages=(), tools=(), max_tokens=1)


def chunk(delta: dict[str, object], finish: str | None = None, **more: object) -> dict[str, object]:
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }


def call(**function: str) -> dict[str, object]:
    return {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": function,
        "extra_content": {"google": {"s": "x"}},
    }


CHAT: Final[list[dict[str, Any]]] = [
    chunk({"role": "assistant", "reasoning_content": "hm"}),
    chunk({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "a", "index": 0, "id": "r"}]}),
    chunk({"reasoning_details": [{"type": "reasoning.text", "text": "b", "index": 0, "id": "r"}]}),
    chunk(
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}, {"type": "text", "text": "b"}]}
    ),
    chunk({"content": "said", "refusal": ""}),
    chunk({"tool_calls": [call(name="look", arguments="")]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]}),
    chunk({}, "tool_calls"),
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    },
]
USAGE: Final = {
    "input_tokens": 5,
    "output_tokens": 6,
    "cache_read_input_tokens": 1,
    "cache_creation_input_tokens": 1,
    "output_tokens_details": {"thinking_tokens": 2},
}
MESSAGES: Final[list[dict[str, Any]]] = [
    {"type": "message_start", "message": {"id": "m", "usage": USAGE}},
    {"type": "ping"},
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": "a", "signature": "s"},
    },
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "a"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "b"}},
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t", "name": "n", "input": {}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": USAGE},
    {"type": "message_stop"},
]
ERRORS: Final[list[dict[str, Any]]] = [
    {
        "type": "error",
        "error": {"type": "overloaded_error", "code": 503, "message": "busy", "details": {"error_code": "x"}},
    },
]


def places(value: object) -> Iterator[tuple[str | int, ...]]:
    """Yield where each value within a value stands."""
    yield ()
    for at, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from ((at, *rest) for rest in places(each))


def changed(value: Any, place: tuple[str | int, ...], other: object) -> Any:
    if not place:
        return other
    copy = value.copy()
    copy[place[0]] = changed(value[place[0]], place[1:], other)
    return copy


def written(events: list[object]) -> bytes:
    def one(event: object) -> bytes:
        try:
            return orjson.dumps(event)
        except TypeError:  # a half of a character
            return orjson.dumps(str(event).encode(errors="replace").decode())

    return b"".join(b"data: %s\n\n" % one(each) for each in events)


def counts_of(usage: Usage) -> list[object]:
    return [getattr(usage, name) for name in Usage.__annotations__]


def heard(turn: Turn | ChatTurn, stream: bytes) -> list[ModelEvent]:
    events = turn.feed(stream)
    if isinstance(turn, ChatTurn) and turn.is_complete:
        events.append(turn.ended(REQUEST))
    spent = turn.spent(REQUEST) if isinstance(turn, ChatTurn) else turn.usage
    assert all(each is None or (type(each) is int and 0 <= each <= 30_000_000) for each in counts_of(spent)), spent
    return events


def require_texts(events: list[ModelEvent]) -> None:
    for event in events:
        match event:
            case TextDelta(text) | ReasoningDelta(text):
                assert type(text) is str
            case ToolBegun(first, second) | ToolArguments(first, second) | ToolEnded(first, second):
                assert type(first) is str
                assert type(second) is str
            case TurnEnded():
                orjson.dumps(event.blocks)
                for block in event.blocks:
                    assert isinstance(block["type"], str)
                    assert block["type"] not in ("text", "thinking") or isinstance(block[block["type"]], str)
            case _:
                pass


@pytest.mark.parametrize(
    ("make", "events"), [(ChatTurn, CHAT), (Turn, MESSAGES), (ChatTurn, ERRORS), (Turn, ERRORS)],
    ids=["chat", "messages", "chat error", "messages error"],
)  # fmt: skip
def test_any_value_in_the_place_of_another_ends_in_texts_or_a_failure_of_the_model(
    make: type[Turn | ChatTurn], events: list[object]
) -> None:
    faults = []
    for at, event in enumerate(events):
        for place in places(event):
            for other in OTHERS:
                garbled = [*events[:at], changed(event, place, other), *events[at + 1 :]]
                stream = written(garbled) + (b"data: [DONE]\n\n" if make is ChatTurn else b"")
                for shows in (False, True):
                    try:
                        require_texts(heard(make(shows_reasoning=shows), stream))
                    except ModelFailed:
                        continue
                    except Exception as exc:  # noqa: BLE001 - told of all at once
                        faults.append((at, place, str(other)[:20], repr(exc)[:90]))
    kinds = {(at, place, told): other for at, place, other, told in faults}
    assert not faults, "\n".join(map(str, kinds.items()))

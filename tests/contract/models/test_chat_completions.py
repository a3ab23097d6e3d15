"""Our reading of Chat Completions as OpenAI, vLLM, Ollama and others stream them, and what they are sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from karma.conversations.domain import Message
from karma.conversations.repair import repair
from karma.integrations.openai_messages import to_chat
from karma.integrations.openai_turn import ChatTurn
from karma.models.domain import ModelErrorCode, ReasoningEffort, Usage
from karma.models.ports import (
    ModelFailed,
    ReasoningDelta,
    ReasoningEnded,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from tests.support.chat_calls import USAGE, ask, call, keyed_server
from tests.support.chat_stream import chat, chunk, chunks, data
from tests.support.faulty_server import CUT, FaultyServer, stream
from tests.support.faulty_server import status as refuse


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with keyed_server(monkeypatch) as running:
        yield running


def test_text_and_calls_arrive_in_pieces_with_their_usage(server: FaultyServer) -> None:
    calls = [
        call(0, call_id="c1", name="find"),
        call(0, '{"a"'),
        call(0, ":1}"),
        call(1, '{"b":2}', call_id="c2", name="move"),
    ]
    server.next(chat("Hel", "lo é", calls=calls, usage=USAGE))

    events = ask(server)

    assert events == [
        TextDelta("Hel"),
        TextDelta("lo é"),
        ToolBegun("c1", "find"),
        ToolArguments("c1", '{"a"'),
        ToolArguments("c1", ":1}"),
        ToolBegun("c2", "move"),
        ToolArguments("c2", '{"b":2}'),
        ToolEnded("c1", '{"a":1}'),
        ToolEnded("c2", '{"b":2}'),
        TurnEnded(
            StopReason.TOOL_USE,
            Usage(120, 7, 100),
            [
                {"type": "text", "text": "Hello é"},
                {"type": "tool_use", "id": "c1", "name": "find", "input": {"a": 1}},
                {"type": "tool_use", "id": "c2", "name": "move", "input": {"b": 2}},
            ],
        ),
    ]


def test_a_stream_is_read_the_same_however_it_is_cut_into_chunks() -> None:
    parts = chunks("Hel", "lo\n\nworld", calls=[call(0, '{"a":1}', call_id="c", name="f")], usage=USAGE)
    whole = b": OPENROUTER PROCESSING\n\n" + b"".join(parts)
    expected = ChatTurn().feed(whole)
    for form in (whole, whole.replace(b"\n", b"\r\n")):
        for size in (1, 2, 7, 100):
            turn = ChatTurn()
            got = [event for at in range(0, len(form), size) for event in turn.feed(form[at : at + size])]
            assert got == expected
            assert turn.is_complete


MADE: Mapping[str, tuple[Sequence[Mapping[str, Any]], list[tuple[str, str]]]] = {
    "one index for all": (
        [call(0, '{"a":1}', call_id="c1", name="f"), call(0, '{"a":2}', call_id="c2", name="f")],
        [("c1", '{"a":1}'), ("c2", '{"a":2}')],
    ),
    "no ids": ([call(0, "{}", name="f"), call(1, "{}", name="f")], [("call_0", "{}"), ("call_1", "{}")]),
    "one id for all": (
        [call(0, "{}", call_id="c", name="f"), call(1, "{}", call_id="c", name="f")],
        [("c", "{}"), ("c_1", "{}")],
    ),
    "an object": ([call(0, {"a": [1]}, call_id="c", name="f")], [("c", '{"a":[1]}')]),
    "no arguments": ([call(0, call_id="c", name="f")], [("c", "")]),
    "the id again and again": (
        [call(0, '{"a"', call_id="c", name="f"), call(0, ":1}", call_id="c", name="f")],
        [("c", '{"a":1}')],
    ),
    "interleaved": (
        [call(0, "{", call_id="c", name="f"), call(1, "{", call_id="d", name="f"), call(0, "}"), call(1, "}")],
        [("c", "{}"), ("d", "{}")],
    ),
    "neither ids nor indices of their own": (
        [call(0, '{"a":1}', name="f"), call(0, '{"a":2}', name="f"), call(0, name="g")],
        [("call_0", '{"a":1}'), ("call_1", '{"a":2}'), ("call_2", "")],
    ),
    "objects without ids": (
        [call(None, {"a": 1}, name="f"), call(None, {"a": 2}, name="f")],
        [("call_0", '{"a":1}'), ("call_1", '{"a":2}')],
    ),
    "the name again and again": (
        [call(0, '{"a":"{}', name="f"), call(0, '{"}', name="f")],
        [("call_0", '{"a":"{}{"}')],
    ),
    "ids in the place of indices": (
        [
            call(None, call_id="c", name="f"),
            call(None, '{"a"', call_id="d", name="f"),
            call(None, ":1}"),
            call(None, "{}", call_id="c"),
        ],
        [("c", "{}"), ("d", '{"a":1}')],
    ),
}


@pytest.mark.fault("F-29d")
@pytest.mark.parametrize("how", list(MADE))
def test_calls_are_told_apart_as_servers_number_them(server: FaultyServer, how: str) -> None:
    calls, expected = MADE[how]
    server.next(chat(calls=calls, usage=USAGE))

    events = ask(server)

    assert [tuple(event) for event in events if isinstance(event, ToolEnded)] == expected
    assert [event.id for event in events if isinstance(event, ToolBegun)] == [call_id for call_id, _ in expected]


@pytest.mark.fault("F-29e")
@pytest.mark.parametrize(
    "nothing", [None, {}, {"choices": None}, {"choices": []}, {"choices": [{"index": 0, "delta": None}]}], ids=str
)
def test_a_chunk_that_says_nothing_costs_no_answer(server: FaultyServer, nothing: object) -> None:
    first, *rest = chunks("Hel", "lo", usage=USAGE)
    counted = data({"usage": USAGE})
    server.next(stream(data(nothing), first, data(nothing), *rest[:-1], counted, data(nothing), rest[-1]))

    *events, end = ask(server)

    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Hello"
    assert isinstance(end, TurnEnded)
    assert end.usage == Usage(120, 7, 100)


@pytest.mark.fault("F-29e")
def test_a_stream_that_says_why_it_ends_is_whole_without_a_last_word(server: FaultyServer) -> None:
    for finish, stop in (("stop", StopReason.END), ("content_filter", StopReason.REFUSED)):
        *whole, _ = chunks("Hi", finish=finish, usage=USAGE)
        server.next(stream(*whole))
        (said, end) = ask(server)
        assert said == TextDelta("Hi")
        assert isinstance(end, TurnEnded)
        assert (end.stop, end.usage) == (stop, Usage(120, 7, 100))


@pytest.mark.fault("F-29e")
@pytest.mark.parametrize("reasoning", [None, ReasoningEffort.LOW])
def test_a_content_may_be_a_list_of_parts(server: FaultyServer, reasoning: ReasoningEffort | None) -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "It is"}]}
    said = [{"type": "text", "text": "Yes"}, {"type": "reference", "reference_ids": [1]}]
    server.next(stream(chunk({"content": [thinking]}), chunk({"content": said}), *chunks(usage=USAGE)))

    *events, _ = ask(server, reasoning=reasoning)

    shown = [ReasoningDelta("It is"), ReasoningEnded()] if reasoning else []
    assert events == [*shown, TextDelta("Yes")]


@pytest.mark.parametrize(
    ("finish", "stop"),
    [
        ("stop", StopReason.END),
        ("length", StopReason.MAX_TOKENS),
        ("content_filter", StopReason.REFUSED),
        ("eos", StopReason.END),
    ],
)
def test_the_reason_of_an_end_is_told(server: FaultyServer, finish: str, stop: StopReason) -> None:
    server.next(chat("Hi", finish=finish, usage=USAGE))

    (*_, ended) = ask(server)

    assert isinstance(ended, TurnEnded)
    assert ended.stop is stop


def test_a_refusal_is_one_though_the_answer_ends_as_others_do(server: FaultyServer) -> None:
    server.next(stream(*(chunk({"refusal": each}) for each in ("I can", "not.")), *chunks(usage=USAGE)))

    *said, ended = ask(server)

    # Why it declines is told, as of models that say it in their text.
    assert said == [TextDelta("I can"), TextDelta("not.")]
    assert isinstance(ended, TurnEnded)
    assert ended.stop is StopReason.REFUSED


def test_what_a_model_thinks_is_not_shown_and_is_counted(server: FaultyServer) -> None:
    server.next(stream(chunk({"reasoning_content": "a" * 400}), end=CUT))

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert (caught.value.usage.input_tokens or 0) > 50
    assert caught.value.usage.output_tokens is None


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning"])
def test_what_a_model_thinks_is_shown_where_it_was_asked_for(server: FaultyServer, member: str) -> None:
    usage = {**USAGE, "completion_tokens_details": {"reasoning_tokens": 4}}
    thoughts = [chunk({member: each}) for each in ("It \ud83d", "\ude00is")]
    server.next(stream(*thoughts, *chunks("Yes", usage=usage)))

    *events, end = ask(server, reasoning=ReasoningEffort.MEDIUM)

    assert events == [ReasoningDelta("It "), ReasoningDelta("\U0001f600is"), ReasoningEnded(), TextDelta("Yes")]
    assert isinstance(end, TurnEnded)
    assert end.usage.reasoning_tokens == 4
    assert list(end.blocks) == [
        {"type": "thinking", "thinking": "It \U0001f600is", "member": member},
        {"type": "text", "text": "Yes"},
    ]


def test_an_answer_without_usage_is_counted_by_its_characters(server: FaultyServer) -> None:
    server.next(chat("a" * 400))

    (*_, ended) = ask(server)

    assert isinstance(ended, TurnEnded)
    assert ended.usage.output_tokens == 100
    assert (ended.usage.input_tokens or 0) > 50


@pytest.mark.fault("F-29g")
@pytest.mark.parametrize(
    ("prompt", "completion", "cached", "counted"),
    [
        (0, 0, 0, (None, 100, 0)),
        (120, 0, None, (120, 100, None)),
        (-1, 1.5, "7", (None, 100, None)),
        (10**15, 10**15, 10**15, (None, 100, None)),
        (20, 7, 100, (120, 7, 100)),
        (120, 7, 120, (120, 7, 120)),
    ],
)
def test_what_cannot_be_a_count_is_estimated_and_cached_tokens_count_once(
    server: FaultyServer, prompt: object, completion: object, cached: object, counted: tuple[int | None, ...]
) -> None:
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    server.next(chat("a" * 400, usage=usage))

    (*_, ended) = ask(server)

    assert isinstance(ended, TurnEnded)
    told = ended.usage
    assert (told.output_tokens, told.cached_input_tokens) == counted[1:]
    assert told.input_tokens == counted[0] or (counted[0] is None and 50 < (told.input_tokens or 0) < 1_000)


def test_half_a_character_waits_for_the_other_half(server: FaultyServer) -> None:
    halves = [chunk({"content": half}) for half in ("a\ud83d", "\ude00b", "\ud83d")]
    server.next(stream(*halves, *chunks(usage=USAGE)))

    assert "".join(event.text for event in ask(server) if isinstance(event, TextDelta)) == "a😀b\ufffd"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"error": {"message": "x", "type": "BadRequestError", "code": 400}}, ModelErrorCode.MODEL_REJECTED),
        ({"object": "error", "message": "x", "code": 503}, ModelErrorCode.MODEL_OVERLOADED),
        ({"error": {"message": "x", "code": "rate_limit_exceeded"}}, ModelErrorCode.MODEL_RATE_LIMITED),
        ({"error": {"message": "x", "code": "context_length_exceeded"}}, ModelErrorCode.CONTEXT_WINDOW_EXCEEDED),
        ({"error": "x"}, ModelErrorCode.MODEL_UNAVAILABLE),
    ],
)
def test_an_error_within_a_stream_is_told_by_its_code(server: FaultyServer, error: object, code: object) -> None:
    server.next(stream(data(error)))

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert caught.value.code is code


@pytest.mark.parametrize(
    ("status", "body", "code", "is_transient"),
    [
        (429, {"error": {"code": "insufficient_quota"}}, ModelErrorCode.MODEL_UNAVAILABLE, False),
        (429, {"error": {"code": "rate_limit_exceeded"}}, ModelErrorCode.MODEL_RATE_LIMITED, True),
        (503, {"error": {"message": "overloaded"}}, ModelErrorCode.MODEL_OVERLOADED, True),
        (400, {"error": {"code": "context_length_exceeded"}}, ModelErrorCode.CONTEXT_WINDOW_EXCEEDED, False),
        (400, {"error": {"code": "invalid_value"}}, ModelErrorCode.MODEL_REJECTED, False),
    ],
)
def test_an_error_is_told_by_status_and_code(
    server: FaultyServer, status: int, body: object, code: object, is_transient: bool
) -> None:
    server.next(refuse(status, body=body))

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert (caught.value.code, caught.value.is_transient) == (code, is_transient)


INLINE = "\n<think>\nIt is <thi </thin é.\n</think>\n\nYes, <think>."


@pytest.mark.parametrize("reasoning", [None, ReasoningEffort.LOW])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_block_of_thoughts_in_front_of_the_text_is_none_of_it(
    server: FaultyServer, reasoning: ReasoningEffort | None, size: int
) -> None:
    server.next(chat(*(INLINE[at : at + size] for at in range(0, len(INLINE), size)), usage=USAGE))

    *events, end = ask(server, reasoning=reasoning)

    shown = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert shown == ("\nIt is <thi </thin é.\n" if reasoning else "")
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Yes, <think>."
    assert [type(event) for event in events].count(ReasoningEnded) == bool(reasoning)
    assert isinstance(end, TurnEnded)
    said = Message(id="a", role="assistant", content="Yes, <think>.", blocks=end.blocks, model="m")
    (_, sent, _) = to_chat([], repair([Message(id="u", role="user", content="?"), said]), images=False, model="m")
    assert sent == {"role": "assistant", "content": "Yes, <think>."}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>Okay, the user said hel", ""),
        ("<think>", ""),
        ("<thi", "<thi"),
        (" < b", " < b"),
        ("So <think>x</think>", "So <think>x</think>"),
        ("<think></think>Yes", "Yes"),
        ("<thinking>x", "<thinking>x"),
        ("  ", "  "),
    ],
)
def test_what_is_no_block_of_thoughts_in_front_is_text(server: FaultyServer, text: str, said: str) -> None:
    for pieces in ([text], list(text)):
        server.next(chat(*pieces, usage=USAGE))

        *events, _ = ask(server)

        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == said


def whole(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop", **more}]
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": choices, "usage": USAGE}


def test_an_answer_that_is_no_stream_is_read_as_one(server: FaultyServer) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a":1}'}}]
    said = {"content": "<think>Hm.</think>Look", "reasoning_content": "I. ", "tool_calls": calls}
    server.next(refuse(200, {}, whole(said, finish_reason="tool_calls")))

    *events, end = ask(server)

    assert events == [
        TextDelta("Look"),
        ToolBegun("c1", "find"),
        ToolArguments("c1", '{"a":1}'),
        ToolEnded("c1", '{"a":1}'),
    ]
    assert isinstance(end, TurnEnded)
    assert (end.stop, end.usage) == (StopReason.TOOL_USE, Usage(120, 7, 100))
    server.next(refuse(200, {}, whole({"content": None, "refusal": "I cannot."})))
    said_of, end = ask(server)
    assert (said_of, end.stop) == (TextDelta("I cannot."), StopReason.REFUSED)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": {"message": "slow", "code": 429}}, ModelErrorCode.MODEL_RATE_LIMITED),
        ({"choices": []}, ModelErrorCode.MODEL_STREAM_CUT),
        (whole({"content": "half"}, finish_reason=None), ModelErrorCode.MODEL_STREAM_CUT),
        ([], ModelErrorCode.MODEL_STREAM_CUT),
        ({"choices": [{"message": {"content": "x" * 8_000_001}}]}, ModelErrorCode.MODEL_STREAM_CUT),
    ],
    ids=["an error", "no answer", "no end", "no object", "too long"],
)
def test_a_body_that_is_neither_a_stream_nor_an_answer_fails(
    server: FaultyServer, body: object, code: ModelErrorCode
) -> None:
    server.next(refuse(200, {"connection": "close"}, body))

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert caught.value.code is code


@pytest.mark.fault("F-29x")
@pytest.mark.parametrize("both", [False, True], ids=["alone", "beside tool_calls"])
def test_a_call_in_the_form_before_tool_calls_is_one(server: FaultyServer, both: bool) -> None:
    old = [{"name": "find", "arguments": ""}, {"arguments": '{"a"'}, {"arguments": ":1}"}]
    pieces: list[dict[str, Any]] = [{"delta": {"function_call": each}} for each in old]
    if both:
        pieces = [{"delta": {"tool_calls": [call(0, '{"a":1}', call_id="c1", name="find")], "function_call": old[0]}}]
    pieces.append({"delta": {}, "finish_reason": "function_call"})
    server.next(stream(*(data({"choices": [{"index": 0, **each}]}) for each in pieces), b"data: [DONE]\n\n"))

    events = ask(server)

    (made,) = [event for event in events if isinstance(event, ToolBegun)]
    assert made.name == "find"
    assert [event.arguments for event in events if isinstance(event, ToolEnded)] == ['{"a":1}']
    assert isinstance(events[-1], TurnEnded)
    assert events[-1].stop is StopReason.TOOL_USE


@pytest.mark.fault("F-29v")
@pytest.mark.parametrize("arguments", ["null", "", None, {}])
def test_no_arguments_are_an_empty_object(server: FaultyServer, arguments: object) -> None:
    function = {"name": "find", "arguments": arguments}
    piece = {"index": 0, "id": "c1", "type": "function", "function": function}
    whole = {"choices": [{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": "tool_calls"}]}
    server.next(stream(data(whole), b"data: [DONE]\n\n"))

    *_, made, end = ask(server)

    assert isinstance(made, ToolEnded)
    assert made.arguments in ("", "{}")
    assert isinstance(end, TurnEnded)
    assert [each["input"] for each in end.blocks] == [{}]

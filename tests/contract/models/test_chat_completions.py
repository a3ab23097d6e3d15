"""Our reading of Chat Completions as OpenAI, vLLM, Ollama and others stream them, and what they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from karma.conversations.domain import Message
from karma.core import secrets
from karma.core.clock import monotonic
from karma.integrations.openai import OpenAIModel
from karma.integrations.openai_turn import ChatTurn
from karma.models.domain import OPENAI, ModelErrorCode, ModelNotConfigured, Target, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from tests.support.chat_stream import chat, chunk, chunks, data
from tests.support.faulty_server import CUT, FaultyServer, stream
from tests.support.faulty_server import status as refuse

USAGE = {"prompt_tokens": 120, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 100}}


def request(base_url: str = "http://127.0.0.1/v1", **more: Any) -> ModelRequest:
    return ModelRequest(
        target=Target(model="m", provider=OPENAI, base_url=base_url, **more),
        system=["Be kind."],
        messages=[Message(id="u", role="user", content="hi " * 100)],
        tools=(),
        max_tokens=100,
    )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        known = {"api_key": "sk-test", "mine": {"api_key": "sk-mine", "base_url": f"{running.url}/v1"}}
        monkeypatch.setitem(secrets._kept, "secret", (monotonic() + 3600, known))
        yield running


def ask(server: FaultyServer, **more: Any) -> list[ModelEvent]:
    model = OpenAIModel(secret_arn="secret")

    async def collect() -> list[ModelEvent]:
        asked = request(**{"base_url": f"{server.url}/v1", **more})
        try:
            return [event async for batch in model.stream(asked) for event in batch]
        finally:
            await model.close()

    return asyncio.run(collect())


def call(index: int, arguments: object = "", *, call_id: str = "", name: str = "") -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"index": index, "function": function, **({"id": call_id, "type": "function"} if call_id else {})}


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
}


@pytest.mark.parametrize("how", list(MADE))
def test_calls_are_told_apart_as_servers_number_them(server: FaultyServer, how: str) -> None:
    calls, expected = MADE[how]
    server.next(chat(calls=calls, usage=USAGE))

    events = ask(server)

    assert [tuple(event) for event in events if isinstance(event, ToolEnded)] == expected
    assert [event.id for event in events if isinstance(event, ToolBegun)] == [call_id for call_id, _ in expected]


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
    server.next(stream(chunk({"refusal": "I cannot"}), *chunks(usage=USAGE)))

    (ended,) = ask(server)

    assert isinstance(ended, TurnEnded)
    assert ended.stop is StopReason.REFUSED


def test_what_a_model_thinks_is_not_shown_and_is_counted(server: FaultyServer) -> None:
    server.next(stream(chunk({"reasoning_content": "a" * 400}), end=CUT))

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert (caught.value.usage.input_tokens or 0) > 50
    assert caught.value.usage.output_tokens is None


def test_an_answer_without_usage_is_counted_by_its_characters(server: FaultyServer) -> None:
    server.next(chat("a" * 400))

    (*_, ended) = ask(server)

    assert isinstance(ended, TurnEnded)
    assert ended.usage.output_tokens == 100
    assert (ended.usage.input_tokens or 0) > 50


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


class TestKeys:
    def test_a_key_goes_to_its_own_address(self, server: FaultyServer) -> None:
        server.next(chat("Hi", usage=USAGE), chat("Hi", usage=USAGE))

        ask(server, secret="mine")
        ask(server)

        assert server.headers[0]["authorization"] == "Bearer sk-mine"
        assert "authorization" not in server.headers[1]
        assert server.paths == ["/v1/chat/completions"] * 2

    @pytest.mark.parametrize("secret", ["mine", "api_key", "nothing"])
    def test_it_goes_to_no_other(self, server: FaultyServer, secret: str) -> None:
        base_url = f"{server.url}/v2"
        with pytest.raises(ModelNotConfigured):
            OpenAIModel(secret_arn="secret").prepare(Target(model="m", base_url=base_url, secret=secret))
        with pytest.raises(ModelNotConfigured):
            ask(server, base_url=base_url, secret=secret)
        assert server.requests == []

    @pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]"])
    def test_no_metadata_service_is_asked_however_its_address_is_written(self, server: FaultyServer, host: str) -> None:
        began = monotonic()
        with pytest.raises(ModelFailed) as caught:
            ask(server, base_url=f"http://{host}:1/v1")
        assert caught.value.code is ModelErrorCode.MODEL_UNAVAILABLE
        assert not caught.value.is_transient
        assert monotonic() - began < 4

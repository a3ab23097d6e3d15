"""Our reading of the Messages API, through the real SDK, against recorded and broken streams."""

import asyncio
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import pytest
from anthropic.resources.messages import AsyncMessages

from karma.agents.domain import MODELS
from karma.conversations.domain import Message, ToolCall
from karma.integrations import anthropic as anthropic_module
from karma.integrations.anthropic import AnthropicModel
from karma.integrations.anthropic_messages import to_messages
from karma.integrations.anthropic_turn import Turn
from karma.models.domain import ModelErrorCode, ModelNotConfigured, ReasoningEffort, Target, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ModelRequest,
    ReasoningDelta,
    ReasoningEnded,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    ToolSpec,
    TurnEnded,
)
from tests.support.media import b64, png
from tests.support.model_server import ModelServer, message, sse, text, thinking, tool_use


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def ask(
    server: ModelServer,
    *,
    name: str = "claude-haiku-5-5",
    tools: Any = (),
    reasoning: ReasoningEffort | None = None,
    messages: Sequence[Message] = (Message(id="u", role="user", content="hi"),),
    max_tokens: int = 100,
) -> list[ModelEvent]:
    model = AnthropicModel(secret_arn="", base_url=server.url)
    model._key = "sk-test"
    request = ModelRequest(
        target=Target(model=name),
        system=["Be kind.", "Be brief."],
        messages=messages,
        tools=tools,
        max_tokens=max_tokens,
        reasoning=reasoning,
    )

    async def collect() -> list[ModelEvent]:
        try:
            return [event async for batch in model.stream(request) for event in batch]
        finally:
            if model._client is not None:
                await model._client.close()

    return asyncio.run(collect())


@pytest.mark.parametrize(("idle_s", "connections"), [(None, 1), (0.0, 2)])
def test_the_next_run_finds_the_connection_open_for_as_long_as_we_say(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, idle_s: float | None, connections: int
) -> None:
    if idle_s is None:
        assert anthropic_module._IDLE_S >= 60
    else:
        monkeypatch.setattr(anthropic_module, "_IDLE_S", idle_s)
    model = AnthropicModel(secret_arn="", base_url=server.url)
    model._key = "sk-test"
    request = ModelRequest(
        target=Target(model="claude-haiku-5-5"),
        system=[],
        messages=[Message(id="u", role="user", content="hi")],
        tools=(),
        max_tokens=100,
    )
    server.answer(message(text("One")))
    server.answer(message(text("Two")))

    async def ask_twice() -> None:
        for _ in range(2):
            async for _ in model.stream(request):
                pass
        await model.close()

    asyncio.run(ask_twice())

    assert len(set(server.peers)) == connections


def test_what_is_loaded_beside_other_work_includes_the_client(server: ModelServer) -> None:
    model = AnthropicModel(secret_arn="", base_url=server.url)
    model._key = "sk-test"

    model.preload()
    assert model._loading is not None
    model._loading.join(30)

    assert model._client is not None
    asyncio.run(model.close())


def test_text_thinking_and_tools_arrive_in_order(server: ModelServer) -> None:
    server.answer(
        message(
            thinking("hm", "m", signature="sig"),
            text("Hel", "lo é"),
            tool_use("toolu_1", "find", '{"a"', ":1}"),
            stop_reason="tool_use",
            usage={"cache_read_input_tokens": 100, "cache_creation_input_tokens": 20},
        )
    )

    events = ask(server)

    assert events == [
        TextDelta("Hel"),
        TextDelta("lo é"),
        ToolBegun("toolu_1", "find"),
        ToolArguments("toolu_1", '{"a"'),
        ToolArguments("toolu_1", ":1}"),
        ToolEnded("toolu_1", '{"a":1}'),
        TurnEnded(
            StopReason.TOOL_USE,
            Usage(131, 7, 100, 20),
            [
                {"type": "thinking", "thinking": "hmm", "signature": "sig"},
                {"type": "text", "text": "Hello é"},
                {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"a": 1}},
            ],
        ),
    ]


def test_reasoning_arrives_where_it_was_asked_for(server: ModelServer) -> None:
    usage: dict[str, Any] = {"output_tokens_details": {"thinking_tokens": 4}}
    server.answer(
        message(thinking("hm", "m", signature="sig"), thinking("so", signature="s2"), text("Hi"), usage=usage)
    )

    *events, end = ask(server, reasoning=ReasoningEffort.LOW)

    assert events == [
        ReasoningDelta("hm"),
        ReasoningDelta("m"),
        ReasoningEnded(),
        ReasoningDelta("so"),
        ReasoningEnded(),
        TextDelta("Hi"),
    ]
    assert isinstance(end, TurnEnded)
    assert end.usage.reasoning_tokens == 4
    assert [block.get("signature") for block in end.blocks] == ["sig", "s2", None]


@pytest.mark.parametrize("name", [*MODELS, "claude-haiku-4-5-20251001"])
@pytest.mark.parametrize("reasoning", ReasoningEffort)
def test_each_model_is_told_its_effort_as_it_takes_it(
    server: ModelServer, name: str, reasoning: ReasoningEffort
) -> None:
    server.answer(message(text("x")))

    ask(server, name=name, reasoning=reasoning, max_tokens=8192)

    (sent,) = server.requests
    if name.startswith("claude-haiku-4-5"):
        assert sent["thinking"]["type"] == "enabled"
        assert 1024 <= sent["thinking"]["budget_tokens"] < sent["max_tokens"]
        assert "output_config" not in sent
    else:
        assert sent["thinking"] == {"type": "adaptive", "display": "summarized"}
        assert sent["output_config"] == {"effort": reasoning.value}


@pytest.mark.parametrize("max_tokens", [1, 1024])
def test_a_budget_that_leaves_no_room_for_an_answer_is_not_sent(server: ModelServer, max_tokens: int) -> None:
    server.answer(message(text("x")))

    ask(server, name="claude-haiku-4-5", reasoning=ReasoningEffort.MAX, max_tokens=max_tokens)

    assert "thinking" not in server.requests[0]


@pytest.mark.parametrize("thinks", [True, False])
def test_a_model_with_a_budget_thinks_within_a_turn_that_began_with_its_own_thinking_alone(
    server: ModelServer, *, thinks: bool
) -> None:
    server.answer(message(text("x")))
    said: list[dict[str, Any]] = [{"type": "tool_use", "id": "c", "name": "find", "input": {}}]
    if thinks:
        said.insert(0, {"type": "thinking", "thinking": "hm", "signature": "sig"})
    messages = [
        Message(id="u", role="user", content="hi"),
        Message(
            id="a",
            role="assistant",
            tool_calls=(ToolCall("c", "find", "{}"),),
            blocks=tuple(said),
            model="claude-haiku-4-5",
        ),
        Message(id="t", role="tool", content="{}", tool_call_id="c"),
    ]

    ask(server, name="claude-haiku-4-5", reasoning=ReasoningEffort.LOW, messages=messages, max_tokens=8192)

    assert ("thinking" in server.requests[0]) is thinks


def test_the_request_is_what_the_api_of_2026_10_21_takes(server: ModelServer) -> None:
    server.answer(message(text("x")))

    ask(server, name="claude-sonnet-5-5", tools=[ToolSpec("find", "Find", {"type": "object", "properties": {}})])

    (body,), (headers,) = server.requests, server.headers
    assert headers["anthropic-version"] == "2026-10-21"
    assert headers["authorization"] == "Bearer sk-test"
    assert not {"temperature", "top_p", "top_k"} & set(body)
    assert body["thinking"] == {"type": "between_tools"}
    assert body["max_tokens"] == 100
    assert body["stream"] is True
    assert [each["text"] for each in body["system"]] == ["Be kind.", "Be brief."]
    assert body["tools"][0]["input_schema"] == {"type": "object", "properties": {}}


def test_a_stream_is_read_the_same_however_it_is_cut_into_chunks() -> None:
    whole = b"".join(message(text("Hel", "lo\n\nworld"), tool_use("t", "f", '{"a":1}')))
    expected = Turn().feed(whole)
    for size in (1, 7, 100):
        turn = Turn()
        got = [event for at in range(0, len(whole), size) for event in turn.feed(whole[at : at + size])]
        assert got == expected
        assert turn.is_complete
    crlf = Turn()
    data = whole.replace(b"\n", b"\r\n")
    assert [event for at in range(0, len(data), 3) for event in crlf.feed(data[at : at + 3])] == expected


@pytest.mark.fault("F-01c")
@pytest.mark.parametrize("block", [text("Hel"), tool_use("toolu_1", "find", "{}"), thinking("hm", signature="sig")])
@pytest.mark.parametrize("stop_reason", ["end_turn", "tool_use", "max_tokens"])
@pytest.mark.parametrize("at", [0, 1])
def test_a_block_that_never_ended_is_a_broken_stream(block: Any, stop_reason: str, at: int) -> None:
    chunks = message(*[text("a"), block][at:], block, text("b"), stop_reason=stop_reason)
    ends = [n for n, chunk in enumerate(chunks) if b"content_block_stop" in chunk]
    turn = Turn()

    with pytest.raises(ModelFailed) as caught:
        turn.feed(b"".join(chunks[: ends[1 - at]] + chunks[ends[1 - at] + 1 :]))

    assert caught.value.code == ModelErrorCode.MODEL_STREAM_CUT
    assert not turn.is_complete


@pytest.mark.fault("F-03a")
def test_half_a_character_from_the_model_becomes_the_replacement_character() -> None:
    told = Turn().feed(
        b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"a\\ud83d"}}\n\n'
        b'data: {"type":"content_block_stop","index":0}\n\n'
    )

    assert told == [TextDelta("a"), TextDelta("\ufffd")]


def test_unknown_events_and_blocks_pass_by(server: ModelServer) -> None:
    chunks = message([{"content_block": {"type": "novelty", "x": 1}}, {"delta": {"type": "novelty_delta"}}], text("x"))
    server.answer([*chunks[:-1], sse("novelty"), chunks[-1]])

    assert [event for event in ask(server) if isinstance(event, TextDelta)] == [TextDelta("x")]


@pytest.mark.parametrize(
    ("error_type", "code"),
    [
        ("overloaded_error", ModelErrorCode.MODEL_OVERLOADED),
        ("rate_limit_error", ModelErrorCode.MODEL_RATE_LIMITED),
        ("api_error", ModelErrorCode.MODEL_UNAVAILABLE),
        ("novel_error", ModelErrorCode.MODEL_UNAVAILABLE),
    ],
)
def test_an_error_within_the_stream_is_told_by_its_type(server: ModelServer, error_type: str, code: str) -> None:
    started = message(text("Hel"))[:4]
    server.answer([*started, sse("error", error={"type": error_type, "message": "secret"})])

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert caught.value.code == code
    assert caught.value.usage == Usage(input_tokens=11)


@pytest.mark.parametrize(
    ("chunks", "cut"),
    [
        (message(text("Hel"))[:4], True),  # TCP cut within the body
        (message(text("Hel"))[:-1], False),  # a clean end, without message_stop
        ([], False),  # an empty 200
        ([b"data: nonsense\n\n"], False),
        ([b'data: {"type":"content_block_delta"}\n\n'], False),
        ([b"data: 7\n\n"], False),
    ],
)
def test_a_stream_that_does_not_end_properly_is_a_failure(server: ModelServer, chunks: list[bytes], cut: bool) -> None:
    server.answer(chunks, cut=cut)

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert caught.value.code is ModelErrorCode.MODEL_STREAM_CUT


@pytest.mark.parametrize(
    ("status", "error_type", "code"),
    [
        (529, "overloaded_error", ModelErrorCode.MODEL_OVERLOADED),
        (429, "rate_limit_error", ModelErrorCode.MODEL_RATE_LIMITED),
        (500, "api_error", ModelErrorCode.MODEL_UNAVAILABLE),
        (400, "invalid_request_error", ModelErrorCode.MODEL_REJECTED),
        (413, "request_too_large", ModelErrorCode.CONTEXT_WINDOW_EXCEEDED),
        (401, "authentication_error", ModelErrorCode.MODEL_UNAVAILABLE),
        (402, "billing_error", ModelErrorCode.MODEL_UNAVAILABLE),
    ],
)
def test_a_refused_call_is_told_by_its_code_and_not_repeated_by_the_sdk(
    server: ModelServer, status: int, error_type: str, code: str
) -> None:
    server.fail(status, error_type)

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert caught.value.code == code
    assert len(server.requests) == 1
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with ModelServer() as gone:
        pass
    with pytest.raises(ModelFailed) as caught:
        ask(gone)
    assert caught.value.code is ModelErrorCode.MODEL_UNAVAILABLE


def test_without_a_key_there_is_no_model() -> None:
    with pytest.raises(ModelNotConfigured):
        AnthropicModel(secret_arn="").prepare(Target(model="claude-test"))


class TestConversations:
    def test_turns_alternate_and_results_come_first(self) -> None:
        shaped = to_messages(
            [
                Message(id="1", role="user", content="a"),
                Message(id="2", role="assistant", blocks=[{"type": "tool_use", "id": "c", "name": "f", "input": {}}]),
                Message(id="3", role="tool", content="done", tool_call_id="c", failed=True),
                Message(id="4", role="user", content="b"),
            ],
            model="m",
        )

        assert shaped == [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c", "content": "done", "is_error": True},
                    {"type": "text", "text": "b"},
                ],
            },
        ]

    def test_thinking_is_replayed_to_its_own_model_only(self) -> None:
        turn = Message(
            id="2",
            role="assistant",
            blocks=[{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "x"}],
            tool_calls=(ToolCall("c", "f", "{}"),),
            model="m1",
        )

        assert len(to_messages([turn], model="m1")[0]["content"]) == 2  # type: ignore[arg-type]
        assert to_messages([turn], model="m2")[0]["content"] == [{"type": "text", "text": "x"}]

    def test_media_become_blocks_and_what_cannot_be_read_is_named(self) -> None:
        parts: list[dict[str, object]] = [
            {"type": "text", "text": "see"},
            {"type": "image", "source": {"type": "data", "value": b64(png()), "mimeType": "image/jpg"}},
            {"type": "document", "source": {"type": "url", "value": "https://example.com/a.pdf"}},
            {"type": "image", "source": {"type": "url", "value": "http://169.254.169.254/latest"}},
            {"type": "audio", "source": {"type": "data", "value": "QUJD", "mimeType": "audio/wav"}},
        ]

        (turn,) = to_messages([Message(id="1", role="user", content=parts)], model="m")

        assert turn["content"] == [
            {"type": "text", "text": "see"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": b64(png())}},
            {"type": "text", "text": "[An attachment was here that cannot be shown: it has no data]"},
            {"type": "text", "text": "[An attachment was here that cannot be shown: it has no data]"},
            {
                "type": "text",
                "text": "[An attachment was here that cannot be shown: it is audio; PNG, JPEG, GIF and WebP images, "
                "PDF and plain text documents are taken]",
            },
        ]


def test_the_models_that_agents_may_name_are_the_sdk_s_and_will_stay() -> None:
    from anthropic.resources.messages.messages import DEPRECATED_MODELS
    from anthropic.types.model import Model

    known = next(get_args(each) for each in get_args(Model) if get_args(each))
    assert set(MODELS) <= set(known)
    assert not set(MODELS) & set(DEPRECATED_MODELS)
    assert not {"temperature", "top_p", "top_k"} & set(inspect.signature(AsyncMessages.create).parameters)

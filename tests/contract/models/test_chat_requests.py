"""Requests to models behind the Chat Completions API: keys, limits, and earlier thoughts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from karma.conversations.domain import Message, ToolCall
from karma.core.clock import monotonic
from karma.integrations.openai import OpenAIModel, body_of
from karma.integrations.openai_messages import to_chat
from karma.models.domain import ModelErrorCode, ModelNotConfigured, ReasoningEffort, Target
from karma.models.ports import ModelFailed, ReasoningDelta, TextDelta, TurnEnded
from tests.support.chat_calls import USAGE, ask, call, keyed_server, request
from tests.support.chat_stream import chat, chunk, chunks
from tests.support.faulty_server import FaultyServer, stream
from tests.support.faulty_server import status as refuse


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with keyed_server(monkeypatch) as running:
        yield running


@pytest.mark.fault("F-29h")
@pytest.mark.parametrize("member", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("reasoning", [None, ReasoningEffort.LOW])
def test_what_a_model_thought_is_sent_back_to_it_alone(
    server: FaultyServer, member: str, reasoning: ReasoningEffort | None
) -> None:
    late = chunk({member: " Done."})
    calls = [call(0, "{}", call_id="c", name="find")]
    server.next(stream(chunk({member: "I look."}), *chunks("Ok", calls=calls, usage=USAGE)[:-2], late, *chunks()[-2:]))

    *events, end = ask(server, reasoning=reasoning)

    assert [event for event in events if isinstance(event, ReasoningDelta)] == [ReasoningDelta("I look.")] * bool(
        reasoning
    )
    assert isinstance(end, TurnEnded)
    said = Message(
        id="a", role="assistant", content="Ok", tool_calls=(ToolCall("c", "find", "{}"),), blocks=end.blocks, model="m"
    )
    other = Message(id="b", role="assistant", content="Hi", blocks=({"type": "thinking", "thinking": "x"},), model="n")
    history = [
        Message(id="u", role="user", content="hi"),
        other,
        Message(id="v", role="user", content="look"),
        said,
        Message(id="t", role="tool", content="found", tool_call_id="c"),
    ]
    answers = [each for each in to_chat([], history, images=True, model="m") if each["role"] == "assistant"]
    assert [each[member] for each in answers] == ["", "I look. Done."]
    for each in to_chat([], history, images=True, model="n"):
        assert member not in each


@pytest.mark.fault("F-29h")
def test_an_answer_that_only_thinks_where_that_is_not_shown_is_none(server: FaultyServer) -> None:
    for size in (10, 300_000):
        server.next(stream(chunk({"reasoning_content": "a" * size}), *chunks(*["Hi"] * (size > 10), usage=USAGE)))
        (*_, end) = ask(server)
        assert isinstance(end, TurnEnded)
        assert [each["type"] for each in end.blocks] == ["text"] * (size > 10)


@pytest.mark.parametrize("reasoning", [None, *ReasoningEffort])
def test_the_effort_is_sent_where_an_agent_has_one(reasoning: ReasoningEffort | None) -> None:
    assert body_of(request(reasoning=reasoning)).get("reasoning_effort") == reasoning


OLD_NAME = {
    "message": "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "type": "invalid_request_error",
    "param": "max_tokens",
    "code": "unsupported_parameter",
}


@pytest.mark.fault("F-29j")
def test_a_server_that_wants_the_newer_name_of_the_limit_is_given_it_from_then_on(server: FaultyServer) -> None:
    model = OpenAIModel(secret_arn="secret")

    async def twice() -> None:
        for _ in range(2):
            events = [event async for batch in model.stream(request(f"{server.url}/v1")) for event in batch]
            assert events[0] == TextDelta("Hi")
        await model.close()

    close = {"connection": "close"}
    server.next(refuse(400, close, {"error": OLD_NAME}), chat("Hi", usage=USAGE), chat("Hi", usage=USAGE))
    asyncio.run(twice())

    limits = [{name for name in asked if name.startswith("max_")} for asked in server.requests]
    assert limits == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]


@pytest.mark.fault("F-29j")
def test_a_server_that_refuses_both_names_is_asked_twice(server: FaultyServer) -> None:
    close = {"connection": "close"}
    server.next(refuse(400, close, {"error": OLD_NAME}), refuse(400, close, {"error": OLD_NAME}))

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert caught.value.code is ModelErrorCode.MODEL_REJECTED
    assert len(server.requests) == 2


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

"""Whatever servers of Chat Completions sign or name by themselves goes back to them as it came, and to nobody else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pytest

from karma.conversations.domain import Message, ToolCall
from karma.conversations.repair import repair
from karma.conversations.stored import dump_messages, load_messages
from karma.integrations.anthropic import AnthropicModel
from karma.integrations.openai import OpenAIModel, body_of
from karma.integrations.openai_signed import MAX_SIGNED_BYTES
from karma.models.domain import OPENAI, ModelErrorCode, Target
from karma.models.ports import CallIds, ModelFailed, ModelRequest, ToolEnded, ToolSpec, TurnEnded
from local.messages_api.chat_rules import chat_refusal
from local.messages_api.rules import refusal
from tests.support.chat_calls import USAGE, ask, call, keyed_server
from tests.support.chat_stream import chat, chunk, chunks
from tests.support.faulty_server import FaultyServer, stream
from tests.support.faulty_server import status as refuse

SIGNATURE = {"google": {"thought_signature": "CiQBSIG"}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with keyed_server(monkeypatch) as running:
        yield running


def answered(
    server: FaultyServer, *calls: dict[str, Any], before: Sequence[dict[str, Any]] = (), own: bool = False
) -> list[Message]:
    """Let the server answer with calls; return the conversation as it is stored, with their results."""
    head, *rest = chunks(calls=calls, usage=USAGE)
    server.next(stream(head, *map(chunk, before), *rest))
    *events, end = ask(server)
    assert isinstance(end, TurnEnded)
    made = [each.call_id for each in events if isinstance(each, ToolEnded)]
    ids = CallIds(set(made) if own else set())
    kept = [ToolCall(ids.begin(each), "find", "{}") for each in made]
    said = Message(id="a", role="assistant", tool_calls=tuple(kept), blocks=ids.within(end.blocks), model="m")
    results = [Message(id=f"r{each.id}", role="tool", content="found", tool_call_id=each.id) for each in kept]
    return load_messages(dump_messages([Message(id="u", role="user", content="find"), said, *results]))


def asked(history: list[Message], target: Target) -> ModelRequest:
    tool = ToolSpec("find", "Find", {"type": "object"})
    return ModelRequest(target=target, system=[], messages=repair(history), tools=[tool], max_tokens=100)


def sent(history: list[Message], base_url: str, model: str = "m") -> list[dict[str, Any]]:
    body = body_of(asked(history, Target(model=model, provider=OPENAI, base_url=base_url)))
    messages: list[dict[str, Any]] = orjson.loads(orjson.dumps(body["messages"]))
    return messages


def test_a_signature_of_a_call_goes_back_with_that_call(server: FaultyServer) -> None:
    one = {**call(0, "{}", call_id="c1", name="find"), "extra_content": SIGNATURE}
    history = answered(server, one, call(1, "{}", call_id="c2", name="find"), own=True)

    signed, plain = sent(history, f"{server.url}/v1")[1]["tool_calls"]

    assert signed["extra_content"] == SIGNATURE
    assert "extra_content" not in plain


@pytest.mark.parametrize(("url", "model"), [("http://127.0.0.1:1/v1", "m"), ("", "n")])
def test_nobody_else_is_sent_it(server: FaultyServer, url: str, model: str) -> None:
    one = {**call(0, "{}", call_id="functions.find:0", name="find"), "extra_content": SIGNATURE}
    details = [{"type": "reasoning.encrypted", "data": "ENC", "index": 0}]
    history = answered(server, one, before=[{"reasoning_details": details}])

    others = orjson.dumps(sent(history, url or f"{server.url}/v1", model)).decode()
    theirs = AnthropicModel(secret_arn="")._arguments(asked(history, Target(model="m")))

    assert not any(each in others for each in ("CiQBSIG", "ENC", "functions."))
    assert refusal(theirs) is None
    assert "CiQBSIG" not in str(theirs)


def test_details_of_reasoning_go_back_as_they_came(server: FaultyServer) -> None:
    common = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
    pieces: list[dict[str, Any]] = [
        {"reasoning": "I ", "reasoning_details": [{**common, "text": "I "}]},
        {"reasoning": "look", "reasoning_details": [{**common, "text": "look"}]},
        {"reasoning_details": [{**common, "signature": "SIG"}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "ENC", "id": "rd1"}]},
    ]
    history = answered(server, call(0, "{}", call_id="c1", name="find"), before=pieces)

    said = sent(history, f"{server.url}/v1")[1]

    assert said["reasoning"] == "I look"
    assert said["reasoning_details"] == [
        {**common, "text": "I look", "signature": "SIG"},
        {"type": "reasoning.encrypted", "data": "ENC", "id": "rd1"},
    ]


def test_of_more_than_is_kept_nothing_is(server: FaultyServer) -> None:
    half = {"google": {"thought_signature": "x" * (MAX_SIGNED_BYTES // 2)}}
    calls = [{**call(n, "{}", call_id=f"c{n}", name="find"), "extra_content": half} for n in range(2)]

    history = answered(server, *calls)

    assert "extra_content" not in str(sent(history, f"{server.url}/v1"))
    assert len(dump_messages(history)) < 2_000


def test_ids_of_its_own_form_go_back_to_the_server_that_gave_them(server: FaultyServer) -> None:
    names = ["functions.find:0", "functions.find:1"]
    calls = [call(n, "{}", call_id=name, name="find") for n, name in enumerate(names)]
    history = answered(server, *calls, own=True)

    _, said, *results = sent(history, f"{server.url}/v1")

    assert [each["id"] for each in said["tool_calls"]] == [each["tool_call_id"] for each in results] == names
    _, said, *results = sent(history, "http://127.0.0.1:1/v1")
    own = [each.id for each in history[1].tool_calls]
    assert [each["id"] for each in said["tool_calls"]] == own != names


def test_an_id_that_a_server_gives_twice_goes_back_once(server: FaultyServer) -> None:
    history = answered(server, call(0, "{}", call_id="f.x:0", name="find"), own=True)
    again = [
        Message(
            id=f"{each.id}2",
            role=each.role,
            content=each.content,
            tool_calls=tuple(made._replace(id="call_9") for made in each.tool_calls),
            tool_call_id="call_9" if each.tool_call_id else "",
            blocks=each.blocks,
            model=each.model,
        )
        for each in history
    ]

    results = [each["tool_call_id"] for each in sent([*history, *again], f"{server.url}/v1") if each["role"] == "tool"]

    assert results == ["f.x:0", "call_9"]


REFUSALS = [
    {"object": "error", "message": "Unexpected role 'user' after role 'tool'", "type": "invalid_request_message_order"},
    {"message": "Tool call id was call_x but must be a-z, A-Z, 0-9, with a length of 9.", "code": "3280"},
]


@pytest.mark.parametrize("refusal_of", REFUSALS)
def test_a_conversation_goes_on_with_a_server_that_is_strict(server: FaultyServer, refusal_of: Any) -> None:
    calls = (ToolCall("call_PTLP8xhu3uwZk4l3nlnrrJha", "find", "{}"), ToolCall("AbCdEfGh1", "find", "{}"))
    history = [
        Message(id="u", role="user", content="find"),
        Message(id="a", role="assistant", tool_calls=calls, model="other"),
        *(Message(id=f"r{each.id}", role="tool", content="found", tool_call_id=each.id) for each in calls),
        Message(id="v", role="user", content="and?"),
    ]
    model = OpenAIModel(secret_arn="secret")
    target = Target(model="m", provider=OPENAI, base_url=f"{server.url}/v1")

    async def twice() -> None:
        for _ in range(2):
            assert [event async for batch in model.stream(asked(history, target)) for event in batch]
        await model.close()

    server.next(refuse(400, {"connection": "close"}, refusal_of), chat("Hi", usage=USAGE), chat("Ho", usage=USAGE))
    asyncio.run(twice())

    first, second, third = (each["messages"] for each in server.requests)
    assert [each["role"] for each in first] == ["user", "assistant", "tool", "tool", "user"]
    assert [each["role"] for each in second] == ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert second == third
    ids = [each["id"] for each in second[1]["tool_calls"]]
    assert ids == [each["tool_call_id"] for each in second[2:4]]
    assert all(re.fullmatch("[A-Za-z0-9]{9}", each) for each in ids)
    assert ids[1] == "AbCdEfGh1"
    assert chat_refusal({"model": "m", "messages": second}) is None


def test_a_server_that_refuses_the_strict_form_too_is_asked_twice(server: FaultyServer) -> None:
    server.next(refuse(400, {"connection": "close"}, REFUSALS[0]), refuse(400, {"connection": "close"}, REFUSALS[0]))

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert (caught.value.code, len(server.requests)) == (ModelErrorCode.MODEL_REJECTED, 2)

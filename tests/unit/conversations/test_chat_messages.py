"""Requests to Chat Completions: whatever a thread holds, and whichever model it talked to before."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from typing import Any

import orjson
import pytest

from karma.conversations.domain import Message, ToolCall
from karma.conversations.repair import repair
from karma.conversations.stored import dump_messages, load_messages
from karma.integrations.anthropic import AnthropicModel
from karma.integrations.anthropic_messages import GO_ON
from karma.integrations.attachments import NOT_SHOWN
from karma.integrations.openai import body_of
from karma.integrations.openai_messages import FAILED
from karma.models.domain import OPENAI, Target
from karma.models.ports import ModelRequest, ToolSpec
from local.messages_api.chat_rules import chat_refusal
from local.messages_api.rules import refusal
from tests.support.histories import random_history
from tests.support.media import b64, pdf, png

TOOL = ToolSpec("find", "Find" * 1000, {"type": "object"})
LLAMA = Target(model="llama", provider=OPENAI, base_url="http://127.0.0.1/v1")


def asked(history: list[Message], target: Target = LLAMA) -> ModelRequest:
    return ModelRequest(
        target=target, system=["Be brief.", " ", "Be kind."], messages=repair(history), tools=[TOOL], max_tokens=100
    )


def sent(history: list[Message], target: Target = LLAMA) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(orjson.dumps(body_of(asked(history, target))))
    return body


def user(content: Any = "hi", message_id: str = "u") -> Message:
    return Message(id=message_id, role="user", content=content)


def assistant(content: str = "", *calls: ToolCall, message_id: str = "a", **more: Any) -> Message:
    return Message(id=message_id, role="assistant", content=content, tool_calls=calls, **more)


@pytest.mark.fault("F-01b")
def test_no_random_history_is_refused_by_either_provider(request: pytest.FixtureRequest, seed: int) -> None:
    count = request.config.getoption("histories") // 10
    seed = request.config.getoption("histories_seed") or seed
    sendable = 0
    for n in range(count):
        history = load_messages(dump_messages(random_history(random.Random(seed + n))))
        if not repair(history):
            continue
        sendable += 1
        case = f"--histories 10 --histories-seed {seed + n}"
        body = sent(history, LLAMA if n % 2 else Target(model="gpt-4o", provider=OPENAI, images=False))
        assert chat_refusal(body) is None, f"{case}: {chat_refusal(body)}"
        assert "signature" not in orjson.dumps(body).decode(), case
        strict = orjson.loads(orjson.dumps(body_of(asked(history), is_strict=True)))
        assert chat_refusal(strict) is None, f"{case}: {chat_refusal(strict)}"
        roles = [each["role"] for each in strict["messages"]]
        assert ("tool", "user") not in pairwise(roles), case
        ids = [each["tool_call_id"] for each in strict["messages"] if each["role"] == "tool"]
        assert all(re.fullmatch("[A-Za-z0-9]{9}", each) for each in ids), case
        assert len(set(ids)) == len(ids), case
        theirs = AnthropicModel(secret_arn="")._arguments(asked(history, Target(model="claude-haiku-5-5")))
        assert not theirs["messages"] or refusal(theirs) is None, f"{case}: {refusal(theirs)}"
    assert sendable > count * 0.8


def test_a_conversation_is_shaped_as_the_api_takes_it() -> None:
    history = [
        user("find it"),
        assistant("Looking.", ToolCall("c1", "find", '{"a": 1}'), ToolCall("c2", "find", "{"), message_id="a1"),
        Message(id="r1", role="tool", content="found", tool_call_id="c1"),
        Message(id="r2", role="tool", content="not JSON", tool_call_id="c2", failed=True),
        user("and?", "u2"),
    ]

    body = sent(history)

    assert chat_refusal(body) is None
    assert body["messages"] == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": "find it"},
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a":1}'}},
                {"id": "c2", "type": "function", "function": {"name": "find", "arguments": '{"unreadable":"{"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "tool", "tool_call_id": "c2", "content": f"{FAILED}not JSON"},
        {"role": "user", "content": "and?"},
    ]
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert body["max_tokens"] == 100
    assert sent(history, Target(model="gpt-4o", provider=OPENAI))["max_completion_tokens"] == 100


def test_what_another_model_thought_is_not_sent() -> None:
    blocks = (
        {"type": "thinking", "thinking": "a secret thought", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "Hello."},
    )
    told = assistant("Hello.", blocks=blocks, model="claude-haiku-5-5")

    # Also where a gateway serves a model of the same name.
    body = sent([user(), told, user("more", "u2")], Target(model="claude-haiku-5-5", provider=OPENAI))

    assert body["messages"][2] == {"role": "assistant", "content": "Hello."}
    assert "thought" not in orjson.dumps(body).decode()


def test_images_are_sent_where_they_are_read_and_named_where_they_are_not() -> None:
    image = {"type": "image", "source": {"type": "data", "value": b64(png()), "mimeType": "image/png"}}
    document = {"type": "document", "source": {"type": "data", "value": b64(pdf()), "mimeType": "application/pdf"}}
    words = {"type": "document", "source": {"type": "data", "value": b64(b"a,b"), "mimeType": "text/plain"}}
    history = [user([{"type": "text", "text": "see"}, image, document, words])]

    shown = sent(history)["messages"][1]["content"]
    named = sent(history, Target(model="llama", provider=OPENAI, base_url="http://x", images=False))["messages"][1]

    assert shown == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(png())}"}},
        {"type": "text", "text": NOT_SHOWN},
        {"type": "text", "text": "a,b"},
    ]
    assert named["content"] == f"see\n{NOT_SHOWN}\n{NOT_SHOWN}\na,b"


def test_an_answer_is_not_continued_but_gone_on_from() -> None:
    assert sent([user(), assistant("Half an")])["messages"][-1] == {"role": "user", "content": GO_ON}


def test_ids_that_are_too_long_are_shortened_alike() -> None:
    long = "c" * 64
    calling = [user(), assistant("", ToolCall(long, "find", "{}")), Message(id="r", role="tool", tool_call_id=long)]

    _, _, said, result = sent(calling)["messages"]

    assert said["tool_calls"][0]["id"] == result["tool_call_id"]
    assert len(result["tool_call_id"]) <= 40

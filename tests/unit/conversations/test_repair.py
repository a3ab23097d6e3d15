"""Any stored conversation is repaired into one that the Messages API accepts: random ones, and each fault alone.

An ordinary run tries 6,000 random ones; `--histories` tries more or fewer. A failure names the
seed that repeats it.
"""

import random
from typing import Any

import orjson
import pytest

from karma.conversations.domain import Message, ToolCall
from karma.conversations.repair import GREETED, UNANSWERED, repair, shown_name
from karma.conversations.stored import dump_messages, load_messages
from karma.core.freeform import MAX_LEVELS
from karma.integrations.anthropic import AnthropicModel
from karma.integrations.anthropic_messages import GO_ON, to_messages
from karma.integrations.openai_messages import to_chat
from karma.models.domain import Target
from karma.models.ports import ModelRequest, ToolSpec
from local.messages_api.rules import refusal
from tests.support.histories import random_history
from tests.support.media import b64, png

MODEL = "claude-haiku-5-5"


def body_of(history: list[Message]) -> dict[str, Any]:
    asked = ModelRequest(
        target=Target(model=MODEL),
        system=["Be brief.", " "],
        messages=repair(history),
        tools=[ToolSpec("find", "Find", {"type": "object", "properties": {}})],
        max_tokens=100,
    )
    return AnthropicModel(secret_arn="")._arguments(asked)


def user(content: Any = "hi", message_id: str = "u") -> Message:
    return Message(id=message_id, role="user", content=content)


def assistant(content: str = "", *calls: ToolCall, message_id: str = "a", **more: Any) -> Message:
    return Message(id=message_id, role="assistant", content=content, tool_calls=calls, **more)


def result(call_id: str, content: Any = "{}", message_id: str = "r") -> Message:
    return Message(id=message_id, role="tool", content=content, tool_call_id=call_id)


@pytest.mark.fault("F-01b")
def test_no_random_history_is_refused(request: pytest.FixtureRequest, seed: int) -> None:
    count = request.config.getoption("histories")
    seed = request.config.getoption("histories_seed") or seed
    sendable = 0
    for n in range(count):
        history = random_history(random.Random(seed + n))
        stored = load_messages(dump_messages(history))
        body = body_of(stored)
        if not body["messages"]:
            assert not any(message.role == "user" and not is_blank(message) for message in stored)
            continue
        sendable += 1
        assert refusal(body) is None, f"--histories 1 --histories-seed {seed + n}: {refusal(body)}"
    assert sendable > count * 0.8


def is_blank(message: Message) -> bool:
    if isinstance(message.content, str):
        return not message.content.strip()
    return all(part["type"] == "text" and not str(part["text"]).strip() for part in message.content)


@pytest.mark.fault("F-01b")
@pytest.mark.parametrize(
    ("history", "roles"),
    [
        ([assistant("Hello, I am Karma."), user()], ["user", "assistant", "user"]),
        ([user(), assistant(" \n"), user("and?")], ["user"]),
        ([user(" "), user("hi")], ["user"]),
        ([result("c"), user()], ["user"]),
        ([user(), assistant("", ToolCall("c", "find", "")), user()], ["user", "assistant", "user"]),
        ([user(), assistant("never answered")], ["user", "assistant", "user"]),
    ],
)
def test_a_conversation_is_put_into_the_order_that_models_take(history: list[Message], roles: list[str]) -> None:
    body = body_of(history)

    assert refusal(body) is None
    assert [each["role"] for each in body["messages"]] == roles


@pytest.mark.fault("F-01b")
def test_a_message_that_stands_in_for_a_missing_one_says_so() -> None:
    first, *_, last = body_of([assistant("Hello."), user(), assistant("Bye.")])["messages"]
    (open_call,) = [m for m in repair([user(), assistant("", ToolCall("c", "find", ""))]) if m.role == "tool"]

    assert first["content"] == [{"type": "text", "text": GREETED}]
    assert last["content"] == [{"type": "text", "text": GO_ON}]
    assert (open_call.content, open_call.failed) == (UNANSWERED, True)


@pytest.mark.fault("F-01b")
def test_results_follow_their_calls_in_their_order_wherever_they_stand() -> None:
    calls = (ToolCall("c1", "find", ""), ToolCall("c2", "find", ""), ToolCall("c3", "find", ""))
    history = [user(), result("c3", "3"), assistant("", *calls), result("c2", "2"), user("and?"), result("c1", "1")]

    repaired = repair([*history, result("c1", "again"), result("c4", "nobody asked")])

    assert [m.content for m in repaired if m.role == "tool"] == ["1", "2", "3"]
    assert [m.role for m in repaired] == ["user", "assistant", "tool", "tool", "tool", "user"]


@pytest.mark.fault("F-01b")
def test_ids_that_a_gateway_uses_again_become_ones_of_their_own_and_keep_their_results() -> None:
    history = [
        message
        for n in range(3)
        for message in (
            user(message_id=f"u{n}"),
            assistant("", ToolCall("functions.find:0", "find", f'{{"n":{n}}}'), message_id=f"a{n}"),
            result("functions.find:0", str(n), message_id=f"r{n}"),
        )
    ]

    repaired = repair(history)

    ids = [m.tool_calls[0].id for m in repaired if m.tool_calls]
    assert len(set(ids)) == 3
    assert [(m.tool_call_id, m.content) for m in repaired if m.role == "tool"] == list(zip(ids, "012", strict=True))
    assert repaired == repair(history)  # the same each time, for the model's cache


@pytest.mark.fault("F-01b")
@pytest.mark.parametrize("name", ["functions.find", "srv.find", "find<|channel|>x", "f" * 65, "é", ""])
def test_a_call_of_a_name_that_no_api_takes_is_shown_under_one_like_it_with_its_result(name: str) -> None:
    block = {"type": "tool_use", "id": "c", "name": name, "input": {"a": 1}}
    call = ToolCall("c", name, '{"a":1}')
    answers = [assistant("", call, blocks=blocks, model=MODEL) for blocks in ((), (block,))]
    for said in answers:
        history = [user(), said, result("c", '{"error":"Unknown tool"}')]

        body = body_of(history)
        _, asked, told = to_chat([], repair(history), images=False)

        assert refusal(body) is None
        (made,), (answered,) = (each["content"] for each in body["messages"][1:])
        assert (made["input"], answered["content"]) == ({"a": 1}, '{"error":"Unknown tool"}')
        shown: Any = asked["tool_calls"]
        assert made["name"] == shown[0]["function"]["name"] == shown_name(name)
        assert "Unknown tool" in str(told["content"])


def test_a_conversation_in_order_is_sent_as_it_is() -> None:
    blocks = (
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Looking."},
        {"type": "tool_use", "id": "c", "name": "find", "input": {"a": 1}},
    )
    history = [
        user([{"type": "text", "text": "hi"}, {"type": "image", "source": data(b64(png()), "image/png")}]),
        assistant("Looking.", ToolCall("c", "find", '{"a":1}'), blocks=blocks, model=MODEL),
        result("c", "found"),
    ]

    assert repair(history) == history
    one, two, three = to_messages(history, model=MODEL)
    assert two == {"role": "assistant", "content": list(blocks)}
    assert three["content"] == [{"type": "tool_result", "tool_use_id": "c", "content": "found"}]
    assert refusal(body_of(history)) is None
    assert len(one["content"]) == 2  # type: ignore[arg-type]


@pytest.mark.fault("F-08a")
@pytest.mark.parametrize("levels", [MAX_LEVELS, MAX_LEVELS + 1, 1_000, 2_000])
def test_an_argument_of_more_than_64_levels_is_shown_as_the_text_that_it_was(levels: int) -> None:
    text = '{"a":' + "[" * levels + "]" * levels + "}"

    body = body_of([user(), assistant("", ToolCall("c", "find", text)), result("c")])

    (call,) = [block for message in body["messages"] for block in message["content"] if block["type"] == "tool_use"]
    assert call["input"] == ({"unreadable": text} if levels > MAX_LEVELS else orjson.loads(text))
    assert orjson.dumps(body)


@pytest.mark.fault("F-01a")
@pytest.mark.parametrize("media_type", ["image/heic", "image/svg+xml", "image/jpg", "application/pdf"])
def test_a_stored_attachment_that_the_model_does_not_take_becomes_a_text_that_says_so(media_type: str) -> None:
    part = {"type": "image", "source": data(b64(b"<svg/>"), media_type)}

    body = body_of([user([part])])

    assert refusal(body) is None
    assert "cannot be shown" in body["messages"][0]["content"][0]["text"]


@pytest.mark.fault("F-01a")
def test_of_many_images_the_newest_are_sent() -> None:
    part = {"type": "image", "source": data(b64(png(2001, 1)), "image/png")}

    body = body_of([user([{**part}], f"u{n}") for n in range(25)])

    assert refusal(body) is None
    kinds = [block["type"] for block in body["messages"][0]["content"]]
    assert kinds == ["text"] * 5 + ["image"] * 20


def data(value: str, media_type: str) -> dict[str, Any]:
    return {"type": "data", "mimeType": media_type, "value": value}

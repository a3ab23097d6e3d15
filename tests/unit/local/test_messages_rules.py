"""The rules of the Messages API that our model servers enforce: requests that hold, and one for each broken rule."""

from typing import Any

import pytest

from local.messages_api.front import refused
from local.messages_api.rules import refusal
from tests.support.media import IMAGES, b64, gif, jpeg, pdf, png

pytestmark = pytest.mark.fault("F-01d")

HI = {"role": "user", "content": "hi"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "none"}
TOOL = {"name": "find", "input_schema": {"type": "object", "properties": {}}}


def request(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "claude-haiku-5-5", "max_tokens": 100, "messages": list(messages or (HI,)), **more}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(said: str = "hi") -> dict[str, Any]:
    return {"type": "text", "text": said}


def image(data: str, media_type: str = "image/png") -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def document(data: object, kind: str = "base64", media_type: str = "application/pdf") -> dict[str, Any]:
    return {"type": "document", "source": {"type": kind, "media_type": media_type, "data": data}}


@pytest.mark.parametrize(
    "taken",
    [
        request(system=[text()], tools=[TOOL], stream=True, cache_control={"type": "ephemeral"}),
        request(HI, assistant(text(), CALL), user(RESULT, text("and?"))),
        request(HI, HI, assistant(CALL), assistant({**CALL, "id": "t"}), user(RESULT, {**RESULT, "tool_use_id": "t"})),
        request(HI, assistant({"type": "thinking", "thinking": "", "signature": "s"}, text()), HI),
        request(user(*(image(b64(make()), kind) for kind, make in IMAGES.items()), document(b64(pdf())))),
        request(user(document("a,b", "text", "text/plain"), image(b64(png(8000, 1))))),
        request(HI, assistant(CALL), user({**RESULT, "content": [text(), image(b64(png()))], "is_error": True})),
    ],
)  # fmt: skip
def test_a_request_that_the_api_accepts_is_accepted(taken: dict[str, Any]) -> None:
    assert refusal(taken) is None


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ([], "should be an object"),
        ({"messages": [HI], "max_tokens": 1}, "model: Field required"),
        (request(model=""), "model: must be a non-empty string"),
        (request(max_tokens=True), "max_tokens"),
        (request(max_tokens=-1), "max_tokens"),
        (request(stream=1), "stream: must be a boolean"),
        (request(temperature=1), "temperature: Extra inputs"),
        (request(system=7), "system: must be a string or a list"),
        (request(system="  "), "system: text content blocks must contain non-whitespace"),
        (request(system=[text("")]), "must be non-empty"),
        (request(thinking={"type": "much"}), "thinking.type"),
        ({**request(), "messages": {}}, "messages: Input should be a valid list"),
        ({**request(), "messages": []}, "at least one message"),
        ({**request(), "messages": [HI] * 100_001}, "at most 100000"),
        (request({**HI, "id": "m1"}), "messages.0.id: Extra inputs"),
        (request({"role": "tool", "content": "x"}), "role"),
        (request(assistant(text()), HI), "first message must use the user role"),
        (request(HI, assistant(text())), "must end with a user message"),
        (request(user()), "non-empty content"),
        (request({"role": "user", "content": " \n"}), "non-whitespace"),
        (request({"role": "user", "content": 7}), "content: must be a string or a list"),
        (request(user(text("")), HI), "must be non-empty"),
        (request(user({"type": "text", "text": 7})), "text: Input should be a valid string"),
        (request(user({**text(), "citations": [{}]})), "citations: not taken"),
        (request(HI, assistant(text(" ")), HI), "non-whitespace"),
        (request(user(text("\ud800"))), "not valid UTF-8"),
        (request(user(CALL)), "tool_use is not taken in user content"),
        (request(HI, assistant(document(b64(pdf()))), HI), "document is not taken in assistant content"),
        (request(HI, assistant(RESULT), HI), "tool_result is not taken in assistant content"),
        (request(user({"type": "novelty"})), "novelty is not taken"),
        (request(HI, assistant({**CALL, "text": "x"}), user(RESULT)), "Extra inputs"),
        (request(HI, assistant(CALL), HI), "without `tool_result` blocks immediately after"),
        (request(HI, assistant(CALL), user(RESULT, RESULT)), "single result"),
        (request(HI, assistant(CALL), user({"type": "tool_result"})), "tool_use_id: Field required"),
        (request(HI, assistant(CALL), user({**RESULT, "is_error": "no"})), "is_error: must be a boolean"),
        (request(user(RESULT)), "unexpected `tool_use_id`"),
        (request(HI, assistant(text()), user(RESULT)), "unexpected `tool_use_id`"),
        (request(HI, assistant(CALL), user(text(), RESULT)), "must come first"),
        (request(HI, assistant(CALL, CALL), user(RESULT)), "unique"),
        (request(HI, assistant(CALL), user(RESULT), assistant(CALL), user(RESULT)), "unique"),
        (request(HI, assistant({**CALL, "id": "a.b"}), user({**RESULT, "tool_use_id": "a.b"})), "tool_use.id"),
        (request(HI, assistant({**CALL, "name": "find it"}), user(RESULT)), "tool_use.name"),
        (request(HI, assistant({**CALL, "input": "{}"}), user(RESULT)), "valid dictionary"),
        (request(HI, assistant(CALL), user({**RESULT, "content": [text("")]})), "non-empty"),
        (request(HI, assistant({"type": "thinking", "thinking": "x"}), HI), "signature"),
        (request(HI, assistant({"type": "thinking", "signature": "s"}), HI), "thinking.thinking: Field required"),
        (request(HI, assistant({"type": "redacted_thinking", "data": ""}), HI), "data: Field required"),
        (request(user({"type": "image", "source": {"type": "file"}})), "type: must be base64 or url"),
        (request(user(image(""))), "data: Field required"),
        (request(user(image(b64(png()), "image/heic"))), "media_type"),
        (request(user(image(b64(png()), "image/jpg"))), "media_type"),
        (request(user(image(b64(jpeg()), "image/png"))), "appears to be image/jpeg"),
        (request(user(image("data:image/png;base64," + b64(png())))), "base64"),
        (request(user(image(b64(png())[:-6]))), "base64"),
        (request(user(image(b64(png()[:-20])))), "Could not process image"),
        (request(user(image(b64(gif()[:-1]), "image/gif"))), "Could not process image"),
        (request(user(image(b64(b"<svg/>")))), "Could not process image"),
        (request(user(image(b64(png(8001, 1))))), "8000 pixels"),
        (request(user(*[image(b64(png(2001, 1)))] * 21)), "2000 pixels"),
        (request(user(*[image(b64(png()))] * 101)), "at most 100 images"),
        (request(user(image("A" * (5 * 2**20 + 4)))), "5 MB"),
        (request(user({"type": "image", "source": {"type": "url", "url": "http://example.com/a.png"}})), "HTTPS"),
        (request(user(document(b64(b"a,b"), media_type="text/csv"))), "application/pdf"),
        (request(user(document(b64(b"a,b")))), "not valid"),
        (request(user(document(" ", "text", "text/plain"))), "non-whitespace"),
        (request(user(document("a,b", "text", "text/csv"))), "must be text/plain"),
        (request(user({"type": "document", "source": {"type": "url", "url": "http://example.com/a.pdf"}})), "HTTPS"),
        (request(user({"type": "document", "source": {"type": "file"}})), "type: must be base64, text or url"),
        (request(tools={}), "tools: Input should be a valid list"),
        (request(tools=[TOOL, TOOL]), "unique"),
        (request(tools=[{**TOOL, "name": "find it"}]), "name"),
        (request(tools=[{**TOOL, "description": 7}]), "description: must be a string"),
        (request(tools=[{**TOOL, "parameters": {}}]), "Extra inputs"),
        (request(tools=[{**TOOL, "input_schema": {}}]), "input_schema.type"),
        (request(tools=[{**TOOL, "input_schema": {"type": "object", "oneOf": []}}]), "top level"),
        (request(tools=[{**TOOL, "input_schema": {"type": "object", "properties": []}}]), "properties: must be"),
        (request(tools=[{**TOOL, "input_schema": {"type": "object", "required": "a"}}]), "required: must be a list"),
    ],
)  # fmt: skip
def test_each_rule_is_enforced_and_named(broken: object, why: str) -> None:
    message = refusal(broken)

    assert message is not None
    assert why in message


def test_what_is_not_json_and_what_is_too_large_is_refused_too() -> None:
    assert b"not valid JSON" in (refused(b"{") or b"")
    assert "request_too_large" in (refusal(request(), size=32 * 2**20 + 1) or "")

"""`POST /chat` of the streaming function in process: real SDK, real DynamoDB calls."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from karma.core.clock import monotonic
from karma.core.ids import new_id
from tests.integration.agent_stream.conftest import Streams
from tests.integration.agent_stream.test_background_runs import careful
from tests.support.asgi import Exchange
from tests.support.model_server import message, text, tool_use

AGIO, OURS = "/api/chat", "/api/v1/chat"
HELLO: dict[str, Any] = {"agent_id": "karma", "message": "Hello"}
HI = message(text("Hi ", "there"), usage={"input_tokens": 10}, output_tokens=5)


def ask(streams: Streams, path: str = AGIO, *, key: str = "", **more: Any) -> Exchange:
    headers = {"idempotency-key": key} if key else {}
    return streams.run(streams.make("POST", path, body={**HELLO, **more}, headers=headers))


def events_of(answer: Exchange) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in answer.data.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if lines:
            found.append((lines["event"], orjson.loads(lines["data"])))
    return found


@pytest.mark.req("R-A-08", "R-A-09", "R-A-10", "R-A-11", "R-A-13")
@pytest.mark.parametrize("path", [AGIO, OURS])
def test_the_pieces_of_a_stream_are_the_whole_answer(streams: Streams, path: str) -> None:
    streams.model.answer(HI)
    answer = ask(streams, path)

    assert (answer.status, answer.answer_headers["content-type"]) == (200, "text/event-stream")
    assert answer.answer_headers["x-accel-buffering"] == "no"
    events = events_of(answer)
    assert [name for name, _ in events] == [
        "run_started",
        "step_started",
        "content_delta",
        "content_delta",
        "run_completed",
    ]
    pieces = "".join(data["content"] for name, data in events if name == "content_delta")
    streams.model.answer(HI)
    whole = ask(streams, path, stream=False)
    told = whole.json if path == AGIO else whole.json["data"]
    assert (whole.status, told["response"], told["metrics"]["total_tokens"]) == (200, pieces, 15)
    assert events[-1][1]["response"] == pieces == "Hi there"
    assert events[0][1]["run_id"] == events[-1][1]["run_id"] != told["run_id"]


@pytest.mark.req("R-A-14")
@pytest.mark.parametrize("path", [AGIO, OURS])
def test_an_agent_that_nobody_has_is_named_in_both_forms(streams: Streams, path: str) -> None:
    streamed, whole = ask(streams, path, agent_id="nobody"), ask(streams, path, agent_id="nobody", stream=False)

    ((name, data),) = events_of(streamed)
    assert (streamed.status, name, data["code"]) == (200, "error", "NOT_FOUND")
    assert "nobody" in data["error"]
    assert whole.status == 404
    assert "nobody" in whole.json["error"]["message"]
    assert streams.items() == []


@pytest.mark.req("R-A-14")
def test_a_failure_behind_the_first_byte_is_an_event_and_a_status_where_none_was_sent(streams: Streams) -> None:
    streams.model.fail(400, "invalid_request_error")
    name, data = events_of(ask(streams))[-1]
    assert (name, data["code"]) == ("error", "MODEL_REJECTED")

    streams.model.fail(400, "invalid_request_error")
    whole = ask(streams, OURS, stream=False)
    assert (whole.status, whole.json["error"]["code"]) == (502, "MODEL_REJECTED")
    assert whole.json["error"]["details"]["run_id"]
    assert b"invalid_request_error" not in whole.data


def test_a_session_is_a_thread_that_is_gone_on_with(streams: Streams) -> None:
    session = new_id()
    for _ in range(2):
        streams.model.answer(HI)
        assert ask(streams, session_id=session, message="Hello", stream=False).status == 200
    assert [each["role"] for each in streams.model.requests[-1]["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("session", ["s1", None])
def test_a_repeat_with_its_key_gets_the_answer_that_there_is(streams: Streams, session: str | None) -> None:
    streams.model.answer(HI)
    key = new_id()
    first = ask(streams, key=key, session_id=session, stream=False)
    again = ask(streams, key=key, session_id=session, stream=False)
    streamed = events_of(ask(streams, key=key, session_id=session))
    other = ask(streams, key=key, session_id=session, message="Something else", stream=False)

    assert first.json["response"] == again.json["response"] == "Hi there"
    assert {first.json["run_id"], again.json["run_id"], streamed[-1][1]["run_id"]} == {first.json["run_id"]}
    assert "".join(data["content"] for name, data in streamed if name == "content_delta") == "Hi there"
    assert other.status == 409
    assert len(streams.model.requests) == 1


@pytest.mark.req("R-A-43")
def test_the_eleventh_chat_of_a_minute_from_one_address_is_refused(streams: Streams) -> None:
    began, passed = monotonic(), 0
    while (status := ask(streams, agent_id="nobody", stream=False).status) == 404 and passed < 100:
        passed += 1
    assert status == 429
    assert 10 <= passed <= 10 + (monotonic() - began) / 6 + 1, "a request comes back each six seconds"


def test_a_whole_answer_that_takes_long_is_kept_alive(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent_stream import chat

    monkeypatch.setattr(chat, "_SILENT_S", 0.0)
    monkeypatch.setattr(chat, "_SIGN_EVERY_S", 0.05)
    streams.model.answer(HI)
    answer = ask(streams, stream=False)
    assert answer.status == 200
    assert answer.data.startswith(b"\n")
    assert orjson.loads(answer.data)["response"] == "Hi there"


@pytest.mark.parametrize("key", ["\u00fc", "k" * 256])
def test_a_key_that_is_none_is_refused(streams: Streams, key: str) -> None:
    answer = ask(streams, OURS, key=key)
    assert (answer.status, answer.json["error"]["code"]) == (400, "INVALID_IDEMPOTENCY_KEY")


def test_a_run_that_asks_its_user_is_no_failure_of_ours(streams: Streams) -> None:
    agent = careful()
    call = tool_use("c1", "controlDevice", orjson.dumps({"device_id": new_id(), "command": "move"}).decode())
    streams.model.answer(message(text("May I?"), call, stop_reason="tool_use"))
    whole = ask(streams, OURS, agent_id=agent.id, message="Move.", stream=False)
    error = whole.json["error"]
    assert (whole.status, error["code"], error["details"]["status"]) == (409, "INTERRUPTED", "interrupted")
    (question,) = error["details"]["interrupts"]
    assert question["metadata"]["toolName"] == "controlDevice"
    assert error["details"]["response"] == "May I?"

    streams.model.answer(message(call, stop_reason="tool_use"))
    name, data = events_of(ask(streams, AGIO, agent_id=agent.id, message="Move."))[-1]
    assert (name, data["code"]) == ("error", "INTERRUPTED")
    assert [each["reason"] for each in data["interrupts"]] == [question["reason"]]

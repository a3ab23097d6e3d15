"""`POST /llm/messages` of the streaming function in process: real SDK, real DynamoDB calls."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import orjson
import pytest

from karma.billing.allowances import Metric
from karma.billing.plans import PlanName
from karma.billing.repository.usage import UsageRepository
from karma.identity.domain import Role
from karma.models.domain import Target, Usage
from karma.models.prices import cost
from tests.integration.agent_stream.conftest import Streams, add_user
from tests.support.asgi import Exchange
from tests.support.faulty_server import FaultyServer, stream
from tests.support.model_server import message, text, tool_use
from tests.support.plans import allowance

PATH = "/api/v1/llm/messages"
HELLO = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}


def call(streams: Streams, **more: Any) -> Exchange:
    return streams.run(streams.make("POST", PATH, body={**HELLO, **more}))


def used(streams: Streams) -> int:
    from agent_stream import services

    now = services.clock().now()
    found = UsageRepository().read(allowance(streams.user_id, PlanName.FREE, at=now))
    return next(each.used for each in found if each.metric is Metric.MODEL_SPEND)


def frames(data: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(block[6:]) for block in data.split(b"\n\n") if block.startswith(b"data: ")]


@pytest.mark.req("R-C-28")
def test_a_call_is_answered_as_a_whole_and_counts_in_the_plan(streams: Streams) -> None:
    streams.model.answer(message(text("Hel", "lo"), usage={"input_tokens": 1000}, output_tokens=50))

    answer = call(streams, system="Be brief.")

    assert answer.status == 200
    data = answer.json["data"]
    assert (data["content"], data["stop_reason"], data["model"]) == ("Hello", "end", "claude-haiku-5-5")
    from agent_stream import services

    target = Target(model="claude-haiku-5-5")
    assert used(streams) == data["cost_micros"] == cost(Usage(1000, 50), target, services.clock().now())
    (sent,) = streams.model.requests
    assert [each["text"] for each in sent["system"]] == ["Be brief."]
    assert sent["max_tokens"] == 100
    assert streams.items() == []


@pytest.mark.req("R-C-28")
def test_a_call_is_streamed_in_pieces(streams: Streams) -> None:
    streams.model.answer(message(text("Hel", "lo"), tool_use("c1", "find", '{"a"', ":1}"), stop_reason="tool_use"))

    answer = call(streams, stream=True, tools=[{"name": "find", "description": "Find"}])

    assert answer.answer_headers["content-type"] == "text/event-stream"
    assert answer.answer_headers["x-accel-buffering"] == "no"
    *pieces, last = frames(answer.data)
    assert pieces == [
        {"type": "text", "delta": "Hel"},
        {"type": "text", "delta": "lo"},
        {"type": "tool_call", "id": "c1", "name": "find"},
        {"type": "tool_call_arguments", "id": "c1", "delta": '{"a"'},
        {"type": "tool_call_arguments", "id": "c1", "delta": ":1}"},
        {"type": "tool_call_end", "id": "c1"},
    ]
    assert (last["type"], last["content"], last["stop_reason"]) == ("end", "Hello", "tool_use")
    assert last["tool_calls"] == [{"id": "c1", "name": "find", "arguments": '{"a":1}'}]
    assert used(streams) == last["cost_micros"] > 0


def test_a_frame_of_an_error_tells_when_to_come_back_as_the_header_does(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("karma.runs.direct.PATIENCE_S", 0.0)
    streams.model.fail(529, "overloaded_error", times=20)
    (error,) = frames(call(streams, stream=True).data)
    assert (error["code"], error["retryable"], error["retry_after_s"]) == ("MODEL_OVERLOADED", True, 1)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_failure_tells_its_code_and_nothing_of_the_provider(streams: Streams, is_streamed: bool) -> None:
    streams.model.fail(400, "invalid_request_error")

    answer = call(streams, stream=is_streamed)

    if is_streamed:
        (error,) = frames(answer.data)
        assert error["type"] == "error"
    else:
        assert answer.status == 400
        error = answer.json["error"]
    assert error["code"] == "MODEL_REJECTED"
    assert b"secret" not in answer.data
    assert used(streams) == 0


def test_a_wrong_body_is_refused_before_anything_is_taken(streams: Streams) -> None:
    answer = call(streams, max_tokens=0, temperature=1)

    assert answer.status == 422
    assert {each["field"] for each in answer.json["error"]["details"]} == {"max_tokens", "temperature"}
    assert (used(streams), streams.model.requests) == (0, [])


def test_what_the_plan_does_not_cover_is_refused(streams: Streams) -> None:
    # 64,000 tokens of the dearest model cost more than the free plan's month.
    answer = call(streams, model="claude-mythos-5-2", max_tokens=64_000)

    assert (answer.status, answer.json["error"]["code"]) == (402, "QUOTA_EXCEEDED")
    assert (used(streams), streams.model.requests) == (0, [])


def test_a_model_that_is_not_configured_is_named(streams: Streams) -> None:
    answer = call(streams, model="gpt-9")

    assert (answer.status, answer.json["error"]["code"]) == (409, "COMPONENT_UNAVAILABLE")


def test_who_only_reads_calls_no_model(streams: Streams) -> None:
    _, token = add_user(streams.stack, Role.VIEWER)

    answer = streams.run(streams.make("POST", PATH, body=HELLO, headers={"authorization": f"Bearer {token}"}))

    assert answer.status == 403


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_client_that_leaves_ends_its_call(streams: Streams, is_streamed: bool) -> None:
    """The connection to the model is closed, and the call counts as dear as it may have been."""
    with FaultyServer() as server:
        asked = threading.Event()
        holding = server.hold(stream(*message(text("Hel", "lo"))[:4], end=lambda _: asked.set()))
        server.next(holding)
        streams.stack.use("agent_stream", MODEL_BASE_URL=server.url, MODEL_ID="claude-haiku-5-5")
        request = streams.make("POST", PATH, body={**HELLO, "stream": is_streamed})

        async def leave() -> None:
            from agent_stream.app import app

            serving = asyncio.create_task(request.run(app))
            assert await asyncio.to_thread(asked.wait, 10)
            request.left.set()
            await asyncio.wait_for(serving, 10)
            assert await asyncio.to_thread(server.has_left.wait, 10)

        streams.serve(leave())

    assert used(streams) > 0

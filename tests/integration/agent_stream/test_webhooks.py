"""A run that the streaming function executes, and whoever else ends one: its end comes to a receiver, signed, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from tests.integration.agent_stream.conftest import Background, Streams
from tests.integration.agent_stream.test_app import hello
from tests.support.model_server import message, text
from tests.support.stack import Context, Drain, HttpEvent, SqsEvent
from tests.support.webhook_receiver import receiver

Records = list[dict[str, Any]]


@pytest.mark.parametrize("ends", ["finished", "failed"])
def test_a_real_run_s_end_comes_to_the_receiver(
    streams: Streams,
    http_event: HttpEvent,
    lambda_context: Context,
    sqs_event: SqsEvent,
    drain: Drain,
    streamed: Callable[[], Records],
    ends: str,
) -> None:
    from api.handler import lambda_handler as api
    from background.events import lambda_handler as events
    from background.webhooks import lambda_handler as deliver

    stack, headers = streams.stack, {"authorization": f"Bearer {streams.token}"}
    with receiver() as server:
        stack.use("api")
        sent = http_event("POST", "/api/v1/webhooks", body={"url": f"{server.url}/ok"}, headers=headers)
        made = json.loads(api(sent, lambda_context)["body"])["data"]
        stack.use("agent_stream", MODEL_BASE_URL=streams.model.url, MODEL_ID="claude-haiku-5-5")
        if ends == "finished":
            streams.model.answer(message(text("Hello, secret words")))
        else:
            streams.model.fail(400, "invalid_request_error")
        body = hello()
        assert streams.run(streams.agent(body)).status == 200
        stack.use("events")
        assert events({"Records": streamed()}, lambda_context) == {"batchItemFailures": []}
        stack.use("webhooks")
        for queued in drain(stack.queues["webhooks"]):
            assert deliver(sqs_event([queued]), lambda_context) == {"batchItemFailures": []}
        [got] = server.got
    told = Verifier(made["secret"]).verify(got.body, got.headers)
    assert (told["type"], told["data"]["status"]) == (f"run.{ends}", ends)
    assert (told["data"]["run_id"], told["data"]["thread_id"]) == (body["runId"], body["threadId"])
    assert (told["data"]["error_code"] is None) is (ends == "finished")
    assert "secret words" not in got.body.decode()


@pytest.mark.parametrize("ends", ["finished", "failed", "cancelled"])
def test_a_background_run_s_end_comes_to_its_own_address(
    background: Background,
    lambda_context: Context,
    sqs_event: SqsEvent,
    drain: Drain,
    streamed: Callable[[], Records],
    ends: str,
) -> None:
    from background.events import lambda_handler as events
    from background.webhooks import lambda_handler as deliver

    stack, model = background.streams.stack, background.streams.model
    with receiver() as server:
        secret = background.call("POST", "/api/v1/webhooks/default/rotate-secret")[1]["secret"]
        asked = {"message": "Hello", "webhook": f"{server.url}/ok?token=t"}
        run_id = background.call("POST", "/api/v1/runs", asked)[1]["run"]["id"]
        if ends == "cancelled":
            assert background.call("POST", f"/api/v1/runs/{run_id}/cancel", {})[0] == 200
        elif ends == "finished":
            model.answer(message(text("Hello")))
        else:
            model.fail(400, "invalid_request_error")
        if ends != "cancelled":
            background.execute()
        records = streamed()
        stack.use("events")
        for _ in range(2):
            assert events({"Records": records}, lambda_context) == {"batchItemFailures": []}
        stack.use("webhooks")
        for queued in drain(stack.queues["webhooks"]):
            assert deliver(sqs_event([queued]), lambda_context) == {"batchItemFailures": []}
        [got] = server.got
    told = Verifier(secret).verify(got.body, got.headers)
    assert (got.path, told["type"], told["data"]["run_id"]) == ("/ok?token=t", f"run.{ends}", run_id)

"""The API's function controls runs that the stream's function executes: their real handlers, on one set of tables."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.core.ids import RunId, new_id
from karma.runs.domain import RunKey, RunStatus
from karma.runs.wishes import Wish
from tests.contexts.runs import begin
from tests.fakes.runs import events_of
from tests.integration.agent_stream.conftest import Streams
from tests.integration.agent_stream.test_app import hello
from tests.support.agui import verify
from tests.support.asgi import Exchange
from tests.support.model_server import message, text
from tests.support.stack import Context, Drain, HttpEvent, SqsEvent


class Control:
    """The API's function beside the stream's, in one process that has the variables of both."""

    def __init__(self, streams: Streams, http_event: HttpEvent, context: Context) -> None:
        self.streams = streams
        self._event = http_event
        self._context = context
        stack = streams.stack
        more = {"MODEL_BASE_URL": streams.model.url, "MODEL_ID": "claude-haiku-5-5"}
        stack.use("agent_stream", **{**stack.environment("api"), **more})

    def call(self, method: str, path: str, body: object = None) -> Any:
        from api.handler import lambda_handler

        headers = {"authorization": f"Bearer {self.streams.token}"}
        return lambda_handler(self._event(method, path, body=body, headers=headers), self._context)

    def status(self, run_id: str) -> RunStatus:
        from agent_stream import services

        run = services.run_store().run(RunKey(self.streams.user_id, RunId(run_id)))
        assert run is not None
        return run.status


@pytest.fixture
def control(streams: Streams, http_event: HttpEvent, lambda_context: Context) -> Control:
    return Control(streams, http_event, lambda_context)


async def while_it_streams(control: Control, running: Exchange, path: str, body: object = None) -> tuple[int, float]:
    """Call the API while a run streams, and wait for its stream's end; return the call's status and the seconds."""
    from agent_stream.app import app

    serving = asyncio.create_task(running.run(app))
    await asyncio.wait_for(running.arrived.wait(), 10)
    asked_at = time.monotonic()
    answer = await asyncio.to_thread(control.call, "POST", path, body)
    await asyncio.wait_for(serving, 10)
    return answer["statusCode"], time.monotonic() - asked_at


@pytest.mark.req("R-A-18")
def test_a_run_that_streams_is_cancelled_within_a_second_and_its_model_is_let_go(control: Control) -> None:
    streams, hold = control.streams, threading.Event()
    streams.model.answer(message(text("Hel")), hold=hold)
    body = hello()
    running = streams.agent(body)

    answers: list[tuple[int, float]] = []

    async def work() -> None:
        try:
            path = f"/api/v1/runs/{body['runId']}/cancel"
            answers.append(await while_it_streams(control, running, path, {"reason": "enough"}))
        finally:
            hold.set()

    streams.serve(work())

    ((status, took),) = answers
    assert status == 202
    assert took < 3, "within a second on a machine that does nothing else"
    events = events_of(running.data)
    verify(events)
    assert events[-1]["outcome"] == {"type": "cancelled"}
    assert control.status(body["runId"]) is RunStatus.CANCELLED
    assert control.call("POST", f"/api/v1/runs/{body['runId']}/cancel")["statusCode"] == 200


@pytest.mark.req("R-A-18")
def test_a_run_that_streams_is_paused_and_goes_on_in_the_function_of_executions(
    control: Control, drain: Drain, sqs_event: SqsEvent, lambda_context: Context
) -> None:
    from agent_stream import execution, services

    streams, hold = control.streams, threading.Event()
    streams.model.answer(message(text("Hel")), hold=hold)
    streams.model.answer(message(text("Hello again.")))
    body = hello()
    running, run = streams.agent(body), f"/api/v1/runs/{body['runId']}"
    answers: list[tuple[int, float]] = []

    async def work() -> None:
        try:
            answers.append(await while_it_streams(control, running, f"{run}/pause"))
        finally:
            hold.set()

    streams.serve(work())

    ((status, _),) = answers
    assert status == 202
    events = events_of(running.data)
    verify(events, complete=False)
    assert events[-1]["name"] == "karma.run_paused"
    assert control.status(body["runId"]) is RunStatus.PAUSED

    assert control.call("POST", f"{run}/resume")["statusCode"] == 200
    (asked,) = drain(streams.stack.queues["executions"])
    with closing(execution.loop()) as loop:
        answer: Any = execution.lambda_handler(sqs_event([json.loads(asked["Body"])]), lambda_context)
        loop.run_until_complete(services.model().close())
    assert answer == {"batchItemFailures": []}

    assert control.status(body["runId"]) is RunStatus.FINISHED
    log = events_of(streams.run(streams.make("GET", f"{run}/events")).data)
    verify(log)
    assert [event["name"] for event in log if event["type"] == "CUSTOM"] == ["karma.run_paused", "karma.run_resumed"]
    deltas = [event["delta"] for event in log if event["type"] == "TEXT_MESSAGE_CONTENT"]
    assert "".join(deltas).endswith("Hello again.")


def test_a_lost_run_is_paused_by_the_function_of_executions(
    control: Control, sqs_event: SqsEvent, lambda_context: Context
) -> None:
    """Its process died before it heard of the wish."""
    from agent_stream import execution, services

    streams = control.streams
    key = begin(streams.user_id, new_id()).key
    services.run_store().wish(key, Wish.PAUSE, at=datetime.now(UTC))

    with closing(execution.loop()):
        told = {"user_id": key.user_id, "run_id": key.run_id}
        answer: Any = execution.lambda_handler(sqs_event([told]), lambda_context)

    assert answer == {"batchItemFailures": []}
    assert control.status(key.run_id) is RunStatus.PAUSED
    assert streams.model.requests == []

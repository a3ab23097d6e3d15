"""The API's function controls runs that the stream's function executes: their real handlers, on one set of tables."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from karma.core.ids import RunId
from karma.runs.domain import RunKey, RunStatus
from tests.fakes.runs import events_of
from tests.integration.agent_stream.conftest import Streams
from tests.integration.agent_stream.test_app import hello
from tests.support.agui import verify
from tests.support.model_server import message, text
from tests.support.stack import Context, HttpEvent


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


@pytest.mark.req("R-A-18")
def test_a_run_that_streams_is_cancelled_within_a_second_and_its_model_is_let_go(control: Control) -> None:
    streams, hold = control.streams, threading.Event()
    streams.model.answer(message(text("Hel")), hold=hold)
    body = hello()
    running = streams.agent(body)

    async def cancel() -> tuple[int, float]:
        from agent_stream.app import app

        serving = asyncio.create_task(running.run(app))
        await asyncio.wait_for(running.arrived.wait(), 10)
        path = f"/api/v1/runs/{body['runId']}/cancel"
        asked_at = time.monotonic()
        answer = await asyncio.to_thread(control.call, "POST", path, {"reason": "enough"})
        try:
            await asyncio.wait_for(serving, 10)
        finally:
            took = time.monotonic() - asked_at
            hold.set()
        return answer["statusCode"], took

    answers: list[tuple[int, float]] = []

    async def work() -> None:
        answers.append(await cancel())

    streams.serve(work())

    ((status, took),) = answers
    assert status == 202
    assert took < 3, "within a second on a machine that does nothing else"
    events = events_of(running.data)
    verify(events)
    assert events[-1]["outcome"] == {"type": "cancelled"}
    assert control.status(body["runId"]) is RunStatus.CANCELLED
    assert control.call("POST", f"/api/v1/runs/{body['runId']}/cancel")["statusCode"] == 200

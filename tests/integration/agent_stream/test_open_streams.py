"""One account has at most ten streams open, over all processes; what ends, is refused or dies frees its place."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from agent_stream import services
from agent_stream.app import app
from karma.core.ids import UserId, new_id
from karma.identity.limits import OPEN_STREAMS
from tests.integration.agent_stream.conftest import Streams
from tests.support.event_loop import nothing_blocks
from tests.support.media import b64, pdf
from tests.support.model_server import message, text

pytestmark = pytest.mark.fault("F-22b")


def body(**more: Any) -> dict[str, Any]:
    return {"threadId": new_id(), "runId": new_id(), "messages": [{"role": "user", "content": "Hello"}], **more}


def leave_free(streams: Streams, places: int, **more: timedelta) -> None:
    """Open streams in processes that die with them."""
    until = services.clock().now() + more.get("ending", timedelta(minutes=5))
    for _ in range(OPEN_STREAMS.places - places):
        services.open_streams().open(UserId(streams.user_id), until=until)


def test_the_last_place_goes_to_one_of_many_and_is_given_back(streams: Streams) -> None:
    leave_free(streams, 1)
    for _ in range(2):
        streams.model.answer(message(text("Hi")))
    asked = [streams.agent(body()) for _ in range(4)]

    async def at_once() -> None:
        with nothing_blocks():
            await asyncio.gather(*(request.run(app) for request in asked))

    streams.serve(at_once())
    refused = [request for request in asked if request.status == 429]
    assert sorted(request.status for request in asked) == [200, 429, 429, 429]
    for request in refused:
        assert 1 <= int(request.answer_headers["retry-after"]) <= 10
        assert request.json["error"]["details"]["limit"] == "open_streams"
    assert len([item for item in streams.items() if item["type"]["S"] == "run"]) == 1, "a refused run leaves nothing"
    assert streams.run(streams.agent(body())).status == 200


def test_attached_streams_count_and_pages_do_not(streams: Streams) -> None:
    streams.model.answer(message(text("Hi")))
    run = body()
    streams.run(streams.agent(run))
    events = f"/api/v1/runs/{run['runId']}/events"
    leave_free(streams, 1)
    for _ in range(2):  # each gives its place back
        assert streams.run(streams.make("GET", events)).status == 200
    leave_free(streams, OPEN_STREAMS.places - 1)
    refused = streams.run(streams.make("GET", events))
    assert (refused.status, refused.json["error"]["code"]) == (429, "RATE_LIMITED")
    assert streams.run(streams.make("GET", events, headers={"accept": "application/json"})).status == 200


@pytest.mark.fault("F-10d")
def test_head_takes_no_place(streams: Streams) -> None:
    streams.model.answer(message(text("Hi")))
    run = body()
    streams.run(streams.agent(run))
    leave_free(streams, 0)
    assert streams.run(streams.make("HEAD", f"/api/v1/runs/{run['runId']}/events")).status == 200


def test_a_run_that_is_refused_takes_no_place(streams: Streams) -> None:
    streams.model.answer(message(text("Hi")))
    run = body()
    streams.run(streams.agent(run))
    leave_free(streams, 1)
    other = {**run, "messages": [{"role": "user", "content": "Something else"}]}
    assert [streams.run(streams.agent(other)).status for _ in range(2)] == [409, 409]


def of_path(path: str, size: int) -> dict[str, Any]:
    """Return a body that is refused with 422 when it is read."""
    said = {"message": "x" * size} if path.endswith("chat") else {"messages": [{"role": "user", "content": "x" * size}]}
    return {**said, "system": 7, "tools": 7, "stream": "x"}


@pytest.mark.fault("F-25t")
@pytest.mark.parametrize("path", ["/api/agent", "/api/chat", "/api/v1/llm/messages"])
def test_a_body_that_takes_long_is_read_when_its_stream_is_counted(streams: Streams, path: str) -> None:
    costly = [of_path(path, 100_000), {**of_path(path, 1), "told": "JVBERi0xLjQ"}, {**of_path(path, 1), "told": "\x01"}]
    leave_free(streams, 1)
    for body_of in (*costly, of_path(path, 1)):  # each gives its place back
        assert streams.run(streams.make("POST", path, body=body_of)).status == 422
    leave_free(streams, 9)
    for body_of in costly:
        assert streams.run(streams.make("POST", path, body=body_of)).status == 429
    cheap = streams.run(streams.make("POST", path, body=of_path(path, 1)))
    assert cheap.status == 422, "a refusal of what is read fast takes no place"


@pytest.mark.fault("F-25t")
def test_all_files_of_a_request_have_one_allowance(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    from karma.core import foreign, pdf_pages

    had: list[foreign.WorkLeft] = []

    def content_of(raw: bytes) -> pdf_pages.Content:
        had.append(foreign.allowance())
        return pdf_pages.Content(1, 0)

    monkeypatch.setattr(pdf_pages, "content_of", content_of)
    part = {"type": "document", "source": {"type": "data", "mimeType": "application/pdf", "value": b64(pdf())}}
    asked = {"messages": [{"role": "user", "content": [part, part, {"type": "text", "text": "hi"}]}]}
    each = []
    for path in ("/api/v1/llm/messages", "/api/agent"):
        had.clear()
        streams.model.answer(message(text("Hi")))
        assert streams.run(streams.make("POST", path, body=asked)).status == 200
        assert len(had) > 2
        each.append(set(map(id, had)))
    assert [len(one) for one in each] == [1, 1]


def test_streams_of_processes_that_died_end_with_their_time(streams: Streams) -> None:
    leave_free(streams, 0, ending=timedelta(seconds=-1))
    streams.model.answer(message(text("Hi")))
    assert streams.run(streams.agent(body())).status == 200


def test_a_client_that_does_not_read_is_cut_off_when_its_stream_counts_no_more(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent_stream import app as module

    streams.model.answer(message(text("Hi")))
    run = body()
    streams.run(streams.agent(run))
    monkeypatch.setattr(module, "FOLLOW_S", 0.0)
    monkeypatch.setattr(module, "_CLOSE_MARGIN_S", 0.05)
    request = streams.make("GET", f"/api/v1/runs/{run['runId']}/events")

    async def unread() -> None:
        async def never_takes_more(scope: Any, receive: Any, send: Any) -> None:
            async def send_and_wait(event: Any) -> None:
                await send(event)
                if event["type"] == "http.response.body":
                    await asyncio.Event().wait()

            await app(scope, receive, send_and_wait)

        async with asyncio.timeout(20):
            await request.run(never_takes_more)

    streams.serve(unread())
    assert (request.status, request.complete) == (200, False)
    leave_free(streams, 0)

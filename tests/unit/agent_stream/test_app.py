"""Answers of the streaming function that need nothing of AWS: refusals, and its description."""

import asyncio
from typing import Any

import pytest

from agent_stream.app import app
from tests.support.asgi import exchange


@pytest.mark.parametrize("last", ["http.response.start", "http.response.body"])
def test_a_response_that_has_begun_is_not_begun_again(last: str) -> None:
    request = exchange("GET", "/health")
    sent: list[str] = []

    async def broken_behind(_: Any, receive: Any, send: Any) -> None:
        async def send_and_break(message: Any) -> None:
            sent.append(message["type"])
            await send(message)
            if message["type"] == last and sent.count(last) == 1:
                raise RuntimeError("the server gave up")

        await app(_, receive, send_and_break)

    asyncio.run(request.run(broken_behind))

    assert sent.count("http.response.start") == 1
    assert sent[-1] == last
    assert request.status == 200


def test_a_refusal_is_answered_once() -> None:
    request = asyncio.run(exchange("GET", "/nowhere").run(app))

    assert (request.status, request.json["error"]["code"]) == (404, "NOT_FOUND")


@pytest.mark.req("R-M-21")
def test_its_description_is_public_and_its_own() -> None:
    request = asyncio.run(exchange("GET", "/openapi.json").run(app))

    assert (request.status, request.answer_headers["content-type"]) == (200, "application/json")
    assert "text/event-stream" in request.json["paths"]["/api/agent"]["post"]["responses"]["200"]["content"]
    assert asyncio.run(exchange("POST", "/openapi.json").run(app)).status == 405
    assert asyncio.run(exchange("GET", "/openapi.json", query="x=1").run(app)).status == 422


@pytest.mark.fault("F-24r")
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health"), ("HEAD", "/health"), ("PUT", "/health"), ("GET", "/x")]
)
def test_every_answer_says_that_it_is_not_to_be_kept_and_which_request_it_is_of(method: str, path: str) -> None:
    headers = asyncio.run(exchange(method, path).run(app)).answer_headers

    assert headers["cache-control"] == "no-store"
    assert headers["x-request-id"]
    assert float(headers["x-process-time"]) >= 0

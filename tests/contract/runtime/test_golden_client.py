"""Our client sends what AWS's own client sends: named headers, prelude, chunk payloads, trailers."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from karma.core.runtime.scope import Receive, Scope, Send
from tests.fixtures.runtime.golden import GoldenCase, answer_next, golden_cases, url_event
from tests.fixtures.runtime.record.raw_runtime_api import Event, RawRequest, RawRuntimeApi

CASES = golden_cases()
NAMED_HEADERS = ("Lambda-Runtime-Function-Response-Mode", "Trailer", "Content-Type", "Transfer-Encoding")
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"


def ours(case: GoldenCase) -> RawRequest:
    """Return the request that our client posts for an app that does what the recorded handler did."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if case.prelude is not None:
            headers = [(name.encode(), value.encode("latin-1")) for name, value in case.prelude["headers"].items()]
            headers += [(b"set-cookie", cookie.encode()) for cookie in case.prelude.get("cookies", ())]
            await send({"type": "http.response.start", "status": case.prelude["statusCode"], "headers": headers})
        for data in case.writes:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if case.error is not None:
            raise type(case.error["type"], (Exception,), {})(case.error["message"])
        await send({"type": "http.response.body"})

    headers = {"Lambda-Runtime-Aws-Request-Id": case.name, "Lambda-Runtime-Deadline-Ms": "1700000000000"}
    with RawRuntimeApi([Event(url_event(), headers)]) as server:
        asyncio.run(answer_next(app, server.address))
    return server.wait_for_post("/response")


def test_every_case_of_the_format_is_recorded() -> None:
    assert {case.name for case in CASES} == {
        "plain-text",
        "event-stream",
        "metadata",
        "empty-body",
        "binary",
        "large-chunk",
        "error-before-first-byte",
        "error-after-first-byte",
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_path_headers_prelude_and_chunks_are_the_same(case: GoldenCase) -> None:
    sent, recorded = ours(case), case.recorded

    assert (sent.method, sent.path) == (recorded.method, recorded.path)
    assert {name: sent.header(name) for name in NAMED_HEADERS} == {
        name: recorded.header(name) for name in NAMED_HEADERS
    }
    assert sent.chunks == recorded.chunks


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_trailers_are_the_same_but_for_the_stack(case: GoldenCase) -> None:
    sent, recorded = ours(case), case.recorded

    assert list(sent.trailers) == list(recorded.trailers)
    if case.error is not None:
        assert sent.trailers[ERROR_TYPE] == recorded.trailers[ERROR_TYPE]
        ours_decoded = json.loads(base64.b64decode(sent.trailers[ERROR_BODY], validate=True))
        recorded_decoded = json.loads(base64.b64decode(recorded.trailers[ERROR_BODY], validate=True))
        assert isinstance(ours_decoded.pop("trace"), list)
        assert isinstance(recorded_decoded.pop("trace"), list)
        assert ours_decoded == recorded_decoded

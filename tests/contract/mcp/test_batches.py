"""Answers in batches, which every client of revision 2025-03-26 has to take, in bodies and in streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from karma.integrations.mcp_streams import StreamPlace, read
from karma.mcp.domain import McpErrorCode, McpFailed
from tests.contract.mcp.test_faults import answer, called_in_session
from tests.support.faulty_server import Behaviour, FaultyServer, stream

pytestmark = pytest.mark.fault("F-33r")

Put = Callable[[list[Any]], Behaviour]
PROGRESS = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}
OTHER = {"jsonrpc": "2.0", "id": 99, "result": {"content": [{"type": "text", "text": "another's"}]}}
PING = {"jsonrpc": "2.0", "id": "p", "method": "ping"}


def done(**more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 3, "result": {"content": [{"type": "text", "text": "done"}], **more}}


def body(batch: list[Any]) -> Behaviour:
    return answer(json.dumps(batch).encode(), content_type="application/json")


def event(batch: list[Any]) -> Behaviour:
    return stream(b"data: " + json.dumps(batch).encode() + b"\n\n")


WAYS = {"body": body, "event": event}


@pytest.mark.parametrize("put", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    "batch",
    [[done()], [PROGRESS, done()], [done(), PROGRESS], [OTHER, done()], [PROGRESS, OTHER, PROGRESS, done(), OTHER]],
)
def test_the_answer_is_found_among_others(put: Put, batch: list[Any]) -> None:
    with FaultyServer() as server:
        assert called_in_session(server, put(batch)).value == "done"


def test_what_is_asked_and_told_in_a_batch_is_heeded() -> None:
    asked: list[Any] = []
    place = StreamPlace(is_resumable=False, heed=asked.append, reply=asked.append)
    found = asyncio.run(read(chunks([PING, done(), PROGRESS]), {"content-type": "application/json"}, 3, place))
    assert (found, asked) == (done(), [PING, PROGRESS])


async def chunks(batch: list[Any]) -> AsyncIterator[bytes]:
    yield json.dumps(batch).encode()


@pytest.mark.parametrize("put", WAYS.values(), ids=WAYS)
def test_digits_of_a_result_in_a_batch_are_kept(put: Put) -> None:
    number = 12345678901234567890123
    with FaultyServer() as server:
        found = called_in_session(server, put([PROGRESS, done(content=[], structuredContent={"n": number})]))
    assert str(number) in json.dumps(found.value)


@pytest.mark.parametrize("put", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("batch", [[], [1], [done(), 1], [[done()]], ["x"]], ids=str)
def test_what_is_no_batch_is_no_answer(put: Put, batch: list[Any]) -> None:
    with FaultyServer() as server, pytest.raises(McpFailed) as failed:
        called_in_session(server, put(batch))
    assert failed.value.code is McpErrorCode.BAD_ANSWER

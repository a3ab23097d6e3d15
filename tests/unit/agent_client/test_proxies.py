"""Answers of proxies between a client and its run: it goes on where the run may, and claims nothing it cannot know."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx
import pytest

from karma_agent.client import AgentClient
from karma_agent.errors import RunRefused, RunUnreachable

pytestmark = pytest.mark.fault("F-29r")

STARTED = b'data: {"type":"RUN_STARTED","threadId":"t","runId":"r"}\n\n'
TOLD = STARTED + b'id: 1\ndata: {"type":"STATE_SNAPSHOT","snapshot":{}}\n\n'
END = b'id: 2\ndata: {"type":"RUN_FINISHED","threadId":"t","runId":"r"}\n\n'
WHOLE = ["RUN_STARTED", "STATE_SNAPSHOT", "RUN_FINISHED"]


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Keep the pauses, and make none."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    # That of this module alone: a task that another test has left may sleep, too.
    monkeypatch.setattr("karma_agent.stream.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    return pauses


def events(*answers: httpx.Response) -> list[str]:
    """Run against a server that gives these answers, the last of them again and again."""
    left = list(answers)

    def answer(_: httpx.Request) -> httpx.Response:
        return left.pop(0) if len(left) > 1 else left[0]

    async def read() -> list[str]:
        async with AgentClient("http://x", api_key="k", transport=httpx.MockTransport(answer)) as client:
            return [str(event["type"]) async for event in client.run("hi", run_id="r", thread_id="t")]

    return asyncio.run(read())


def ok(content: bytes) -> httpx.Response:
    return httpx.Response(200, content=content, headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, *range(520, 530)])
def test_a_failure_of_what_stands_between_is_a_cut_connection(status: int) -> None:
    failed = httpx.Response(status, text="<html>proxy</html>")
    assert events(failed, ok(TOLD), failed, ok(END)) == WHOLE
    with pytest.raises(RunUnreachable, match=str(status)):
        events(failed)


@pytest.mark.parametrize(
    "torn", [b'data: {"type":"RUN_FIN\n\n', b"id: x\ndata: {}\n\n", b"data: 7\n\n", b"data: \xff\n\n"]
)
def test_a_torn_frame_is_a_cut_connection(torn: bytes) -> None:
    assert events(ok(TOLD + torn + END), ok(END)) == WHOLE


@pytest.mark.parametrize(("seconds", "waits"), [("0", True), ("60", True), ("61", False), ("86400", False)])
def test_no_server_makes_it_sleep_for_long(slept: list[float], seconds: str, waits: bool) -> None:
    refused = httpx.Response(503, headers={"retry-after": seconds})
    if waits:
        assert events(refused, ok(TOLD + END)) == WHOLE
        assert slept == [float(seconds)]
        return
    with pytest.raises(RunRefused) as caught:
        events(refused)
    assert (caught.value.retry_after_s, caught.value.is_unknown, slept) == (float(seconds), True, [])


@pytest.mark.parametrize(
    ("status", "is_unknown"), [(400, False), (404, False), (409, False), (422, False), (501, True)]
)
def test_a_refusal_says_whether_its_outcome_is_known(status: int, is_unknown: bool) -> None:
    with pytest.raises(RunRefused) as caught:
        events(httpx.Response(status))
    assert caught.value.is_unknown is is_unknown

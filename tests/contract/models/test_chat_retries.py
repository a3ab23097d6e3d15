"""Calls of Chat Completions that fail before their answer begins and are made again, by the real client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from karma.conversations.domain import Message
from karma.core import secrets
from karma.core.clock import monotonic
from karma.integrations.openai import OpenAIModel
from karma.models.domain import OPENAI, ModelErrorCode, Target
from karma.models.ports import ModelEvent, ModelFailed, ModelRequest
from karma.models.retrying import RetryingModel
from tests.contract.models.test_retries import QUICK, said
from tests.support.chat_stream import chat, chunks, data
from tests.support.faulty_server import CUT, RESET, Behaviour, FaultyServer, hang_up, status, stream

USAGE = {"prompt_tokens": 11, "completion_tokens": 7}
GOOD = chat("Hel", "lo", usage=USAGE)
WHOLE = chunks("Hel", "lo", usage=USAGE)
OVERLOADED = data({"error": {"message": "secret", "type": "server_error", "code": 503}})
FAILED: dict[str, Behaviour] = {
    **{str(code): status(code) for code in (408, 429, 500, 502, 503, 504, 529)},
    "a page in front of it": status(502, body=b"<html>Bad gateway</html>"),
    "closed without an answer": hang_up,
    "reset without an answer": RESET,
    "cut before the first event": stream(end=CUT),
    "reset before the first event": stream(end=RESET),
    "an empty answer": stream(),
    "overloaded as the first event": stream(OVERLOADED),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        known = {"own": {"api_key": "sk-own", "base_url": f"{running.url}/v1"}}
        monkeypatch.setitem(secrets._kept, "secret", (monotonic() + 3600, known))
        yield running


def ask(server: FaultyServer, *, patience_s: float = 10.0) -> list[ModelEvent]:
    model = RetryingModel(OpenAIModel(secret_arn="secret"), QUICK)
    request = ModelRequest(
        target=Target(model="m", provider=OPENAI, base_url=f"{server.url}/v1", secret="own"),
        system=["Be kind."],
        messages=[Message(id="u", role="user", content="hi")],
        tools=(),
        max_tokens=100,
        patience_s=patience_s,
    )

    async def collect() -> list[ModelEvent]:
        try:
            return [event async for batch in model.stream(request) for event in batch]
        finally:
            await model.close()

    return asyncio.run(collect())


@pytest.mark.parametrize("fault", list(FAILED))
def test_what_may_pass_is_asked_again_until_it_is_answered(server: FaultyServer, fault: str) -> None:
    server.next(FAILED[fault], FAILED[fault], GOOD)

    assert said(ask(server)) == "Hello"
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[1] == server.requests[2]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (status(400), ModelErrorCode.MODEL_REJECTED),
        (status(401), ModelErrorCode.MODEL_UNAVAILABLE),
        (status(403), ModelErrorCode.MODEL_UNAVAILABLE),
        (status(404), ModelErrorCode.MODEL_UNAVAILABLE),
        (status(413), ModelErrorCode.CONTEXT_WINDOW_EXCEEDED),
        (stream(b"data: nonsense\n\n"), ModelErrorCode.MODEL_STREAM_CUT),
        (stream(*WHOLE[:2], end=CUT), ModelErrorCode.MODEL_STREAM_CUT),
        (stream(*WHOLE[:2], end=RESET), ModelErrorCode.MODEL_STREAM_CUT),
        (stream(*WHOLE[:2]), ModelErrorCode.MODEL_STREAM_CUT),
        (stream(*WHOLE[:2], OVERLOADED), ModelErrorCode.MODEL_OVERLOADED),
    ],
)
def test_what_will_not_pass_or_has_begun_is_asked_once(
    server: FaultyServer, fault: Behaviour, code: ModelErrorCode
) -> None:
    server.next(fault, GOOD)

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert len(server.requests) == 1
    assert caught.value.code is code


@pytest.mark.parametrize("headers", [{"retry-after-ms": "200"}, {"retry-after": "0.2"}])
def test_a_pause_that_the_provider_asks_for_is_kept(server: FaultyServer, headers: dict[str, str]) -> None:
    server.next(status(429, headers), GOOD)

    assert said(ask(server)) == "Hello"
    assert server.times[1] - server.times[0] >= 0.2


def test_for_a_longer_pause_than_is_waited_for_nobody_waits_at_all(server: FaultyServer) -> None:
    server.next(status(429, {"retry-after": "86400"}), GOOD)

    with pytest.raises(ModelFailed) as caught:
        ask(server, patience_s=10**6)

    assert caught.value.code is ModelErrorCode.MODEL_RATE_LIMITED
    assert len(server.requests) == 1


def test_attempts_have_an_end_and_the_last_failure_is_told(server: FaultyServer) -> None:
    server.next(*[status(503)] * 4, status(429), GOOD)

    with pytest.raises(ModelFailed) as caught:
        ask(server)

    assert caught.value.code is ModelErrorCode.MODEL_RATE_LIMITED
    assert len(server.requests) == 5

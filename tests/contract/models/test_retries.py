"""Calls of models that fail before their answer begins and are made again, by the real client of a real server."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest

from karma.conversations.domain import Message
from karma.core import secrets
from karma.core.clock import monotonic
from karma.core.observability import logger
from karma.integrations.anthropic import AnthropicModel
from karma.models.domain import ModelErrorCode, Target, Usage
from karma.models.ports import ModelEvent, ModelFailed, ModelRequest, TextDelta
from karma.models.prices import cost
from karma.models.retrying import RetryingModel, RetryPolicy
from karma.runs.plan import RunLimits
from tests.support.faulty_server import CUT, RESET, Behaviour, FaultyServer, hang_up, status, stream
from tests.support.model_server import message, sse, text
from tests.support.run_world import World, asked, user

GOOD = stream(*message(text("Hel", "lo")))
HAIKU = Target(model="claude-haiku-5-5")
QUICK = RetryPolicy(base_s=0.01)
FAILED: dict[str, Behaviour] = {
    "429": status(429),
    "408": status(408),
    "500": status(500),
    "502": status(502, body=b"<html>Bad gateway</html>"),
    "503": status(503),
    "504": status(504),
    "529": status(529),
    "closed without an answer": hang_up,
    "reset without an answer": RESET,
    "cut before the first event": stream(end=CUT),
    "reset before the first event": stream(end=RESET),
    "an empty answer": stream(),
    "overloaded as the first event": stream(sse("error", error={"type": "overloaded_error", "message": "secret"})),
}


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(secrets._kept, "secret", (monotonic() + 3600, {"api_key": "sk-test"}))


def model(server: FaultyServer, policy: RetryPolicy = QUICK) -> RetryingModel:
    return RetryingModel(AnthropicModel(secret_arn="secret", base_url=server.url), policy)


def request(*, patience_s: float = 10.0) -> ModelRequest:
    return ModelRequest(
        target=HAIKU,
        system=["Be kind."],
        messages=[Message(id="u", role="user", content="hi")],
        tools=(),
        max_tokens=100,
        patience_s=patience_s,
        log_keys={"run_id": "r1"},
    )


def ask(model: RetryingModel, *, patience_s: float = 10.0) -> list[ModelEvent]:
    async def collect() -> list[ModelEvent]:
        model.prepare(HAIKU)
        try:
            return [event async for batch in model.stream(request(patience_s=patience_s)) for event in batch]
        finally:
            await model.close()

    return asyncio.run(collect())


def said(events: Sequence[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("fault", list(FAILED))
def test_what_may_pass_is_asked_again_until_it_is_answered(server: FaultyServer, fault: str) -> None:
    server.next(FAILED[fault], FAILED[fault], GOOD)

    assert said(ask(model(server))) == "Hello"
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[1] == server.requests[2]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (status(400), ModelErrorCode.MODEL_REJECTED),
        (status(401), ModelErrorCode.MODEL_UNAVAILABLE),
        (status(402), ModelErrorCode.MODEL_UNAVAILABLE),
        (status(403), ModelErrorCode.MODEL_UNAVAILABLE),
        (status(404), ModelErrorCode.MODEL_UNAVAILABLE),
        (status(413), ModelErrorCode.CONTEXT_WINDOW_EXCEEDED),
        (status(529, {"x-should-retry": "false"}), ModelErrorCode.MODEL_OVERLOADED),
        (stream(b"data: nonsense\n\n"), ModelErrorCode.MODEL_STREAM_CUT),
        (stream(*message(text("Hel"))[:4], end=CUT), ModelErrorCode.MODEL_STREAM_CUT),
        (stream(*message(text("Hel"))[:-1]), ModelErrorCode.MODEL_STREAM_CUT),
        # Its input is paid for: it is no call that has not taken place.
        (stream(*message(text("Hel"))[:1], end=CUT), ModelErrorCode.MODEL_STREAM_CUT),
    ],
)
def test_what_will_not_pass_or_has_begun_is_asked_once(
    server: FaultyServer, fault: Behaviour, code: ModelErrorCode
) -> None:
    server.next(fault, GOOD)

    with pytest.raises(ModelFailed) as caught:
        ask(model(server))

    assert len(server.requests) == 1
    assert caught.value.code is code


def test_attempts_have_an_end_and_the_last_failure_is_told(server: FaultyServer) -> None:
    server.next(*[status(503)] * 4, status(529), GOOD)

    with pytest.raises(ModelFailed) as caught:
        ask(model(server))

    assert caught.value.code is ModelErrorCode.MODEL_OVERLOADED
    assert len(server.requests) == 5


def test_without_patience_nothing_is_repeated(server: FaultyServer) -> None:
    server.next(status(529, {"retry-after-ms": "1"}), GOOD)

    with pytest.raises(ModelFailed):
        ask(model(server), patience_s=0)

    assert len(server.requests) == 1


@pytest.mark.parametrize("headers", [{"retry-after-ms": "200"}, {"retry-after": "0.2"}])
def test_a_pause_that_the_provider_asks_for_is_kept(server: FaultyServer, headers: dict[str, str]) -> None:
    server.next(status(429, headers), GOOD)

    assert said(ask(model(server))) == "Hello"
    assert server.times[1] - server.times[0] >= 0.2


@pytest.mark.parametrize("asked_s", ["31", "86400", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_for_a_longer_pause_than_is_waited_for_nobody_waits_at_all(server: FaultyServer, asked_s: str) -> None:
    server.next(status(429, {"retry-after": asked_s}), GOOD)
    began = monotonic()

    with pytest.raises(ModelFailed) as caught:
        ask(model(server), patience_s=10**6)

    assert caught.value.code is ModelErrorCode.MODEL_RATE_LIMITED
    assert len(server.requests) == 1
    assert monotonic() - began < 10


class Heard(io.StringIO):
    """A log that tells when somebody begins to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = asyncio.Event()

    def write(self, text: str) -> int:
        if "model.retried" in text:
            self.waits.set()
        return super().write(text)


def test_a_stop_ends_a_pause_at_once(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.next(status(429, {"retry-after": "29"}), GOOD)
    waiting = model(server)

    async def stop() -> float:
        log = Heard()
        monkeypatch.setattr(logger.registered_handler, "stream", log)

        async def read() -> None:
            async for _ in waiting.stream(request(patience_s=60)):
                pass

        waiting.prepare(HAIKU)
        task = asyncio.create_task(read())
        await asyncio.wait_for(log.waits.wait(), 10)
        began = monotonic()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        ended = monotonic() - began
        await waiting.close()
        return ended

    assert asyncio.run(stop()) < 1
    assert len(server.requests) == 1


def test_a_run_is_answered_and_charged_once_and_says_in_its_log_what_it_waited_for(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", log)
    server.next(status(529, {"retry-after-ms": "1"}), status(500, {"retry-after-ms": "1"}), GOOD)
    world = World()
    world.model = model(server)  # type: ignore[assignment]
    question = asked(user("a secret question"), run="r77")

    events = world.run(question)

    assert events[-1]["type"] == "RUN_FINISHED"
    usage = Usage(11, 7)
    assert world.stored(question).cost_micros == cost(usage, Target(model="claude-test"), world.clock.now())
    told = [line for line in log.getvalue().splitlines() if "model.retried" in line]
    assert ["MODEL_OVERLOADED" in line for line in told] == [True, False]
    assert ["MODEL_UNAVAILABLE" in line for line in told] == [False, True]
    assert all("r77" in line for line in told)
    assert "secret" not in log.getvalue()


def test_a_run_that_has_no_time_left_does_not_wait(server: FaultyServer) -> None:
    server.next(status(529, {"retry-after": "2"}), GOOD)
    world = World(limits=RunLimits(run_timeout_s=4, reserve_s=0))
    world.model = model(server)  # type: ignore[assignment]

    events = world.run(asked(user("hi")))

    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "MODEL_OVERLOADED")
    assert len(server.requests) == 1

"""Servers of both APIs that fail in each way: no answer, none of their words, in bounded time and memory."""

from __future__ import annotations

import asyncio
import itertools
import resource
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from karma.conversations.domain import Message
from karma.core import secrets
from karma.core.clock import monotonic
from karma.integrations import event_stream
from karma.integrations.anthropic import AnthropicModel
from karma.integrations.openai import OpenAIModel
from karma.models.domain import OPENAI, ModelErrorCode, Target, Usage
from karma.models.ports import Model, ModelEvent, ModelFailed, ModelRequest, TextDelta, TurnEnded
from karma.runs.domain import ERROR_MESSAGES, RunErrorCode
from tests.support import chat_stream
from tests.support.faulty_server import CUT, RESET, Behaviour, FaultyServer, Wire, endless, hang_up, status, stream
from tests.support.model_server import message, sse, text
from tests.support.run_world import World, asked, user

pytestmark = pytest.mark.fault("F-09b")
SECRET = "provider's secret"
QUIET_S = 0.3


@dataclass(frozen=True)
class Provider:
    make: Callable[[str, float], tuple[Model, Target]]
    whole: Sequence[bytes]
    """Events of an answer, which says Hello."""
    error: bytes
    """An error within a stream."""
    unpaid: bytes
    """A comment or a ping, which keeps a connection alive."""
    delta: Callable[[str], bytes]
    """A piece of text."""
    begun: int
    """Number of events up to the first piece of text."""
    ending: int
    """Number of events from the one on without which the answer is not complete."""


def anthropic(url: str, quiet_s: float) -> tuple[Model, Target]:
    model = AnthropicModel(secret_arn="secret", base_url=url, quiet_s=quiet_s, silence_s=2)
    return model, Target(model="claude-haiku-5-5")


def openai(url: str, quiet_s: float) -> tuple[Model, Target]:
    return OpenAIModel(secret_arn="secret", quiet_s=quiet_s), Target(
        model="m", provider=OPENAI, base_url=f"{url}/v1", secret="mine"
    )


def anthropic_delta(said: str) -> bytes:
    return sse("content_block_delta", index=0, delta={"type": "text_delta", "text": said})


USAGE = {"prompt_tokens": 11, "completion_tokens": 7}
PROVIDERS = {
    "anthropic": Provider(
        anthropic,
        message(text("Hel", "lo")),
        sse("error", error={"type": "overloaded_error", "message": SECRET}),
        sse("ping"),
        anthropic_delta,
        4,
        1,
    ),
    "openai": Provider(
        openai,
        chat_stream.chunks("Hel", "lo", usage=USAGE),
        chat_stream.data({"error": {"type": "service_unavailable", "message": SECRET}}),
        b": keep-alive\n\n",
        lambda said: chat_stream.chunk({"content": said}),
        2,
        3,
    ),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        known = {"api_key": "sk-test", "mine": {"api_key": "sk-mine", "base_url": f"{running.url}/v1"}}
        monkeypatch.setitem(secrets._kept, "secret", (monotonic() + 3600, known))
        yield running


@pytest.fixture(params=list(PROVIDERS))
def provider(request: pytest.FixtureRequest) -> Provider:
    return PROVIDERS[request.param]


def ask(provider: Provider, server: FaultyServer, *, quiet_s: float = event_stream.QUIET_S) -> list[ModelEvent]:
    """Ask once; give what arrived, until the end or a failure."""
    model, target = provider.make(server.url, quiet_s)
    request = ModelRequest(
        target=target,
        system=["Be kind."],
        messages=[Message(id="u", role="user", content="hi")],
        tools=(),
        max_tokens=100,
    )

    async def collect() -> list[ModelEvent]:
        try:
            return [event async for batch in model.stream(request) for event in batch]
        finally:
            await model.close()

    return asyncio.run(collect())


def wrong_chunk(wire: Wire) -> None:
    wire.head(200, {"transfer-encoding": "chunked"})
    wire.send(b"zz\r\n")


def faults(provider: Provider) -> dict[str, tuple[Behaviour, ModelErrorCode]]:
    half = provider.whole[: provider.begun]
    gone, cut = ModelErrorCode.MODEL_UNAVAILABLE, ModelErrorCode.MODEL_STREAM_CUT
    return {
        "closed": (hang_up, gone if provider is PROVIDERS["anthropic"] else cut),
        "reset": (RESET, gone if provider is PROVIDERS["anthropic"] else cut),
        "cut": (stream(*half, end=CUT), cut),
        "reset in the middle": (stream(*half, end=RESET), cut),
        "cut within an event": (stream(*half, provider.delta("x")[:20], end=CUT), cut),
        "a clean end in the middle": (stream(*half), cut),
        "a clean end before the last event": (stream(*provider.whole[: -provider.ending]), cut),
        "nothing": (stream(), cut),
        "an empty body": (status(200, {"content-type": "text/event-stream"}, b""), cut),
        "an error": (stream(provider.error), ModelErrorCode.MODEL_OVERLOADED),
        "an error in the middle": (stream(*half, provider.error), ModelErrorCode.MODEL_OVERLOADED),
        "400": (status(400), ModelErrorCode.MODEL_REJECTED),
        "401": (status(401), gone),
        "403": (status(403), gone),
        "404": (status(404), gone),
        "413": (status(413), ModelErrorCode.CONTEXT_WINDOW_EXCEEDED),
        "429": (status(429, {"retry-after": "7"}), ModelErrorCode.MODEL_RATE_LIMITED),
        "500": (status(500), gone),
        "504": (status(504), ModelErrorCode.MODEL_TIMEOUT),
        "529": (status(529), ModelErrorCode.MODEL_OVERLOADED),
        "a redirect": (status(307, {"location": "http://169.254.169.254/"}), gone),
        "a page": (status(502, {"content-type": "text/html"}, b"<html>" + SECRET.encode()), gone),
        "a page as an answer": (stream(b"<html>" + SECRET.encode() + b"</html>\n\n"), cut),
        "JSON as an answer": (status(200, {}, {"id": "1", "content": SECRET}), cut),
        "no JSON": (stream(b"data: " + SECRET.encode() + b"\n\n"), cut),
        "another JSON": (stream(b"data: [1]\n\n"), cut),
        "bytes": (stream(bytes(range(256)) * 16, b"\n\ndata: \xff\xfe\n\n"), cut),
        "no HTTP": (lambda wire: wire.send(b"\x16\x03\x01 hello\r\n\r\n"), cut),
        "a wrong chunk": (wrong_chunk, cut),
    }


@pytest.mark.parametrize("fault", [*faults(PROVIDERS["anthropic"])])
def test_a_fault_is_a_failure_with_its_code(server: FaultyServer, provider: Provider, fault: str) -> None:
    behave, code = faults(provider)[fault]
    server.next(behave)

    with pytest.raises(ModelFailed) as caught:
        ask(provider, server)

    if fault in {"no HTTP", "closed", "reset"}:
        assert caught.value.code in {ModelErrorCode.MODEL_STREAM_CUT, ModelErrorCode.MODEL_UNAVAILABLE}
    elif fault == "a wrong chunk":  # read together with the head, or behind it, where aiohttp only falls silent
        assert caught.value.code in {code, ModelErrorCode.MODEL_UNAVAILABLE, ModelErrorCode.MODEL_TIMEOUT}
    else:
        assert caught.value.code is code
    assert SECRET not in str(caught.value)
    if fault == "429":
        assert (caught.value.is_transient, caught.value.retry_after_s) == (True, 7.0)
    assert len(server.requests) == 1


@pytest.mark.req("R-C-07")
@pytest.mark.parametrize("fault", [*faults(PROVIDERS["anthropic"])])
def test_a_run_that_meets_a_fault_tells_its_client_our_words(
    server: FaultyServer, provider: Provider, fault: str
) -> None:
    server.next(faults(provider)[fault][0])
    world = World()
    model, target = provider.make(server.url, event_stream.QUIET_S)
    world.model = model  # type: ignore[assignment]
    chosen = world.configuration.for_run(agent="karma", model="claude-test")
    world.configuration.for_run = lambda **_: type(chosen)(target=target, disabled_tools=frozenset())  # type: ignore[method-assign]

    events = world.run(asked(user("hi")))

    last = events[-1]
    assert last["type"] == "RUN_ERROR"
    assert last["message"] == ERROR_MESSAGES[RunErrorCode(last["code"])]
    assert SECRET not in str(events)
    assert not [message for message in world.thread().messages if message.role == "assistant"]


def test_a_whole_answer_is_one_whatever_its_connection_does_then(server: FaultyServer, provider: Provider) -> None:
    for end in (CUT, RESET, server.hold(), lambda wire: wire.chunk(provider.error)):
        server.next(stream(*provider.whole, end=end))
        began = monotonic()

        events = ask(provider, server)

        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Hello"
        assert isinstance(events[-1], TurnEnded)
        assert events[-1].usage == Usage(11, 7)
        assert monotonic() - began < 5


def test_a_redirect_is_not_followed(server: FaultyServer, provider: Provider) -> None:
    with FaultyServer() as other:
        other.next(stream(*provider.whole))
        server.next(status(307, {"location": f"{other.url}/v1/messages"}))

        with pytest.raises(ModelFailed) as caught:
            ask(provider, server)

        assert (caught.value.code, other.requests) == (ModelErrorCode.MODEL_UNAVAILABLE, [])


ENDLESS: dict[str, Callable[[Provider], Iterable[bytes]]] = {
    "a line": lambda _: [b"data: {" + b"x" * (1 << 20)] * 100,
    "a line of single bytes": lambda _: itertools.repeat(b"x"),
    "text": lambda provider: itertools.chain(provider.whole[:1], _block(provider), itertools.repeat(_big(provider))),
    "comments": lambda _: itertools.repeat(b": " + b"x" * 65_000 + b"\n\n"),
    "empty lines": lambda _: itertools.repeat(b"\n" * 65_000),
}


def _block(provider: Provider) -> list[bytes]:
    return [sse("content_block_start", index=0, content_block={"type": "text", "text": ""})] * (
        provider is PROVIDERS["anthropic"]
    )


def _big(provider: Provider) -> bytes:
    return provider.delta("y" * 60_000)


@pytest.mark.parametrize("what", list(ENDLESS))
def test_what_has_no_end_is_ended_in_bounded_memory(server: FaultyServer, provider: Provider, what: str) -> None:
    server.next(endless(ENDLESS[what](provider)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(ModelFailed) as caught:
        ask(provider, server, quiet_s=QUIET_S)

    assert caught.value.code in {ModelErrorCode.MODEL_STREAM_CUT, ModelErrorCode.MODEL_TIMEOUT}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    # The collected text, its pieces, and what the test itself keeps of them.
    assert grown < 4 * event_stream.MAX_STREAM_BYTES


def test_a_line_of_100_megabytes_is_not_kept(server: FaultyServer, provider: Provider) -> None:
    server.next(endless([b"data: {" + b"x" * (1 << 20)] * 100))
    tracemalloc.start()
    try:
        with pytest.raises(ModelFailed):
            ask(provider, server)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 32 << 20


def test_a_stream_that_only_keeps_its_connection_alive_is_ended(server: FaultyServer, provider: Provider) -> None:
    def keep_alive(wire: Wire) -> None:
        wire.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        while not wire.closing.wait(0.02):
            wire.chunk(provider.unpaid)

    server.next(keep_alive)
    began = monotonic()

    with pytest.raises(ModelFailed) as caught:
        ask(provider, server, quiet_s=QUIET_S)

    assert caught.value.code is ModelErrorCode.MODEL_TIMEOUT
    assert QUIET_S <= monotonic() - began < 10


@pytest.mark.parametrize("headers", [{}, {"content-encoding": "gzip"}])
def test_an_error_without_an_end_is_told_by_its_status(
    server: FaultyServer, provider: Provider, headers: dict[str, str]
) -> None:
    def behave(wire: Wire) -> None:
        wire.head(529, {"transfer-encoding": "chunked", **headers})
        while not wire.closing.is_set():
            wire.chunk(b"x" * 65_000)

    server.next(behave)
    began = monotonic()

    with pytest.raises(ModelFailed) as caught:
        ask(provider, server)

    assert caught.value.code is ModelErrorCode.MODEL_OVERLOADED
    assert monotonic() - began < 10


def test_a_stop_closes_the_connection(server: FaultyServer, provider: Provider) -> None:
    server.next(server.hold(stream(*provider.whole[: provider.begun], end=CUT)))
    model, target = provider.make(server.url, event_stream.QUIET_S)
    request = ModelRequest(
        target=target, system=[], messages=[Message(id="u", role="user", content="hi")], tools=(), max_tokens=100
    )

    async def stop() -> None:
        arrived = asyncio.Event()

        async def read() -> None:
            async for _ in model.stream(request):
                arrived.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(arrived.wait(), 10)
        task.cancel()
        await asyncio.wait([task])
        assert await asyncio.to_thread(server.has_left.wait, 5)
        await model.close()

    asyncio.run(stop())

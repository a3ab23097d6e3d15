"""Answers that are stopped count what their provider charges, as far as it is known, and never less.

Real clients against servers that know what they have charged: in each API, for each kind of text, at each moment, from
the model that was asked and from one that answers in its place, in runs that are cancelled and calls whose client left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import orjson
import pytest

from karma.configuration.current import RunChoice
from karma.core import secrets
from karma.core.clock import monotonic
from karma.core.ids import RunId
from karma.integrations.anthropic import AnthropicModel
from karma.integrations.openai import OpenAIModel
from karma.models.domain import ANTHROPIC, OPENAI, Target, Usage
from karma.models.ports import ModelEvent, ModelRequest, TextDelta, TurnEnded
from karma.models.prices import STOPPED_TOKENS, cost, estimate
from karma.models.router import RoutedModel
from karma.runs.direct import DirectCalls
from karma.runs.direct_requests import parse_direct_input
from karma.runs.domain import RunKey
from karma.runs.wishes import Wish
from tests.fakes.runs import caller
from tests.support import chat_stream
from tests.support.faulty_server import FaultyServer, status, stream
from tests.support.model_server import message, text
from tests.support.plans import allowances
from tests.support.run_world import World, asked, user

CONTENTS = {"English": "word " * 50, "Chinese": "字" * 50, "symbols": "🜨" * 50}
MOMENTS = ("asked", "said", "ended")
MAX_TOKENS = 400
INPUT = 70_000
CACHED, WRITTEN, OUTPUT = 60_000, 5_000, 90


@dataclass(frozen=True)
class Api:
    provider: str
    reports_first: bool
    """True: the tokens that were read are reported before the answer."""
    events: Callable[[str], Sequence[bytes]]
    charged: Usage
    """Usage that a whole answer is charged with."""
    ending: int
    """Number of events behind the text."""


def anthropic_events(said: str) -> list[bytes]:
    usage = {
        "input_tokens": INPUT - CACHED - WRITTEN,
        "cache_read_input_tokens": CACHED,
        "cache_creation_input_tokens": WRITTEN,
    }
    return message(text(said), usage=usage, output_tokens=OUTPUT)


def openai_events(said: str) -> list[bytes]:
    usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "prompt_tokens_details": {"cached_tokens": CACHED}}
    return chat_stream.chunks(said, usage=usage)


APIS = {
    ANTHROPIC: Api(ANTHROPIC, True, anthropic_events, Usage(INPUT, OUTPUT, CACHED, WRITTEN), 3),
    OPENAI: Api(OPENAI, False, openai_events, Usage(INPUT, OUTPUT, CACHED), 3),
}


class Watched:
    """Models that stand still at a moment of an answer."""

    def __init__(self, model: RoutedModel, server: FaultyServer, api: Api, moment: str) -> None:
        self._model, self._server, self._api, self._moment = model, server, api, moment
        self.reached = asyncio.Event()
        self.requests: list[ModelRequest] = []

    def prepare(self, target: Target) -> None:
        self._model.prepare(target)

    def preload(self, target: Target) -> None:
        pass

    async def close(self) -> None:
        await self._model.close()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self.requests.append(request)
        waiting = asyncio.create_task(self._asked(request))
        try:
            async with aclosing(self._model.stream(request)) as batches:
                async for batch in batches:
                    yield batch
                    if isinstance(batch[-1], TextDelta if self._moment == "said" else TurnEnded):
                        self.reached.set()
                        await asyncio.Event().wait()
        finally:
            waiting.cancel()

    async def _asked(self, request: ModelRequest) -> None:
        while not self._server.requests or (self._api.reports_first and request.meter.usage.input_tokens is None):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        if self._moment == "asked":
            self.reached.set()


class Choosing:
    """A configuration in which everybody has the same model and fall-backs."""

    def __init__(self, choice: RunChoice) -> None:
        self.choice = choice

    def for_refusal(self) -> RunChoice:
        return self.choice

    def for_run(self, *, agent: str, model: str, summaries: str = "") -> RunChoice:
        return self.choice


Servers = tuple[FaultyServer, FaultyServer]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setitem(secrets._kept, "secret", (monotonic() + 3600, {"api_key": "sk-test"}))
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
    with FaultyServer() as own, FaultyServer() as other:
        yield own, other


def played(servers: Servers, api: Api, moment: str, said: str, *, is_fallback: bool) -> tuple[World, Watched, Target]:
    """Return a world in which an API's model stands still, and that model."""
    own, other = servers
    events = api.events(said)
    shown = {"asked": events[:1], "said": events[: -api.ending], "ended": events}[moment]
    own.next(own.hold(stream(*shown, end=lambda _: None)))
    urls = {api.provider: own.url, next(each for each in APIS if each != api.provider): other.url}
    targets = {
        # A model without a price is the dearest.
        ANTHROPIC: Target(model="claude-unlisted" if api.provider == ANTHROPIC else "claude-haiku-5-5"),
        OPENAI: Target(model="llama", provider=OPENAI, base_url=f"{urls[OPENAI]}/v1"),
    }
    answering = targets.pop(api.provider)
    (first,) = targets.values()
    if is_fallback:
        other.next(status(503))
    choice = RunChoice(
        target=first if is_fallback else answering,
        fallbacks=(answering,) if is_fallback else (first,),
        disabled_tools=frozenset(),
    )
    model = RoutedModel(
        {
            ANTHROPIC: lambda: AnthropicModel(secret_arn="secret", base_url=urls[ANTHROPIC]),
            OPENAI: lambda: OpenAIModel(secret_arn="secret"),
        }
    )
    world = World()
    world.configuration = Choosing(choice)  # type: ignore[assignment]
    watched = Watched(model, own, api, moment)
    world.model = watched  # type: ignore[assignment]
    return world, watched, answering


def counted_by_a_cancelled_run(world: World, watched: Watched, content: str) -> int:
    request = asked(user(content), run="r1")

    async def work() -> None:
        going = asyncio.create_task(world.go(request))
        await asyncio.wait_for(watched.reached.wait(), 30)
        world.store.wish(RunKey(caller().user_id, RunId("r1")), Wish.CANCEL, at=world.clock.now())
        await asyncio.wait_for(going, 10)

    asyncio.run(work())
    counted: int | None = world.stored(request).cost_micros
    assert counted is not None
    return counted


def counted_by_a_call_that_was_left(world: World, watched: Watched, content: str) -> int:
    service = DirectCalls(
        store=world.store,
        model=watched,
        configuration=world.configuration,
        allowances=allowances(clock=world.clock),
        clock=world.clock,
        default="claude-test",
    )
    body = orjson.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": MAX_TOKENS})

    async def work() -> int:
        call = await service.admit(caller(), parse_direct_input(body))

        async def read() -> None:
            async with aclosing(service.events(call)) as events:
                async for _ in events:
                    pass

        reading = asyncio.create_task(read())
        await asyncio.wait_for(watched.reached.wait(), 30)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await watched.close()
        return call.spending.spent

    return asyncio.run(work())


@pytest.mark.parametrize("counted", [counted_by_a_cancelled_run, counted_by_a_call_that_was_left])
@pytest.mark.parametrize("is_fallback", [False, True], ids=["first", "fall-back"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", list(APIS))
def test_a_stopped_answer_counts_what_was_charged(
    servers: Servers, name: str, moment: str, is_fallback: bool, counted: Callable[[World, Watched, str], int]
) -> None:
    api = APIS[name]
    for content in CONTENTS.values() if moment == "said" else [CONTENTS["symbols"]]:
        world, watched, answering = played(servers, api, moment, content, is_fallback=is_fallback)
        servers[0].requests.clear()
        micros = counted(world, watched, content)
        (request,) = watched.requests
        now = world.clock.now()
        said = len(content.encode()) if moment == "said" else 0
        most = min(request.max_tokens, said + STOPPED_TOKENS)
        if moment == "ended":
            assert micros == cost(api.charged, answering, now)
        elif api.reports_first:
            assert micros == cost(replace(api.charged, output_tokens=most), answering, now)
        else:
            # No server reads more than a token a byte.
            charged = Usage(len(content.encode()), min(said, request.max_tokens))
            assert cost(charged, answering, now) <= micros <= estimate(replace(request, target=answering), now)

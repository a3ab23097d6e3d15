"""Models that answer in another's place: real clients against real servers, one of them away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from karma.configuration.current import RunChoice
from karma.core import secrets
from karma.core.clock import monotonic
from karma.integrations.anthropic import AnthropicModel
from karma.integrations.openai import OpenAIModel
from karma.models.domain import ANTHROPIC, OPENAI, Price, Rates, Target, Usage
from karma.models.prices import cost
from karma.models.retrying import RetryingModel, RetryPolicy
from karma.models.router import RoutedModel
from karma.runs.domain import RunKey
from karma.runs.plan import RunLimits
from tests.fakes.runs import caller
from tests.support.chat_stream import chat
from tests.support.faulty_server import CUT, Behaviour, FaultyServer, hang_up, status, stream
from tests.support.model_server import message, text
from tests.support.run_world import World, asked, user

QUICK = RetryPolicy(attempts=2, base_s=0.01)


@pytest.fixture
def servers() -> Iterator[tuple[FaultyServer, FaultyServer]]:
    with FaultyServer() as own, FaultyServer() as other:
        yield own, other


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(secrets._kept, "secret", (monotonic() + 3600, {"api_key": "sk-test"}))


class Choosing:
    """A configuration in which every agent has the same model and fall-backs."""

    def __init__(self, choice: RunChoice) -> None:
        self.choice = choice

    def for_refusal(self) -> RunChoice:
        return self.choice

    def for_run(self, *, agent: str, model: str, summaries: str = "") -> RunChoice:
        return self.choice


def world(own: FaultyServer, other: FaultyServer, *, prices: tuple[Price, ...] = ()) -> World:
    made = World()
    anthropic = AnthropicModel(secret_arn="secret", base_url=own.url)
    made.model = RoutedModel(  # type: ignore[assignment]
        {
            ANTHROPIC: lambda: RetryingModel(anthropic, QUICK),
            OPENAI: lambda: RetryingModel(OpenAIModel(secret_arn="secret"), QUICK),
        }
    )
    fallback = Target(model="llama", provider=OPENAI, base_url=f"{other.url}/v1", prices=prices)
    choice = RunChoice(target=Target(model="claude-haiku-5-5"), fallbacks=(fallback,), disabled_tools=frozenset())
    made.configuration = Choosing(choice)  # type: ignore[assignment]
    return made


AWAY: dict[str, list[Behaviour]] = {
    "overloaded": [status(529), status(529)],
    "limited": [status(429, {"retry-after": "3600"})],
    "closed": [hang_up, hang_up],
    "key revoked": [status(401)],
    "cut before a token": [stream(end=CUT), stream(end=CUT)],
}


@pytest.mark.parametrize("fault", list(AWAY))
def test_the_turn_is_answered_by_the_fall_back_and_counted_at_its_price(
    servers: tuple[FaultyServer, FaultyServer], fault: str
) -> None:
    own, other = servers
    own.next(*AWAY[fault])
    other.next(chat("Hel", "lo", usage={"prompt_tokens": 1000, "completion_tokens": 50}))
    played = world(own, other)
    question = asked(user("hi"))

    events = played.run(question)

    assert [event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"] == ["Hel", "lo"]
    usage = {"provider": "openai", "model": "llama", "inputTokens": 1000, "outputTokens": 50, "totalTokens": 1050}
    assert events[-1]["usage"] == [usage]
    assert played.thread().messages[-1].model == "llama"
    stored = played.stored(question)
    assert list(stored.usages) == [usage]
    assert stored.model == "claude-haiku-5-5"
    target = Target(model="llama", provider=OPENAI)
    assert stored.cost_micros == cost(Usage(1000, 50), target, played.clock.now()) > 0
    assert len(own.requests) == len(AWAY[fault])


def test_each_model_of_a_run_has_its_own_line_of_usage(servers: tuple[FaultyServer, FaultyServer]) -> None:
    own, other = servers
    own.next(status(503), status(503), stream(*message(text("Done."))))
    call = {"index": 0, "id": "c1", "function": {"name": "echo", "arguments": '{"word":"a"}'}}
    other.next(chat(calls=[call], usage={"prompt_tokens": 100, "completion_tokens": 5}))
    played = world(own, other)
    question = asked(user("hi"))

    events = played.run(question)

    assert events[-1]["type"] == "RUN_FINISHED"
    assert [(usage["model"], usage["inputTokens"]) for usage in events[-1]["usage"]] == [
        ("llama", 100),
        ("claude-haiku-5-5", 11),
    ]
    assert [message.model for message in played.thread().messages if message.role == "assistant"] == [
        "llama",
        "claude-haiku-5-5",
    ]
    assert played.stored(question).usage["totalTokens"] == 100 + 5 + 11 + 7


@pytest.mark.parametrize(
    "fault",
    [
        status(400),
        stream(*message(text("Hel"))[:4], end=CUT),
        # It has reported usage: the call may have to be paid.
        stream(*message(text("Hel"))[:1], end=CUT),
    ],
)
def test_what_has_begun_or_is_refused_is_not_asked_elsewhere(
    servers: tuple[FaultyServer, FaultyServer], fault: Behaviour
) -> None:
    own, other = servers
    own.next(*[fault] * 3)
    played = world(own, other)

    assert played.run(asked(user("hi")))[-1]["type"] == "RUN_ERROR"
    assert other.requests == []


def test_when_the_fall_back_is_away_too_the_run_says_so(servers: tuple[FaultyServer, FaultyServer]) -> None:
    own, other = servers
    own.next(status(529), status(529))
    other.next(status(500), status(500))
    played = world(own, other)
    question = asked(user("hi"))

    events = played.run(question)

    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "MODEL_UNAVAILABLE")
    assert played.stored(question).cost_micros == 0


def test_the_reservation_covers_the_dearer_one(servers: tuple[FaultyServer, FaultyServer]) -> None:
    rates = dict.fromkeys(("input", "output", "cache_write", "cache_read"), 9_000_000)
    played = world(*servers, prices=(Price(since=World().clock.now(), rates=Rates(**rates)),))
    question = asked(user("hi"))

    async def begin() -> None:
        await played.service.start(caller(), question)

    asyncio.run(begin())

    reserved = played.store.runs_by_key[RunKey(caller().user_id, question.run_id)].reserved_micros
    assert reserved > 9 * RunLimits().max_tokens

"""Conversations that outgrow their model, by the real clients of real servers that refuse what they cannot read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from karma.agents.domain import SYSTEM_PROMPT
from karma.configuration.current import RunChoice
from karma.core import secrets
from karma.core.clock import monotonic
from karma.integrations.anthropic import AnthropicModel
from karma.integrations.openai import OpenAIModel
from karma.models.domain import ANTHROPIC, OPENAI, Target, Usage
from karma.models.retrying import RetryingModel
from karma.models.router import RoutedModel
from local.messages_api.front import chat_refused
from tests.contract.models.test_fallback import Choosing
from tests.support.chat_stream import chunks
from tests.support.model_server import Answer, ModelServer, message, text, tool_use, unmarked
from tests.support.run_world import World, asked, user
from tests.support.windowed import FACT

WINDOW = 6_000
WORDS = "Words that fill a window. " * 40
Reply = Iterable[bytes] | Answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    with ModelServer() as running:
        known = {"api_key": "sk-test", "own": {"api_key": "sk-own", "base_url": f"{running.url}/v1"}}
        monkeypatch.setitem(secrets._kept, "secret", (monotonic() + 3600, known))
        yield running
        assert running.refused == []


def world(server: ModelServer, provider: str, *, window: int | None = None) -> World:
    made = World()
    made.model = RoutedModel(  # type: ignore[assignment]
        {
            ANTHROPIC: lambda: RetryingModel(AnthropicModel(secret_arn="secret", base_url=server.url)),
            OPENAI: lambda: RetryingModel(OpenAIModel(secret_arn="secret")),
        }
    )
    target = Target(model="claude-test", context_window=window)
    if provider == OPENAI:
        server.rules = chat_refused
        base_url = f"{server.url}/v1"
        target = Target(model="m", provider=OPENAI, base_url=base_url, secret="own", context_window=window)
    made.configuration = Choosing(RunChoice(target=target, disabled_tools=frozenset()))  # type: ignore[assignment]
    return made


def size_of(body: dict[str, Any]) -> int:
    return len(json.dumps(unmarked(body))) // 4


def is_record(body: dict[str, Any]) -> bool:
    system = body["system"][0]["text"] if "system" in body else body["messages"][0]["content"]
    return not system.startswith(SYSTEM_PROMPT)


def said(body: dict[str, Any], words: str) -> list[bytes]:
    size = size_of(body)
    if "system" in body:
        return message(text(words), usage={"input_tokens": size})
    return list(chunks(words, usage={"prompt_tokens": size, "completion_tokens": 7}))


REFUSALS: dict[str, Callable[[int], Reply]] = {
    ANTHROPIC: lambda size: Answer([error(f"prompt is too long: {size} tokens > {WINDOW} maximum")], 400),
    OPENAI: lambda size: Answer(
        [error(f"This model's maximum context length is {WINDOW} tokens. However, you requested {size} tokens.")], 400
    ),
    "full": lambda _: message(text("I be"), stop_reason="model_context_window_exceeded"),
    "413": lambda _: Answer([error("Request too large", "request_too_large")], 413),
}


def error(words: str, kind: str = "invalid_request_error") -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": words}}).encode()


def answering(server: ModelServer, refusal: str, *, counts_answers: bool = False) -> list[int]:
    """Let a server answer what it can read; return the list of the sizes that it could not."""
    too_long: list[int] = []

    def choose(body: dict[str, Any]) -> Reply:
        # A server that was given its window counts the answer, too, as vLLM does.
        asked_for = body["max_tokens"] if counts_answers else 0
        if size_of(body) + asked_for > WINDOW:
            too_long.append(size_of(body))
            return REFUSALS[refusal](size_of(body))
        return said(body, " ".join(dict.fromkeys(FACT.findall(json.dumps(body)))) if is_record(body) else "Yes.")

    server.choose = choose
    return too_long


@pytest.mark.parametrize(
    ("provider", "refusal", "window"),
    [
        (ANTHROPIC, ANTHROPIC, None),
        (ANTHROPIC, "full", None),
        (ANTHROPIC, "413", None),
        (ANTHROPIC, ANTHROPIC, WINDOW),
        (OPENAI, OPENAI, None),
        (OPENAI, OPENAI, WINDOW),
    ],
)
def test_a_conversation_goes_on_and_its_model_knows_all_of_it(
    server: ModelServer, provider: str, refusal: str, window: int | None
) -> None:
    made = world(server, provider, window=window)
    too_long = answering(server, refusal, counts_answers=provider == OPENAI and window is not None)
    spent: list[int] = []

    for n in range(40):
        before = len(server.requests)
        request = asked(user(f"FACT-{n} {WORDS}", f"u{n}"), run=f"r{n}")
        events = made.run(request)

        assert events[-1]["type"] == "RUN_FINISHED", events[-1]
        told = sum(usage["inputTokens"] for usage in events[-1]["usage"])
        answered = [size_of(body) for body in server.requests[before:] if size_of(body) <= WINDOW]
        spent.append(len(answered))
        if refusal != "full":
            assert told == sum(answered), "the record is not counted"

    facts = set(FACT.findall(json.dumps(server.requests[-1])))
    assert facts == {f"FACT-{n}" for n in range(40)}
    records = sum(map(is_record, server.requests))
    # Nothing begins as a record does: it is not written into the cache, which costs a quarter more.
    marked = [is_record(body) for body in server.requests if "cache_control" in json.dumps(body)]
    assert not any(marked)
    assert len(marked) == (len(server.requests) - records if provider == ANTHROPIC else 0)
    assert 2 <= records <= 12
    assert bool(too_long) == (window is None)
    shown = made.thread().conversation(made.thread().latest).messages
    assert [each.role for each in shown] == ["user", "assistant"] * 40


def test_what_the_summary_itself_is_refused_for_is_told_in_our_words(server: ModelServer) -> None:
    made = world(server, ANTHROPIC)
    server.choose = lambda body: (
        Answer([error("Overloaded", "overloaded_error")], 400)
        if is_record(body)
        else REFUSALS[ANTHROPIC](1)
        if size_of(body) > WINDOW
        else said(body, "Yes.")
    )
    events: list[dict[str, Any]] = []
    for n in range(40):
        events = made.run(asked(user(f"FACT-{n} {WORDS}", f"u{n}"), run=f"r{n}"))
        if events[-1]["type"] == "RUN_ERROR":
            break

    assert events[-1]["code"] == "COMPACTION_FAILED"
    assert "verloaded" not in json.dumps(events)


def test_twenty_questions_with_tools_are_read_from_the_provider_s_cache(server: ModelServer) -> None:
    from local.messages_api.prompt_cache import PromptCache

    made, cache, turns = world(server, ANTHROPIC), PromptCache(), iter(range(10**6))

    def choose(body: dict[str, Any]) -> Reply:
        used = cache.use(body)
        usage = used._asdict()
        n = next(turns)
        if n % 2:
            return message(text("It is on. " * 20), usage=usage)
        calls = [tool_use(f"toolu_{n}_{at}", "echo", json.dumps({"word": WORDS})) for at in range(2)]
        return message(text("I look."), *calls, stop_reason="tool_use", usage=usage)

    server.choose = choose
    total = Usage()
    for n in range(20):
        (usage,) = made.run(asked(user(f"What is with device {n}?", f"u{n}"), run=f"r{n}"))[-1]["usage"]
        total += Usage(usage["inputTokens"], 0, usage["cachedInputTokens"], usage["cacheWriteInputTokens"])

    assert len(server.requests) == 40
    read, written, every = total.cached_input_tokens, total.cache_write_input_tokens, total.input_tokens
    assert read is not None
    assert written is not None
    assert every is not None
    assert read / every > 0.9
    assert written / every < 0.1

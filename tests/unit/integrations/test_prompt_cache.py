"""Caching of requests by Anthropic's API: requests of whole conversations, against its documented rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from karma.conversations.domain import Message, ToolCall
from karma.conversations.repair import repair
from karma.integrations.anthropic import AnthropicModel
from karma.models.domain import Target
from karma.models.ports import ModelRequest, ToolSpec
from local.messages_api.prompt_cache import LIVES_S, CacheUsage, PromptCache
from local.messages_api.rules import refusal

TOOLS = [ToolSpec(f"tool{n}", "Does something. " * 20, {"type": "object", "properties": {}}) for n in range(4)]
PROMPT = "You are an assistant. " * 250
"""With the tools more tokens than any model caches at least."""


class Asked:
    """The API's cache, and what of all requests it had."""

    def __init__(self) -> None:
        self.cache = PromptCache()
        self.read = self.asked = 0

    def ask(self, body: dict[str, Any]) -> CacheUsage:
        assert refusal(orjson.loads(orjson.dumps(body))) is None
        used = self.cache.use(body)
        self.read += used.cache_read_input_tokens
        self.asked += used.total
        return used


def body_of(messages: Sequence[Message], application: str) -> dict[str, Any]:
    asked = ModelRequest(
        target=Target(model="claude-haiku-5-5"),
        system=[PROMPT, application],
        messages=repair(messages),
        tools=TOOLS,
        max_tokens=100,
    )
    return AnthropicModel(secret_arn="")._arguments(asked)


def conversation(cache: Asked, *, questions: int, calls: int, context: str = "The page is home.") -> float:
    """Hold a conversation; return the share of what was sent that the cache had."""
    messages: list[Message] = []
    for n in range(questions):
        application = context.format(n=n)
        messages.append(Message(id=f"u{n}", role="user", content=f"Question {n}? " * 10))
        made = tuple(ToolCall(f"c{n}_{at}", "tool0", '{"a":1}') for at in range(calls))
        if made:
            cache.ask(body_of(messages, application))
            messages.append(Message(id=f"a{n}", role="assistant", content="Looking. " * 5, tool_calls=made))
            messages += [
                Message(id=f"r{call.id}", role="tool", content="found " * 50, tool_call_id=call.id) for call in made
            ]
        cache.ask(body_of(messages, application))
        messages.append(Message(id=f"b{n}", role="assistant", content="That is it. " * 20))
    return cache.read / cache.asked


@pytest.mark.parametrize(
    ("calls", "context", "at_least"),
    [
        (0, "The page is home.", 0.80),
        (2, "The page is home.", 0.85),
        # More blocks in one turn than the API looks back over.
        (30, "The page is home.", 0.80),
        # What the application adds changes with each question: tools and the agent's text are read from the cache.
        (2, "The page is {n}.", 0.55),
    ],
)
def test_most_of_a_conversation_is_read_from_the_cache(calls: int, context: str, at_least: float) -> None:
    share = conversation(Asked(), questions=10, calls=calls, context=context)

    assert share >= at_least


def test_another_conversation_with_the_same_agent_reads_its_tools_and_text_from_the_cache() -> None:
    cache = Asked()
    conversation(cache, questions=1, calls=0, context="The page is home.")
    cache.read = cache.asked = 0

    share = conversation(cache, questions=1, calls=0, context="The page is another.")

    assert share > 0.8


def question(text: str) -> dict[str, Any]:
    return body_of([Message(id="u", role="user", content=text)], "The page is home.")


class TestTheRules:
    """Rules that the API documents of its cache, which the figures rest on."""

    def test_the_same_request_is_read_whole_and_costs_no_write(self) -> None:
        cache = PromptCache()
        first, again = cache.use(question("Hi?")), cache.use(question("Hi?"))

        assert (first.cache_read_input_tokens, first.input_tokens) == (0, 0)
        assert again == CacheUsage(0, 0, first.cache_creation_input_tokens)

    def test_a_prefix_is_forgotten_five_minutes_after_its_last_use(self) -> None:
        cache = PromptCache()
        cache.use(question("Hi?"))
        for _ in range(3):
            cache.now_s += LIVES_S
            assert cache.use(question("Hi?")).cache_read_input_tokens > 0
        cache.now_s += LIVES_S + 1
        assert cache.use(question("Hi?")).cache_read_input_tokens == 0

    def test_a_short_prefix_is_not_cached(self) -> None:
        cache = PromptCache()
        short = {**question("Hi?"), "tools": [], "system": []}

        assert cache.use(short)[1:] == cache.use(short)[1:] == (0, 0)

    def test_another_model_shares_nothing_and_another_way_to_think_tools_and_system(self) -> None:
        cache = PromptCache()
        whole = cache.use(question("Hi? " * 1000))
        other = cache.use({**question("Hi? " * 1000), "model": "claude-opus-5-5"})
        thinks = cache.use({**question("Hi? " * 1000), "thinking": {"type": "adaptive"}})

        assert other.cache_read_input_tokens == 0
        assert 0 < thinks.cache_read_input_tokens < whole.total - 1000

    def test_what_is_marked_more_than_twenty_blocks_later_is_not_found(self) -> None:
        def asked(blocks: int) -> dict[str, Any]:
            content = [{"type": "text", "text": f"{n} " + "words " * 50} for n in range(blocks)]
            return {**question("Hi?"), "messages": [{"role": "user", "content": content}]}

        for more, is_found in ((19, True), (20, False)):
            cache = PromptCache()
            before = cache.use(asked(30))
            found = cache.use(asked(30 + more)).cache_read_input_tokens
            assert (found == before.total) == is_found

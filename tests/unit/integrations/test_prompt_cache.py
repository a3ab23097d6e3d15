"""What of a request Anthropic's API can have cached: requests of whole conversations, against its documented rules."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pytest

from karma.conversations.domain import Message, ToolCall
from karma.conversations.repair import repair
from karma.integrations.anthropic import AnthropicModel
from karma.models.domain import Target
from karma.models.ports import ModelRequest, ToolSpec
from local.messages_api.rules import refusal

LOOK_BACK = 20
"""Blocks before a mark at which the API looks for what it has cached."""
TOOLS = [ToolSpec(f"tool{n}", "Does something. " * 20, {"type": "object", "properties": {}}) for n in range(4)]
PROMPT = "You are an assistant. " * 100


class Cache:
    """The API's cache of prefixes: https://platform.claude.com/docs/en/build-with-claude/prompt-caching."""

    def __init__(self) -> None:
        self.known: set[bytes] = set()
        self.read = self.asked = 0

    def ask(self, body: dict[str, Any]) -> None:
        """Count the bytes of a request, and those of its longest prefix that is cached; cache what is marked."""
        assert refusal(orjson.loads(orjson.dumps(body))) is None
        sizes, keys, marks = [0], [b""], []
        for at, (block, is_marked) in enumerate(_blocks(body), start=1):
            sizes.append(sizes[-1] + len(block))
            keys.append(hashlib.sha256(keys[-1] + block).digest())
            if is_marked:
                marks.append(at)
        marks.append(len(keys) - 1)  # the API's own, at the end
        reached = (at for mark in marks for at in range(mark, max(0, mark - LOOK_BACK), -1) if keys[at] in self.known)
        self.read += sizes[max(reached, default=0)]
        self.asked += sizes[-1]
        self.known |= {keys[mark] for mark in marks}


def _blocks(body: dict[str, Any]) -> Iterator[tuple[bytes, bool]]:
    every = [*body.get("tools", []), *body["system"], *(each for turn in body["messages"] for each in turn["content"])]
    for block in every:
        plain = {name: value for name, value in block.items() if name != "cache_control"}
        yield orjson.dumps(plain, option=orjson.OPT_SORT_KEYS), "cache_control" in block


def body_of(messages: Sequence[Message], application: str) -> dict[str, Any]:
    asked = ModelRequest(
        target=Target(model="claude-haiku-5-5"),
        system=[PROMPT, application],
        messages=repair(messages),
        tools=TOOLS,
        max_tokens=100,
    )
    return AnthropicModel(secret_arn="")._arguments(asked)


def conversation(cache: Cache, *, questions: int, calls: int, context: str = "The page is home.") -> float:
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
    share = conversation(Cache(), questions=10, calls=calls, context=context)

    assert share >= at_least


def test_another_conversation_with_the_same_agent_reads_its_tools_and_text_from_the_cache() -> None:
    cache = Cache()
    conversation(cache, questions=1, calls=0, context="The page is home.")
    cache.read = cache.asked = 0

    share = conversation(cache, questions=1, calls=0, context="The page is another.")

    assert share > 0.8

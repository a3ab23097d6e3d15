"""Measures what the provider's cache saves of a chat: whole requests of ours, against the documented rules of it.

Twenty questions with two calls of tools each, an agent's prompt of 1,700 characters and nine tools: forty requests.
Tokens are four characters each, prices the published ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.report import Row
from benchmarks.world import World
from karma.agents.domain import SYSTEM_PROMPT
from karma.conversations.domain import Message, ToolCall
from karma.conversations.repair import repair
from karma.core.clock import SystemClock
from karma.integrations.anthropic import AnthropicModel
from karma.models.domain import Target, Usage
from karma.models.ports import ModelRequest, ToolSpec
from karma.models.prices import cost
from local.messages_api.prompt_cache import PromptCache

QUESTIONS = 20
CALLS = 2
MODELS = ("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5")
_PARAMETERS = {"type": "object", "properties": {"device": {"type": "string", "description": "Name of a device. " * 8}}}
_TOOLS = [ToolSpec(f"tool{n}", "Reads something of a device. " * 12, _PARAMETERS) for n in range(9)]


def measure(_: World) -> list[Row]:
    """Return a row a model: the share of the input that the cache had, and what the input cost with and without it."""
    return [_row(model) for model in MODELS]


def _row(model: str) -> Row:
    target, now, cache = Target(model=model), SystemClock().now(), PromptCache()
    read = total = with_cache = without = 0
    for body in requests(target):
        used = cache.use(body)
        read, total = read + used.cache_read_input_tokens, total + used.total
        cached = Usage(used.total, 0, used.cache_read_input_tokens, used.cache_creation_input_tokens)
        with_cache += cost(cached, target, now)
        without += cost(Usage(used.total, 0), target, now)
    share, saved = read / total, 1 - with_cache / without
    dollars = f"input ${without / 1e6:.4f} without a cache"
    measured = f"{share:.0%} read from it, ${with_cache / 1e6:.4f}: {saved:.0%} saved"
    return Row(
        "agent_stream", f"chat of {QUESTIONS} questions, {model}", dollars, measured, ">= 85 % read", share >= 0.85
    )


def requests(target: Target) -> Iterator[dict[str, Any]]:
    """Yield the requests of the chat, as the provider is sent them."""
    model, messages = AnthropicModel(secret_arn=""), list[Message]()
    for n in range(QUESTIONS):
        messages.append(Message(id=f"u{n}", role="user", content=f"What is with device {n}, and since when? " * 3))
        made = tuple(ToolCall(f"call_{n}_{at}", f"tool{at}", f'{{"device":"{n}"}}') for at in range(CALLS))
        yield _sent(model, target, messages)
        messages.append(Message(id=f"a{n}", role="assistant", content="I look.", tool_calls=made))
        found = '{"power":42,"at":"2026-11-21T12:00:00Z"},' * 12
        messages += [Message(id=f"r{call.id}", role="tool", content=found, tool_call_id=call.id) for call in made]
        yield _sent(model, target, messages)
        messages.append(Message(id=f"b{n}", role="assistant", content="It has been on since noon. " * 8))


def _sent(model: AnthropicModel, target: Target, messages: list[Message]) -> dict[str, Any]:
    asked = ModelRequest(
        target=target, system=[SYSTEM_PROMPT * 6], messages=repair(messages), tools=_TOOLS, max_tokens=1000
    )
    return model._arguments(asked)  # noqa: SLF001  what is sent, without a server

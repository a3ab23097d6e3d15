"""Costs of calls of models, by published prices, which have a first day, and an upper bound before a call.

Prices are micro-dollars for a million tokens, as https://platform.claude.com/docs/en/about-claude/pricing lists them;
writes into the cache are those that last five minutes, the only ones that runs ask for. A model that is not listed
costs as the dearest one in each column: `claude-fable-5-2` and `claude-mythos-5-2`, whose prices we do not know, and
whatever else a deployment or an administrator names without a price of its own, of whichever provider. So no call is
counted at less than it costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import orjson

from karma.conversations.domain import Json, Message
from karma.models.domain import ANTHROPIC, Price, Rates, Target, Usage
from karma.models.ports import ModelRequest

_A_MILLION: Final = 1_000_000
MAX_INPUT_TOKENS: Final = 1_000_000
"""The largest context window: a longer request is refused, which costs nothing."""
IMAGE_TOKENS: Final = 5_000
"""Tokens counted for an image, more than any takes: the API shrinks larger ones."""
DOCUMENT_TOKENS: Final = 50_000
"""Tokens counted for a document before a call, as for a PDF of some twenty pages; a longer one costs more after."""
_CHARS_A_TOKEN: Final = 4
_FRAME_TOKENS: Final = 32
"""Tokens added for the structure around a message, a system text or a tool."""


_EVER: Final = datetime(2026, 1, 1, tzinfo=UTC)


def _rates(dollars: float, output: float, *, write: float, read: float) -> Rates:
    figures = (round(each * _A_MILLION) for each in (dollars, output, write, read))
    return Rates(**dict(zip(("input", "output", "cache_write", "cache_read"), figures, strict=True)))


PRICES: Final[Mapping[str, Sequence[Price]]] = {
    # Oldest first.
    "claude-haiku-5-5": (
        Price(
            since=_EVER,
            rates=_rates(0.10, 0.50, write=0.125, read=0.01),
            long_above=100_000,
            long=_rates(0.50, 2.50, write=0.625, read=0.05),
        ),
    ),
    "claude-sonnet-5-5": (
        Price(since=_EVER, rates=_rates(2, 10, write=2.50, read=0.20)),
        Price(since=datetime(2026, 10, 7, tzinfo=UTC), rates=_rates(2, 10, write=2.50, read=0.10)),
    ),
    "claude-opus-5-5": (Price(since=_EVER, rates=_rates(4, 20, write=5, read=0.20)),),
    "claude-sonnet-5": (Price(since=_EVER, rates=_rates(2, 10, write=2.50, read=0.20)),),
    "claude-opus-5": (Price(since=_EVER, rates=_rates(5, 25, write=6.25, read=0.50)),),
    "claude-haiku-4-5": (Price(since=_EVER, rates=_rates(1, 5, write=1.25, read=0.10)),),
    # Not offered, and the dearest that the provider sells: what is unlisted costs as these.
    "claude-fable-5": (Price(since=_EVER, rates=_rates(10, 50, write=12.50, read=1)),),
    "claude-mythos-5": (Price(since=_EVER, rates=_rates(10, 50, write=12.50, read=1)),),
}


def price_of(target: Target, at: datetime) -> Price:
    """Return a model's price at a moment; a name with a release's date (`-20251001`) is the model's."""
    listed = target.prices or _published(target)
    if listed is None:
        return Price(since=_EVER, rates=_dearest(at))
    return _in_force(listed, at)


def is_published(target: Target) -> bool:
    """Tell whether the provider has published the model's price."""
    return _published(target) is not None


def _published(target: Target) -> Sequence[Price] | None:
    base, _, tail = target.model.rpartition("-")
    name = base if len(tail) == len("20251001") and tail.isdigit() else target.model
    return PRICES.get(name) if target.provider == ANTHROPIC else None


def cost(usage: Usage, target: Target, at: datetime) -> int:
    """Return the cost of one call in micro-dollars, rounded up; unknown usage counts as none.

    Not for the sum of several calls: longer requests may have another price.
    """
    total = usage.input_tokens or 0
    read, written = usage.cached_input_tokens or 0, usage.cache_write_input_tokens or 0
    rates = price_of(target, at).rates_of(total)
    plain = max(0, total - read - written)
    return _micros(
        plain * rates.input
        + written * rates.cache_write
        + read * rates.cache_read
        + (usage.output_tokens or 0) * rates.output
    )


def estimate(request: ModelRequest, at: datetime) -> int:
    """Return an upper bound of the cost of a call in micro-dollars: every byte a token, all written into the cache.

    A token has at least one byte. Media count as fixed amounts, so that one PDF of many pages may cost more. Where
    other models may answer in the model's place, the bound is the dearest one's.
    """
    tokens = min(MAX_INPUT_TOKENS, input_tokens(request))

    def bound(target: Target) -> int:
        rates = price_of(target, at).rates_of(tokens)
        return _micros(tokens * max(rates.input, rates.cache_write) + request.max_tokens * rates.output)

    return max(map(bound, (request.target, *request.fallbacks)))


def estimated_usage(request: ModelRequest, answer_chars: int) -> Usage:
    """Estimate the tokens of a call whose usage is not to be had, from the characters of its answer.

    Four characters make a token, as in most texts.
    """
    return Usage(
        input_tokens=-(-input_tokens(request) // _CHARS_A_TOKEN), output_tokens=-(-answer_chars // _CHARS_A_TOKEN)
    )


def input_tokens(request: ModelRequest) -> int:
    """Return an upper bound of the tokens of a request."""
    texts = sum(len(text.encode(errors="replace")) + _FRAME_TOKENS for text in request.system)
    tools = sum(len(orjson.dumps(list(tool))) + _FRAME_TOKENS for tool in request.tools)
    return texts + tools + sum(map(_tokens_of, request.messages))


def _tokens_of(message: Message) -> int:
    if message.blocks:
        return _FRAME_TOKENS + len(orjson.dumps(list(message.blocks)))
    parts = [{"type": "text", "text": message.content}] if isinstance(message.content, str) else message.content
    calls = sum(len(f"{call.id}{call.name}{call.arguments}".encode()) + _FRAME_TOKENS for call in message.tool_calls)
    return _FRAME_TOKENS + calls + len(message.tool_call_id) + sum(map(_tokens_of_part, parts))


def _tokens_of_part(part: Json) -> int:
    if part.get("type") == "text":
        return len(str(part.get("text", "")).encode(errors="replace"))
    if part.get("type") == "image":
        return IMAGE_TOKENS
    source = part.get("source")
    if isinstance(source, Mapping) and source.get("mimeType") == "text/plain":
        return max(DOCUMENT_TOKENS, len(str(source.get("value", ""))) * 3 // 4)
    return DOCUMENT_TOKENS


def _dearest(at: datetime) -> Rates:
    every = [_in_force(listed, at) for listed in PRICES.values()]
    rates = [each for price in every for each in (price.rates, price.long) if each is not None]
    return Rates(
        input=max(each.input for each in rates),
        output=max(each.output for each in rates),
        cache_write=max(each.cache_write for each in rates),
        cache_read=max(each.cache_read for each in rates),
    )


def _in_force(listed: Sequence[Price], at: datetime) -> Price:
    """Return the newest price in force at a moment; before the first one, the first."""
    return next((price for price in reversed(listed) if price.since <= at), listed[0])


def _micros(millionths: int) -> int:
    return -(-millionths // _A_MILLION)

"""Costs of calls of models, by published prices, which have a first day, and an upper bound before a call.

Prices are micro-dollars for a million tokens, as https://platform.claude.com/docs/en/about-claude/pricing lists them;
writes into the cache are those that last five minutes, the only ones that runs ask for. A model that is not listed
costs as the dearest one in each column: `claude-fable-5-2` and `claude-mythos-5-2`, whose prices we do not know, and
whatever else a deployment or an administrator names without a price of its own, of whichever provider. So no call is
counted at less than it costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import orjson

from karma.conversations.domain import Json, Message
from karma.models.domain import ANTHROPIC, Price, Rates, Target, Usage
from karma.models.ports import Heard, ModelRequest

_A_MILLION: Final = 1_000_000
MAX_INPUT_TOKENS: Final = 1_000_000
"""The largest context window: a longer request is refused, which costs nothing."""
IMAGE_TOKENS: Final = 5_000
"""Tokens counted for an image, more than any takes: the API shrinks larger ones."""
DOCUMENT_TOKENS: Final = 50_000
"""Tokens counted for a document that is not at hand: at a run's start, which loads it before its first call."""
_CHARS_A_TOKEN: Final = 4
_BYTES_A_TOKEN: Final = 3
_ROUGH_IMAGE_TOKENS: Final = 1_600
_MOST_BYTES_A_TOKEN: Final = 32
"""Bytes of text of which one token is made at the most; in what people and tools write one has three to five."""
_PDF_CHARS_A_TOKEN: Final = 40
STOPPED_TOKENS: Final = 64
"""Tokens that a model may have said beside those that arrived, when it is stopped: what it says in half a second."""
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

    A token has at least one byte. An image counts as a fixed amount, a PDF by its pages and their text, and as all
    that a model reads where these cannot be told. Where other models may answer in the model's place, the bound is the
    dearest one's.
    """
    tokens = min(MAX_INPUT_TOKENS, input_tokens(request))

    def bound(target: Target) -> int:
        rates = price_of(target, at).rates_of(tokens)
        return _micros(tokens * max(rates.input, rates.cache_write) + request.max_tokens * rates.output)

    return max(map(bound, (request.target, *request.fallbacks)))


def affordable_output(request: ModelRequest, micros: int, at: datetime) -> int:
    """Return the tokens of output that an amount pays beside a call's input, at the most as many as it asks for.

    Negative when the amount does not pay the input. The bound is that of `estimate`: a call with so many tokens of
    output is estimated at no more than the amount.
    """
    tokens = min(MAX_INPUT_TOKENS, input_tokens(request))

    def output(target: Target) -> int:
        rates = price_of(target, at).rates_of(tokens)
        left = micros * _A_MILLION - tokens * max(rates.input, rates.cache_write)
        if left < 0:
            return -1
        return min(request.max_tokens, left // rates.output) if rates.output else request.max_tokens

    return min(map(output, (request.target, *request.fallbacks)))


def estimated_usage(request: ModelRequest, answer_chars: int) -> Usage:
    """Estimate the tokens of a call whose usage is not to be had, from the characters of its answer.

    Four characters make a token, as in most texts.
    """
    return Usage(
        input_tokens=-(-input_tokens(request) // _CHARS_A_TOKEN), output_tokens=-(-answer_chars // _CHARS_A_TOKEN)
    )


def stopped_usage(request: ModelRequest, said: int, known: Usage = Usage()) -> Usage:  # noqa: B008 - immutable
    """Return the tokens of a call that was stopped, or lost: those reported, and for the others their upper bound.

    A token has at least one byte. Providers charge what was said until the connection was closed, which is a little
    more than has arrived.

    Args:
        request: the call.
        said: UTF-8 bytes of its answer that arrived.
        known: usage that its provider has reported.
    """
    if known.output_tokens is None:
        known = replace(known, output_tokens=min(request.max_tokens, said + STOPPED_TOKENS))
    if known.input_tokens is None:
        most = min(MAX_INPUT_TOKENS, input_tokens(request))
        is_written = request.is_cached and request.target.provider == ANTHROPIC
        known = replace(known, input_tokens=most, cache_write_input_tokens=most if is_written else None)
    return known


def stopped_call(request: ModelRequest, heard: Heard, at: datetime) -> tuple[Target, Usage, int]:
    """Return the model, the tokens and the micro-dollars by which a call counts that was stopped, or lost.

    Where nobody knows which model of its row had answered it costs as the dearest, and counts as the first one's.
    """
    row = (request.target, *request.fallbacks)
    asked = [each for each in row if (each.provider, each.model) == heard.by][:1] or row
    usages = [stopped_usage(replace(request, target=each), heard.said, heard.usage) for each in asked]
    return asked[0], usages[0], max(cost(usage, each, at) for usage, each in zip(usages, asked, strict=True))


def utf8_size(text: str) -> int:
    """Return the UTF-8 bytes of a text; half a character counts as one."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def input_tokens(request: ModelRequest) -> int:
    """Return an upper bound of the tokens of a request."""
    texts = sum(len(text.encode(errors="replace")) + _FRAME_TOKENS for text in request.system)
    tools = sum(len(orjson.dumps(list(tool))) + _FRAME_TOKENS for tool in request.tools)
    return texts + tools + sum(map(_tokens_of, request.messages))


def has_documents(request: ModelRequest, *, at_hand: bool) -> bool:
    """Tell whether a request has documents whose content is at hand, or ones whose content is not."""
    parts = (part for each in request.messages if not isinstance(each.content, str) for part in each.content)
    sources = (part.get("source") for part in parts if part.get("type") == "document")
    return any((isinstance(each, Mapping) and each.get("type") == "data") is at_hand for each in sources)


def text_of(tokens: int) -> str:
    """Return a text that counts as so many tokens of a request as a system text, for what is not at hand."""
    return "." * max(0, tokens - _FRAME_TOKENS)


def rough_tokens(messages: Sequence[Message]) -> int:
    """Estimate the tokens of messages that no model has counted yet, rather too many than too few.

    Three bytes make a token, an image counts as one of 1,100 by 1,100 pixels, a document by its size.
    """
    return sum(map(_rough_tokens_of, messages))


def _rough_tokens_of(message: Message) -> int:
    if message.blocks or isinstance(message.content, str):
        return _tokens_of(message) // _BYTES_A_TOKEN
    media = [part for part in message.content if part.get("type") != "text"]
    texts = replace(message, content=[part for part in message.content if part.get("type") == "text"])
    return _tokens_of(texts) // _BYTES_A_TOKEN + sum(map(_rough_tokens_of_medium, media))


def _rough_tokens_of_medium(part: Json) -> int:
    source = part.get("source")
    chars = len(str(source.get("value", ""))) if isinstance(source, Mapping) and source.get("type") == "data" else 0
    if isinstance(source, Mapping) and source.get("mimeType") == "text/plain":
        return chars // _BYTES_A_TOKEN
    if part.get("type") == "image":
        return _ROUGH_IMAGE_TOKENS
    return min(DOCUMENT_TOKENS, max(_ROUGH_IMAGE_TOKENS, chars // _PDF_CHARS_A_TOKEN))


def least_input_tokens(request: ModelRequest) -> int:
    """Return a lower bound of the tokens of a request, by its texts: a count below it is none of this request."""
    texts = [*request.system]
    for message in request.messages:
        content = message.content
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts += [str(part.get("text", "")) for part in parts if part.get("type") == "text"]
        texts += [call.arguments for call in message.tool_calls]
    return sum(map(utf8_size, texts)) // _MOST_BYTES_A_TOKEN


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
    if not isinstance(source, Mapping) or source.get("type") != "data":
        return DOCUMENT_TOKENS
    value = str(source.get("value", ""))
    if source.get("mimeType") == "text/plain":
        return len(value) * 3 // 4
    from karma.models.pdf_tokens import most_tokens  # few conversations have any

    most = most_tokens(value)
    return MAX_INPUT_TOKENS if most is None else min(MAX_INPUT_TOKENS, most)


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

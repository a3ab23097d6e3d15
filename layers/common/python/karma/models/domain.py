"""Models as they are asked, usage of their calls and errors of one, the same for all providers. Frozen; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from karma.core.clock import iso, parse_iso
from karma.core.errors import Upstream
from karma.core.records import Record

ANTHROPIC: Final = "anthropic"
OPENAI: Final = "openai"
"""Chat Completions, as OpenAI and many servers offer them."""
PROVIDERS: Final = (ANTHROPIC, OPENAI)
OPENAI_URL: Final = "https://api.openai.com/v1"


class ReasoningEffort(StrEnum):
    """Effort that a model puts into its reasoning; both providers know these names."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"
    MAX = "max"


class ModelNotConfigured(Upstream):
    """The deployment has no key for its model."""

    status = 503
    code = "MODEL_NOT_CONFIGURED"
    retryable = False


class Rates(Record, kw_only=True):
    """Micro-dollars for a million tokens of each kind."""

    input: int
    output: int
    cache_write: int
    cache_read: int


class Price(Record, kw_only=True):
    """The price of a model from one moment on."""

    since: datetime
    rates: Rates
    long_above: int | None = None
    """Input tokens, the cached ones included, above which the whole request costs `long`."""
    long: Rates | None = None

    def rates_of(self, input_tokens: int) -> Rates:
        """Return the rates for a request of this size."""
        if self.long is not None and self.long_above is not None and input_tokens > self.long_above:
            return self.long
        return self.rates


class Target(Record, kw_only=True):
    """A model with all that is needed to ask it. A run keeps it from its start: later changes are for later runs."""

    model: str
    """The provider's id of the model."""
    provider: str = ANTHROPIC
    base_url: str = ""
    """Address of the API without a slash at its end; "": the provider's own, or the deployment's."""
    secret: str = ""
    """Name of the key in the deployment's secret; "": the provider's own, or none."""
    images: bool = True
    """The model reads images."""
    max_tokens: int | None = None
    """Output tokens of one call; None: as many as the request says."""
    context_window: int | None = None
    """Tokens that it reads and writes in one call, as an administrator has configured them; None: see `window_of`."""
    prices: tuple[Price, ...] = ()
    """Prices as an administrator has configured them, oldest first; (): those that are published."""


def dump_target(target: Target) -> dict[str, Any]:
    """Return a target as JSON; what has its default is left out."""
    body: dict[str, Any] = {"model": target.model}
    for name in ("provider", "base_url", "secret", "images", "max_tokens", "context_window"):
        value = getattr(target, name)
        if value != getattr(_PLAIN, name):
            body[name] = value
    if target.prices:
        body["prices"] = dump_prices(target.prices)
    return body


def load_target(body: Mapping[str, Any]) -> Target:
    """Read a target that `dump_target` returned."""
    return Target(**{**body, "prices": load_prices(body.get("prices", ()))})


def dump_prices(prices: Iterable[Price]) -> list[dict[str, Any]]:
    """Return prices as JSON, in micro-dollars for a million tokens."""
    return [
        {
            "since": iso(price.since),
            "input": price.rates.input,
            "output": price.rates.output,
            "cache_write": price.rates.cache_write,
            "cache_read": price.rates.cache_read,
        }
        for price in prices
    ]


def load_prices(body: Iterable[Mapping[str, Any]]) -> tuple[Price, ...]:
    """Read prices that `dump_prices` returned."""
    return tuple(
        Price(
            since=parse_iso(each["since"]),
            rates=Rates(
                input=each["input"],
                output=each["output"],
                cache_write=each["cache_write"],
                cache_read=each["cache_read"],
            ),
        )
        for each in body
    )


_PLAIN: Final = Target(model="")

_WINDOWS: Final = {"claude-haiku-4-5": 200_000}
_WINDOW: Final = 1_000_000
"""Tokens of the context window of Anthropic's models since generation 5."""


def window_of(target: Target) -> int | None:
    """Return the tokens that a model reads and writes in one call: as configured, else as published; None: not known.

    https://platform.claude.com/docs/en/about-claude/models/overview
    """
    if target.context_window is not None or target.provider != ANTHROPIC:
        return target.context_window
    for name, window in _WINDOWS.items():
        if target.model.startswith(name):
            return window
    return _WINDOW if _FIFTH_GENERATION.match(target.model) else None


_FIFTH_GENERATION: Final = re.compile(r"claude-[a-z]+-5\b")


class Compaction(Record, kw_only=True):
    """Summarising of the beginning of a conversation that comes near the context window of its model."""

    enabled: bool = True
    at_percent: int = 80
    """Share of the context window from which on it is summarised before the next call."""
    model: str = ""
    """Name of the component of the model that summarises; "": the run's own model does."""
    target: Target | None = None
    """That model, for a run; None: the run's own."""


COMPACTED_BY_DEFAULT: Final = Compaction()


def dump_compaction(compaction: Compaction) -> list[Any]:
    """Return it as JSON, with its target."""
    target = compaction.target
    return [compaction.enabled, compaction.at_percent, compaction.model, dump_target(target) if target else None]


def load_compaction(body: Sequence[Any]) -> Compaction:
    """Read what `dump_compaction` returned."""
    enabled, at_percent, model, target = body
    return Compaction(
        enabled=enabled, at_percent=int(at_percent), model=model, target=load_target(target) if target else None
    )


class Usage(Record):
    """Tokens of calls, counted as AG-UI does: input includes cache reads and writes. None is unknown, not zero."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    """Those of the output that were reasoning."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            _sum(self.input_tokens, other.input_tokens),
            _sum(self.output_tokens, other.output_tokens),
            _sum(self.cached_input_tokens, other.cached_input_tokens),
            _sum(self.cache_write_input_tokens, other.cache_write_input_tokens),
            _sum(self.reasoning_tokens, other.reasoning_tokens),
        )

    def wire(self, *, provider: str, model: str) -> dict[str, object] | None:
        """Return the usage as an AG-UI TokenUsage; None when nothing is known."""
        known: dict[str, object] = {
            name: value
            for name, value in (
                ("inputTokens", self.input_tokens),
                ("outputTokens", self.output_tokens),
                ("cachedInputTokens", self.cached_input_tokens),
                ("cacheWriteInputTokens", self.cache_write_input_tokens),
                ("reasoningTokens", self.reasoning_tokens),
            )
            if value is not None
        }
        if not known:
            return None
        if self.input_tokens is not None and self.output_tokens is not None:
            known["totalTokens"] = self.input_tokens + self.output_tokens
        return {"provider": provider, "model": model, **known}


UNNAMED: Final = ("", "")
"""Key of usage that was stored without its model."""


class Usages(Record):
    """Usage of several calls, by the provider and the model that answered."""

    by_model: Mapping[tuple[str, str], Usage] = field(default_factory=dict)

    def plus(self, target: Target, usage: Usage) -> Usages:
        """Add the usage of a call."""
        key = target.provider, target.model
        if usage == Usage():
            return self
        return Usages({**self.by_model, key: self.by_model.get(key, Usage()) + usage})

    def named(self, target: Target) -> Usages:
        """Return these usages; what has no name is the target's."""
        if UNNAMED not in self.by_model:
            return self
        own = target.provider, target.model
        return Usages({own if key == UNNAMED else key: usage for key, usage in self.by_model.items()})

    @property
    def total(self) -> Usage:
        """Return the usage of all calls together."""
        return sum(self.by_model.values(), Usage())

    def wire(self) -> list[dict[str, object]]:
        """Return a list of AG-UI TokenUsage, one a model."""
        each = (usage.wire(provider=provider, model=model) for (provider, model), usage in self.by_model.items())
        return [wired for wired in each if wired is not None]

    def dump(self) -> list[list[Any]]:
        """Return the usages as JSON; releases that know no reasoning tokens read those without any."""
        return [
            [
                *key,
                usage.input_tokens,
                usage.output_tokens,
                usage.cached_input_tokens,
                usage.cache_write_input_tokens,
                *([] if usage.reasoning_tokens is None else [usage.reasoning_tokens]),
            ]
            for key, usage in self.by_model.items()
        ]

    @classmethod
    def load(cls, body: Sequence[Sequence[Any]]) -> Usages:
        """Read usages that `dump` returned."""
        return cls({(provider, model): Usage(*counts) for provider, model, *counts in body})


def _sum(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other


class ModelErrorCode(StrEnum):
    """Reason why a call of a model failed; a run that fails because of it has the same code in its RUN_ERROR."""

    MODEL_OVERLOADED = "MODEL_OVERLOADED"
    MODEL_RATE_LIMITED = "MODEL_RATE_LIMITED"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    MODEL_TIMEOUT = "MODEL_TIMEOUT"
    MODEL_STREAM_CUT = "MODEL_STREAM_CUT"
    MODEL_EMPTY_ANSWER = "MODEL_EMPTY_ANSWER"
    """Whoever needs an answer says so, of one that its provider takes for whole."""
    MODEL_REJECTED = "MODEL_REJECTED"
    CONTEXT_WINDOW_EXCEEDED = "CONTEXT_WINDOW_EXCEEDED"

    @property
    def may_pass(self) -> bool:
        """Tell whether the reason may be gone when the same call is made again."""
        return self in _PASSING


_PASSING = frozenset(
    {
        ModelErrorCode.MODEL_OVERLOADED,
        ModelErrorCode.MODEL_RATE_LIMITED,
        ModelErrorCode.MODEL_UNAVAILABLE,
        ModelErrorCode.MODEL_TIMEOUT,
        ModelErrorCode.MODEL_STREAM_CUT,
    }
)

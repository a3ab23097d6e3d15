"""Models as they are asked, usage of their calls and errors of one, the same for all providers. Frozen; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from karma.core.clock import iso, parse_iso
from karma.core.errors import Upstream

ANTHROPIC: Final = "anthropic"
OPENAI: Final = "openai"
"""Chat Completions, as OpenAI and many servers offer them."""
PROVIDERS: Final = (ANTHROPIC, OPENAI)
OPENAI_URL: Final = "https://api.openai.com/v1"


class ModelNotConfigured(Upstream):
    """The deployment has no key for its model."""

    status = 503
    code = "MODEL_NOT_CONFIGURED"
    retryable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Micro-dollars for a million tokens of each kind."""

    input: int
    output: int
    cache_write: int
    cache_read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
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
    prices: tuple[Price, ...] = ()
    """Prices as an administrator has configured them, oldest first; (): those that are published."""


def dump_target(target: Target) -> dict[str, Any]:
    """Return a target as JSON; what has its default is left out."""
    body: dict[str, Any] = {"model": target.model}
    for name in ("provider", "base_url", "secret", "images", "max_tokens"):
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


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of calls, counted as AG-UI does: input includes cache reads and writes. None is unknown, not zero."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            _sum(self.input_tokens, other.input_tokens),
            _sum(self.output_tokens, other.output_tokens),
            _sum(self.cached_input_tokens, other.cached_input_tokens),
            _sum(self.cache_write_input_tokens, other.cache_write_input_tokens),
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


@dataclass(frozen=True, slots=True)
class Usages:
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
        """Return the usages as JSON."""
        return [
            [*key, usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.cache_write_input_tokens]
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

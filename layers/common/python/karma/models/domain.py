"""Usage of a call of a model and errors of one, the same for all providers. Frozen; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from karma.core.errors import Upstream


class ModelNotConfigured(Upstream):
    """The deployment has no key for its model."""

    status = 503
    code = "MODEL_NOT_CONFIGURED"
    retryable = False


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

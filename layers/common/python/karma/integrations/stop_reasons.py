"""Tells of an answer of a model whether it is whole, by the reason that its server gives for its end.

Servers name more reasons than the two APIs define, and proxies pass on those of the model's own provider. The table is
docs/adr/0044, with where each one was seen. A reason that is not in it is none of a whole answer: to ask once more
costs a call, and half an answer that counts as whole makes calls of tools, is a subagent's result or a conversation's
record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from karma.core.observability import logger
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelFailed, StopReason

_STOPS: Final[Mapping[str, StopReason]] = {
    **dict.fromkeys(("stop", "end", "end_turn", "stop_sequence", "eos", "eos_token", "complete"), StopReason.END),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), StopReason.TOOL_USE),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens"), StopReason.MAX_TOKENS),
    **dict.fromkeys(("model_context_window_exceeded", "model_length"), StopReason.CONTEXT_FULL),
    **dict.fromkeys(
        ("content_filter", "refusal", "sensitive", "safety", "recitation", "blocklist", "prohibited_content", "spii",
         "guardrail_intervened"),
        StopReason.REFUSED,
    ),
    "pause_turn": StopReason.PAUSED,
}  # fmt: skip
"""Meanings of the reasons of answers that are no failures, in lower case with underscores."""
BROKEN: Final = frozenset(
    {
        "abort", "aborted", "cancelled", "error", "failed", "insufficient_system_resource", "malformed_function_call",
        "network_error", "time_limit", "timeout", "unexpected_tool_call",
    }
)  # fmt: skip
"""Reasons that say that the server failed: no later reason takes them back."""
_MAX_SHOWN_CHARS: Final = 64


def stop_of(reason: object) -> StopReason | None:
    """Return the meaning of a reason; None where the answer broke off, or nobody knows whether it did."""
    return _STOPS.get(_plain(reason))


class Ending:
    """The reason of an answer's end, of all that its server gives: the last one, unless one before says worse of it."""

    __slots__ = ("_reason",)

    def __init__(self) -> None:
        self._reason: object = None

    @property
    def is_told(self) -> bool:
        """Tell whether there is a reason."""
        return self._reason is not None

    def add(self, reason: object) -> None:
        """Add the next reason that the server gives."""
        if _severity(reason) >= _severity(self._reason):
            self._reason = reason

    def add_native(self, reason: object) -> None:
        """Add what the model's own provider said to a proxy, whose own reason it overrules only for the worse."""
        if _severity(reason):
            self.add(reason)

    def stop(self, *, usage: Usage) -> StopReason:
        """Return the meaning of an answer's end.

        Raises:
            ModelFailed: MODEL_STREAM_CUT: it broke off, or nobody knows that it did not. It may be asked for again.
        """
        stop = stop_of(self._reason)
        if stop is None:
            # An operator sees here the reason of a server that means a whole answer by it.
            logger.warning("model.ended_early", reason=ascii(self._reason)[:_MAX_SHOWN_CHARS])
            raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=usage, is_transient=True)
        return stop


def _plain(reason: object) -> str:
    return reason.lower().replace("-", "_") if isinstance(reason, str) else ""


def _severity(reason: object) -> int:
    return 2 if _plain(reason) in BROKEN else int(stop_of(reason) is StopReason.REFUSED)

"""The parameters by which the models of Anthropic's API think: by effort, older ones by a budget of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from karma.conversations.domain import Json
from karma.models.domain import ReasoningEffort
from karma.models.ports import ModelRequest

_MIN_BUDGET: Final = 1024
"""Tokens below which the API refuses a budget."""

_DEFAULTS: Final[Mapping[str, Json]] = {
    # Their text between tool calls comes as thinking, and "disabled" is refused.
    "claude-sonnet-5-5": {"type": "between_tools"},
}

_BY_BUDGET: Final = ("claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5")
"""Models that know a budget of tokens and no effort; all that are newer refuse a budget."""

_SHARES: Final[Mapping[ReasoningEffort, int]] = {
    ReasoningEffort.LOW: 20,
    ReasoningEffort.MEDIUM: 40,
    ReasoningEffort.HIGH: 60,
    ReasoningEffort.XHIGH: 70,
    ReasoningEffort.MAX: 80,
}
"""Percentage of a call's output tokens that is the budget."""


def thinking_of(request: ModelRequest, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `thinking` and `output_config` of a request, whose messages are given as the API takes them.

    Without an effort the model's own default holds.
    """
    model = request.target.model
    if request.reasoning is None:
        default = next((value for prefix, value in _DEFAULTS.items() if model.startswith(prefix)), None)
        return {} if default is None else {"thinking": default}
    if not model.startswith(_BY_BUDGET):
        return {
            "thinking": {"type": "adaptive", "display": "summarized"},
            "output_config": {"effort": request.reasoning.value},
        }
    budget = max(_MIN_BUDGET, request.max_tokens * _SHARES[request.reasoning] // 100)
    if budget >= request.max_tokens or _acts_without_thinking(messages):
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _acts_without_thinking(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether tool results answer a turn that does not begin with thinking: the API refuses to think then.

    Such a turn is another model's, whose thinking was left out.
    """
    if len(messages) < 2 or messages[-1]["content"][0]["type"] != "tool_result":
        return False
    return messages[-2]["content"][0]["type"] not in {"thinking", "redacted_thinking"}

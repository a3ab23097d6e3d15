"""Tokens as clients are told of them: lists of AG-UI TokenUsages, one for each model that answered."""

from __future__ import annotations

from collections.abc import Sequence

from karma.conversations.domain import Json


def tokens_in(usages: Sequence[Json]) -> int:
    """Return the tokens of AG-UI TokenUsages, of input and output, cached ones included."""
    return sum(int(str(usage.get(name, 0))) for usage in usages for name in ("inputTokens", "outputTokens"))


def usage_of(usages: Sequence[Json]) -> Json | None:
    """Return the sum of AG-UI TokenUsages, under the first one's model; None: there are none."""
    total: dict[str, object] = {}
    for usage in usages:
        for name, value in usage.items():
            known = total.get(name)
            total[name] = known + value if isinstance(known, int) and isinstance(value, int) else known or value
    return total or None

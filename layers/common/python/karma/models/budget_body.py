"""A budget as bodies of requests have it: agents' and runs' alike."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from karma.core.schemas import Body, Whole
from karma.models.budgets import MAX_BUDGET_MICROS, MAX_BUDGET_TOKENS, Budget


class BudgetBody(Body):
    """Upper bounds of what is used; null: there is none."""

    max_tokens: Annotated[Whole, Field(ge=1, le=MAX_BUDGET_TOKENS)] | None = None
    """Tokens of input and output together, cached ones included."""
    max_cost_micros: Annotated[Whole, Field(ge=1, le=MAX_BUDGET_MICROS)] | None = None
    """Cost of calls of models, in micro-dollars."""

    def budget(self) -> Budget:
        """Return the budget of the body."""
        return Budget(max_tokens=self.max_tokens, max_cost_micros=self.max_cost_micros)

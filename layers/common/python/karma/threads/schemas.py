"""Bodies of the thread routes."""

from __future__ import annotations

from typing import Annotated

from karma.conversations.client_ids import ClientId
from karma.conversations.domain import MAX_TITLE_CHARS, ThreadChange
from karma.core.errors import ValidationFailed
from karma.core.schemas import Body, Version, left_out, line
from karma.models.budget_body import BudgetBody
from karma.models.budgets import UNLIMITED

Title = Annotated[str, line(MAX_TITLE_CHARS)]


class CreateThreadBody(Body):
    """`POST /threads`."""

    title: Title
    budget: BudgetBody | None = None
    """Limit of all of its runs together; left out: none."""
    id: ClientId | None = None
    """Id that the client chooses, as `threadId` of a run: 1 to 128 printable ASCII characters, no space and no `#`."""


class ChangeThreadBody(Body):
    """`PATCH /threads/{name}`."""

    title: Title = left_out()
    budget: BudgetBody | None = left_out()
    """Limit of all of its runs together, those before included; null: none."""
    version: Version = left_out()

    def change(self) -> ThreadChange:
        """Return what the body says, in the domain's words.

        Raises:
            ValidationFailed: it changes nothing.
        """
        if not self.model_fields_set & {"title", "budget"}:
            raise ValidationFailed.of("title", "must be given, or budget, or both")
        limits = None
        if "budget" in self.model_fields_set:
            budget = self.budget.budget() if self.budget else UNLIMITED
            limits = (budget.max_tokens, budget.max_cost_micros)
        return ThreadChange(title=self.title if "title" in self.model_fields_set else None, limits=limits)

"""Bodies of the billing routes."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from karma.core.schemas import Body, Version, Whole

MAX_MICROS_PER_DAY: Final = 10**12
"""A million dollars."""


class DismissEvent(Body):
    """Reason for which nobody will handle an event."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]


class LinkCustomer(Body):
    """Account that a customer of Stripe pays for."""

    user_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    from_user_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    """Account that the customer is linked to now; absent: none."""


class DailyBudgetBody(Body):
    """Limit that an account sets for its day."""

    max_cost_micros: Annotated[Whole, Field(ge=1, le=MAX_MICROS_PER_DAY)] | None
    """Cost of all calls of models on a day (UTC), in micro-dollars; null takes the limit off."""
    version: Version | None = None

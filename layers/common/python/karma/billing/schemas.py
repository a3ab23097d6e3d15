"""Bodies of the billing routes."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from karma.core.schemas import Body


class DismissEvent(Body):
    """Reason for which nobody will handle an event."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]


class LinkCustomer(Body):
    """Account that a customer of Stripe pays for."""

    user_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    from_user_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    """Account that the customer is linked to now; absent: none."""

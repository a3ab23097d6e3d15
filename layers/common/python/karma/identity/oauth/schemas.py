"""Bodies of the routes of logins through a provider."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from karma.core.schemas import Body
from karma.identity.schemas import GivenPassword, OpaqueToken


class TradeLoginCode(Body):
    """Code that a login through a provider brought back."""

    code: OpaqueToken = Field(examples=["hkT2Zr6tB0cVnJw3sYp8qLx5uEa9dGf1mKi4oRb7CzQ"])


class BeginLink(Body):
    """Request to link a provider to the account."""

    current_password: GivenPassword | None = Field(default=None, examples=["correct horse battery"])
    """Asked of accounts that have a password; others need a login of this session within ten minutes."""
    redirect: Annotated[str, StringConstraints(max_length=2000)] | None = None
    """Page of a frontend, without a fragment, where the browser ends; by default the front page."""

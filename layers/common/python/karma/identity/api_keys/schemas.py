"""Bodies of the routes of API keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from karma.core.schemas import Body, Moment
from karma.identity.schemas import GivenPassword, Name

Scopes = Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(min_length=1, max_length=50)]


class CreateApiKey(Body):
    """A new API key."""

    name: Name
    scopes: Scopes = Field(default_factory=lambda: ["*"])
    """Permission names; `*` is everything that the owner may do."""
    expires_at: Moment | None = None
    """By default 90 days from now; at most 366."""
    current_password: GivenPassword | None = None
    """Needed unless the caller logged in within the last ten minutes."""

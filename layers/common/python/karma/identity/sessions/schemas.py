"""Bodies of the routes of sessions."""

from __future__ import annotations

from typing import Annotated

from pydantic import StrictBool, StringConstraints

from karma.core.schemas import Body
from karma.identity.schemas import GivenPassword, OpaqueToken


class LogIn(Body):
    """E-mail address and password."""

    email: Annotated[str, StringConstraints(min_length=1, max_length=320)]
    password: Annotated[GivenPassword, StringConstraints(min_length=1)]


class Refresh(Body):
    """A refresh token, to be traded or ended."""

    refresh_token: OpaqueToken


class LogOutEverywhere(Body):
    """Request to end all sessions, and API keys if asked."""

    api_keys: StrictBool = False
    """True: every API key ends as well."""

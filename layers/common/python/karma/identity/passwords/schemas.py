"""Bodies of the routes of passwords."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from karma.core.schemas import Body
from karma.identity.schemas import Email, GivenPassword, OneTime, Password


class ForgotPassword(Body):
    """Address of an account whose password is forgotten."""

    email: Email = Field(examples=["ada@example.com"])


class ResetPassword(OneTime):
    """A new password, and the token of the link that allows it."""

    password: Password


class ChangePassword(Body):
    """The current password and the new one."""

    current_password: Annotated[GivenPassword, StringConstraints(min_length=1)]
    password: Password

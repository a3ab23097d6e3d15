"""Answers of the routes of sessions: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import Literal, TypedDict

from karma.identity.accounts.answers import UserView, user_view
from karma.identity.domain import Tokens, User


class TokensData(TypedDict):
    """A pair of tokens."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"]
    expires_in: int
    """Seconds until the access token expires."""


def tokens_data(tokens: Tokens) -> TokensData:
    """Shape a pair of tokens."""
    return {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "token_type": "bearer",
        "expires_in": tokens.expires_in_s,
    }


class LoginData(TokensData):
    """A pair of tokens and whose they are."""

    user: UserView


def login_data(user: User, tokens: Tokens) -> LoginData:
    """Shape what a login gives."""
    return {**tokens_data(tokens), "user": user_view(user)}

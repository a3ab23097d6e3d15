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
    """Return a pair of tokens in the shape of the API."""
    return {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "token_type": "bearer",
        "expires_in": tokens.expires_in_s,
    }


class LoginData(TokensData):
    """A pair of tokens and the user whose they are."""

    user: UserView


def login_data(user: User, tokens: Tokens) -> LoginData:
    """Return a login's tokens and user in the shape of the API."""
    return {**tokens_data(tokens), "user": user_view(user)}

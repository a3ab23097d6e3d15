"""Answers of the routes of API keys: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TypedDict

from karma.core.clock import iso
from karma.core.schemas import ShownMoment
from karma.identity.domain import ApiKey


class ApiKeyView(TypedDict):
    """An API key, as it is listed."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: ShownMoment
    expires_at: ShownMoment | None
    last_used_at: ShownMoment | None
    """To the hour: the first use of each hour is noted. null: never used."""


def api_key_view(key: ApiKey) -> ApiKeyView:
    """Return a key in the shape of the API, without its secret."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": sorted(key.scopes),
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at) if key.expires_at else None,
        "last_used_at": iso(key.last_used_at) if key.last_used_at else None,
    }


class ApiKeyData(TypedDict):
    """A key that was just made."""

    api_key: ApiKeyView
    key: str
    """The secret, shown this once."""


class ApiKeyListData(TypedDict):
    """A person's keys."""

    api_keys: list[ApiKeyView]
    total: int

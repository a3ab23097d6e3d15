"""Examples of the OpenAPI document for accounts: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.examples import BEGAN, TOKEN, USER

_JWT = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsxIn0.eyJzdWIiOiIwMTk5NGI4ZSJ9.c2lnbmF0dXJl"

FIELDS: Mapping[str, Any] = {
    "key_id": "01994b92-44f9-7c2d-8d05-a9b1c2d3e4f5",
    "requested_at": BEGAN,
    "password": "correct horse battery",
    "current_password": "correct horse battery",
    "role": "user",
    "locale": "en",
    "email_verified": True,
    "disabled": False,
    "disabled_at": None,
    "token": TOKEN,
    "refresh_token": TOKEN,
    "access_token": _JWT,
    "token_type": "bearer",
    "expires_in": 1800,
    "prefix": "karma_7Qm2xK",
    "key": "karma_7Qm2xKd6eLz1uHcPf3GaiR7oE5vB9xYkq4Tn0yXbVw8",
    "scopes": ["device:read", "run:read"],
    "last_used_at": None,
    "provider": "github",
    "linked_at": BEGAN,
    "has_password": True,
    "authorization_url": "https://github.com/login/oauth/authorize?client_id=karma&state=" + TOKEN,
    "state": TOKEN,
    "redirect": "https://app.example.com/devices",
    "q": "ada",
    "avatar": "https://example.com/ada.png",
    **dict.fromkeys(("UserView.id", "ManagedUserView.id"), USER),
    **dict.fromkeys(("UserView.name", "ManagedUserView.name", "Register.name", "PatchProfile.name"), "Ada"),
    "ApiKeyView.id": "01994b92-44f9-7c2d-8d05-a9b1c2d3e4f5",
    **dict.fromkeys(("ApiKeyView.name", "CreateApiKey.name"), "build server"),
    "end_oauth.code": "4f1c2d3e4a5b6c7d8e9f",
    "end_oauth.error": "access_denied",
    "list_users.disabled": True,
}

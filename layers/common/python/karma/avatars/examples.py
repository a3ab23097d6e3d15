"""Examples of the OpenAPI document for avatars: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.examples import USER

_AVATAR = "01994b9a-0b4c-7c39-a6e7-08f91a2b3c4d"

FIELDS: Mapping[str, Any] = {
    "avatar_id": _AVATAR,
    "created_by": USER,
    "avatar_url": "https://example.com/moss.png",
    "skills": ["gardening"],
    "base_model": "claude-sonnet-5-5",
    "performance": {},
    "abilities": {},
    "earnings": {},
    "is_public": False,
    "price": 9.99,
    "rating": None,
    "review_count": 0,
    "download_count": 0,
    **dict.fromkeys(("AvatarView.id", "AvatarSummaryView.id"), _AVATAR),
    **dict.fromkeys(
        ("AvatarView.name", "AvatarSummaryView.name", "CreateAvatarBody.name", "ChangeAvatarBody.name"), "Moss"
    ),
    **dict.fromkeys(
        ("AvatarView.role", "AvatarSummaryView.role", "CreateAvatarBody.role", "ChangeAvatarBody.role"), "gardener"
    ),
    **dict.fromkeys(
        ("AvatarView.status", "AvatarSummaryView.status", "CreateAvatarBody.status", "ChangeAvatarBody.status"), "idle"
    ),
}

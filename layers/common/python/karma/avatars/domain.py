"""Avatars: AI agents that people create, and may list in the shop."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from karma.core.errors import StaleVersion
from karma.core.ids import AvatarId, UserId
from karma.core.records import Record

MAX_NAME_CHARS: Final = 255
MAX_ROLE_CHARS: Final = 255
MAX_DESCRIPTION_CHARS: Final = 4_000
MAX_URL_CHARS: Final = 2_048
MAX_MODEL_CHARS: Final = 255
MAX_PROMPT_CHARS: Final = 32_000
MAX_WORDS: Final = 50
"""Skills, or tools, at the most."""
MAX_WORD_CHARS: Final = 64
MAX_ABILITIES_BYTES: Final = 4_096
MAX_PRICE_MINOR: Final = 9_999_999_999
"""Greatest price in cents: ten digits, two of them after the decimal point."""


class AvatarStatus(StrEnum):
    """State of an avatar."""

    IDLE = "idle"
    WORKING = "working"
    ERROR = "error"


class AvatarChanged(StaleVersion):
    """Another request changed the avatar after it was read: read it again."""


class NewAvatar(Record, kw_only=True):
    """Fields of a new avatar that its creator sets; lengths are checked by schemas.CreateAvatarBody."""

    name: str
    role: str
    """Its job, not an access role."""
    description: str | None = None
    avatar_url: str | None = None
    skills: tuple[str, ...] = ()
    status: AvatarStatus = AvatarStatus.IDLE
    base_model: str | None = None
    system_prompt: str | None = None
    tools: tuple[str, ...] = ()
    abilities: Mapping[str, Any]
    price_minor: int | None = None
    """Price in cents; None: not for sale."""


class Avatar(Record, kw_only=True):
    """One avatar, with the fields that its creator sets and those that are counted."""

    id: AvatarId
    created_by: UserId
    name: str
    role: str
    description: str | None
    avatar_url: str | None
    skills: tuple[str, ...]
    status: AvatarStatus
    base_model: str | None
    system_prompt: str | None
    tools: tuple[str, ...]
    performance: Mapping[str, Any]
    abilities: Mapping[str, Any]
    earnings: Mapping[str, Any]
    is_public: bool
    """The avatar is listed in the shop."""
    price_minor: int | None
    rating: float | None
    review_count: int
    download_count: int
    created_at: datetime
    updated_at: datetime
    version: int


def made(new: NewAvatar, *, avatar_id: AvatarId, created_by: UserId, at: datetime) -> Avatar:
    """Return a new avatar, unused, without reviews and not listed."""
    return Avatar(
        id=avatar_id,
        created_by=created_by,
        name=new.name,
        role=new.role,
        description=new.description,
        avatar_url=new.avatar_url,
        skills=new.skills,
        status=new.status,
        base_model=new.base_model,
        system_prompt=new.system_prompt,
        tools=new.tools,
        performance={},
        abilities=new.abilities,
        earnings={},
        is_public=False,
        price_minor=new.price_minor,
        rating=None,
        review_count=0,
        download_count=0,
        created_at=at,
        updated_at=at,
        version=1,
    )

"""Answers of the avatar routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from karma.avatars.domain import Avatar, AvatarStatus
from karma.core.clock import iso


class AvatarSummaryView(TypedDict):
    """An avatar in a list."""

    id: str
    created_by: str
    name: str
    role: str
    description: str | None
    avatar_url: str | None
    skills: list[str]
    status: AvatarStatus
    base_model: str | None
    tools: list[str]
    performance: dict[str, Any]
    abilities: dict[str, Any]
    earnings: dict[str, Any]
    is_public: bool
    price: float | None
    rating: float | None
    review_count: int
    download_count: int
    created_at: str
    updated_at: str
    version: int


def summary_view(avatar: Avatar) -> AvatarSummaryView:
    """Shape an avatar for lists, without its prompt."""
    return {
        "id": avatar.id,
        "created_by": avatar.created_by,
        "name": avatar.name,
        "role": avatar.role,
        "description": avatar.description,
        "avatar_url": avatar.avatar_url,
        "skills": list(avatar.skills),
        "status": avatar.status,
        "base_model": avatar.base_model,
        "tools": list(avatar.tools),
        "performance": dict(avatar.performance),
        "abilities": dict(avatar.abilities),
        "earnings": dict(avatar.earnings),
        "is_public": avatar.is_public,
        "price": None if avatar.price_minor is None else avatar.price_minor / 100,
        "rating": avatar.rating,
        "review_count": avatar.review_count,
        "download_count": avatar.download_count,
        "created_at": iso(avatar.created_at),
        "updated_at": iso(avatar.updated_at),
        "version": avatar.version,
    }


class AvatarView(AvatarSummaryView):
    """One avatar."""

    system_prompt: str | None


def avatar_view(avatar: Avatar) -> AvatarView:
    """Shape an avatar with all its fields."""
    return {**summary_view(avatar), "system_prompt": avatar.system_prompt}


class AvatarData(TypedDict):
    """One avatar."""

    avatar: AvatarView


class AvatarListData(TypedDict):
    """A page of avatars, without their prompts; `page` and `page_size` unless a cursor or an offset was given."""

    avatars: list[AvatarSummaryView]
    total: int
    total_capped: bool
    limit: int
    next_cursor: str | None
    page: NotRequired[int]
    page_size: NotRequired[int]

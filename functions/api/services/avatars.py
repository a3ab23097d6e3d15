"""Services of avatars."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock

if TYPE_CHECKING:
    from karma.avatars.service import AvatarService


@cache
def service() -> AvatarService:
    """Return the service of avatars."""
    from karma.avatars.repository import AvatarRepository
    from karma.avatars.service import AvatarService

    return AvatarService(AvatarRepository(), clock())

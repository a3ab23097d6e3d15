"""Nouns."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock

if TYPE_CHECKING:
    from karma.nouns.service import NounService


@cache
def service() -> NounService:
    """Create, show, change and delete nouns."""
    from karma.nouns.repository import NounRepository
    from karma.nouns.service import NounService

    return NounService(NounRepository(), clock())

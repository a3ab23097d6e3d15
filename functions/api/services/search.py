"""Services of search."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock

if TYPE_CHECKING:
    from karma.search.service import SearchService


@cache
def service() -> SearchService:
    """Return the search."""
    from karma.core.searchables import declared_types
    from karma.search.cache import IndexCache
    from karma.search.repository import SearchRepository
    from karma.search.service import SearchService

    return SearchService(IndexCache(SearchRepository(), clock()), declared_types())

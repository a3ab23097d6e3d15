"""Services of search."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.search.service import SearchService


@cache
def service() -> SearchService:
    """Return the search."""
    from karma.core.searchables import declared_types
    from karma.devices.shared_search import SearchedShares
    from karma.integrations.s3_segments import S3Segments
    from karma.integrations.sqs import SqsQueue
    from karma.integrations.tantivy.engine import TantivyEngine
    from karma.search.cache import IndexCache
    from karma.search.repository import SearchRepository
    from karma.search.segments.opening import Segments
    from karma.search.segments.requests import QueuedRequests
    from karma.search.service import SearchService
    from karma.search.showing import Showing

    requests = QueuedRequests(SqsQueue(settings().segments_queue_url))
    segments = Segments(TantivyEngine(), S3Segments(settings().files_bucket), requests)
    rows = SearchRepository()
    cache = IndexCache(rows, clock(), segments, showing=Showing(rows, SearchedShares()))
    return SearchService(cache, declared_types())

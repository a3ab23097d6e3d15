"""Builder of the search that tools use: a part of the composition root, for runs that look for something."""

from __future__ import annotations

from agent_stream.settings import ExecutionSettings
from karma.core.clock import Clock
from karma.core.searchables import declared_types
from karma.integrations.s3_segments import S3Segments
from karma.integrations.sqs import SqsQueue
from karma.integrations.tantivy.engine import TantivyEngine
from karma.search.cache import IndexCache
from karma.search.repository import SearchRepository
from karma.search.segments.opening import Segments
from karma.search.segments.requests import QueuedRequests
from karma.search.service import SearchService


def finder(settings: ExecutionSettings, clock: Clock) -> SearchService:
    """Return the search."""
    requests = QueuedRequests(SqsQueue(settings.segments_queue_url))
    segments = Segments(TantivyEngine(), S3Segments(settings.files_bucket), requests)
    return SearchService(IndexCache(SearchRepository(), clock, segments), declared_types())

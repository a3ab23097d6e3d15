"""Search, as the API and the tool `searchDatabase` ask for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from karma.core.clock import epoch_ms
from karma.core.ids import UserId
from karma.core.records import Record
from karma.core.search_rows import SearchKey, SearchType
from karma.search.cache import IndexCache, KeptIndex
from karma.search.domain import Filters, Found, Query, Sort
from karma.search.grammar import Lexicon, read_query
from karma.search.ranking import find
from karma.search.segments.merging import Behind, find_in_segment
from karma.search.segments.ports import SegmentUnusable
from karma.search.text import fold


class SearchRequest(Record, kw_only=True):
    """A request to search. Filters are those beside the query; None: any."""

    query: str = ""
    types: Collection[str]
    """Types that may be found; whoever asks may read all of them."""
    status: str | None = None
    tag: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    sort: Sort | None = None
    limit: int
    after: Behind | None = None
    """Place of the hit behind which the page begins."""

    @property
    def filters(self) -> Filters:
        """Return its filters."""
        return Filters(
            types=frozenset(self.types),
            statuses=frozenset({self.status}) if self.status is not None else None,
            tags=frozenset({fold(self.tag)}) if self.tag is not None else None,
            created_from_ms=epoch_ms(self.created_after) if self.created_after is not None else None,
            created_until_ms=epoch_ms(self.created_before) if self.created_before is not None else None,
        )


class SearchAnswer(Record, kw_only=True):
    """A page of hits, with how the query was understood and what was looked through."""

    found: Found
    query: Query
    is_complete: bool
    """False: only the newest objects were looked through."""
    searched: int
    """Objects that were looked through."""
    in_segment: bool
    """They were looked through in a segment, but for those that have changed since it was made."""
    as_of: datetime
    """Moment at which nothing was stored that was not looked through."""
    shown_in: Mapping[SearchKey, str]
    """Of hits that are others', the projects that show them."""


class SearchService:
    """Finds what accounts have, and what projects show them."""

    def __init__(self, cache: IndexCache, types: Sequence[SearchType]) -> None:
        """Make the service; `types` are those that contexts declare."""
        self._cache = cache
        self._lexicon = Lexicon.of(types)
        self.types = {each.name: each for each in types}

    def search(self, owner: UserId, asked: SearchRequest) -> SearchAnswer:
        """Return the hits of an account's query, the best ones first.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer.
        """
        query = read_query(asked.query, self._lexicon, asked.filters)
        kept = self._cache.index(owner)
        try:
            found = _found(kept, query, asked)
        except SegmentUnusable:
            kept = self._cache.without_segment(owner, kept)
            found = _found(kept, query, asked)
        return SearchAnswer(
            found=self._cache.confirmed(owner, found),
            query=query,
            is_complete=kept.is_complete and kept.shown.is_complete,
            searched=kept.searched,
            in_segment=kept.segment is not None,
            as_of=kept.as_of,
            shown_in=kept.shown.projects,
        )


def _found(kept: KeptIndex, query: Query, asked: SearchRequest) -> Found:
    if kept.segment is None:
        why = asked.after.why if asked.after is not None else None
        return find(kept.index, query, limit=asked.limit, after=why, sort=asked.sort)
    return find_in_segment(
        kept.segment.segment,
        kept.index,
        kept.segment.was,
        query,
        limit=asked.limit,
        after=asked.after,
        sort=asked.sort,
    )

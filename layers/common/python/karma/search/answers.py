"""Answers of search: each shape, and beside it the function that renders it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

from karma.core.clock import from_epoch_ms, iso
from karma.core.schemas import ShownMoment
from karma.search.domain import Filters, Hit, Piece, Query, Why
from karma.search.service import SearchAnswer


class PieceView(TypedDict):
    """A piece of a text."""

    text: str
    matches: bool
    """It is what was looked for."""


class HighlightsView(TypedDict, total=False):
    """Texts of a hit in which something matches, each in its pieces."""

    name: list[PieceView]
    code: list[PieceView]
    text: list[PieceView]


class WhyView(TypedDict):
    """Ranking of a hit: values of the rules in their order, of which the first that differs decides; less is better."""

    reading: int
    """0: it is what the query means by `interpreted`; 1: it has the words of the query, whatever they mean."""
    missing: int
    """Words of the query, from its end, that it does not have."""
    typos: int
    proximity: int
    """Words between those that are looked for."""
    attribute: int
    """Sum over the words: 0 in the name, 1 in a code, 2 in a tag, 3 in the text."""
    position: int
    """Sum over the words: those before it there."""
    exactness: int
    """Twice the words that match only as beginnings or with typos; 1 more unless the name has no others."""


class SearchHitView(TypedDict):
    """An object that was found, as it was when it was stored last, and where it differs, a second before."""

    type: str
    id: str
    name: str
    """A run's is the beginning of what it was asked."""
    code: str
    """Names that machines gave it, such as a serial number; "": none."""
    tags: list[str]
    text: str
    """Beginning of its description."""
    status: str | None
    """Null: objects of its type have none."""
    project_id: str | None
    """Project that shows it to the caller; null: it is no other account's."""
    created_at: ShownMoment
    updated_at: ShownMoment
    """Moment of its last change, of much used objects to the hour."""
    highlights: HighlightsView
    why: WhyView


class InterpretedView(TypedDict):
    """The query as it was read; null: anything."""

    words: list[str]
    types: list[str] | None
    statuses: list[str] | None
    tags: list[str] | None
    created_after: ShownMoment | None
    created_before: ShownMoment | None
    ignored: list[str]
    """Words that say nothing, such as `the`."""
    cut: list[str]
    """Words behind the tenth, which were not looked for."""


class SearchData(TypedDict):
    """A page of hits, the best ones first."""

    results: list[SearchHitView]
    total: int
    limit: int
    next_cursor: str | None
    interpreted: InterpretedView
    engine: Literal["memory", "segment"]
    """`segment`: an index made in the background; what has changed since is looked through as well."""
    as_of: ShownMoment
    """Whatever was stored at this moment was looked through."""
    searched: int
    """Objects that were looked through."""
    is_complete: bool
    """False: only the newest objects were looked through, as many as `searched` says, or some of those of others."""


def search_data(answer: SearchAnswer, *, limit: int, next_cursor: str | None) -> SearchData:
    """Render a page of hits."""
    return {
        "results": [hit_view(hit, project_id=answer.shown_in.get(hit.row.key)) for hit in answer.found.hits],
        "total": answer.found.total,
        "limit": limit,
        "next_cursor": next_cursor,
        "interpreted": interpreted_view(answer.query),
        "engine": "segment" if answer.in_segment else "memory",
        "as_of": iso(answer.as_of),
        "searched": answer.searched,
        "is_complete": answer.is_complete,
    }


def hit_view(hit: Hit, *, project_id: str | None = None) -> SearchHitView:
    """Render a hit, with the project that shows it."""
    key, text = hit.row
    return {
        "type": key.type,
        "id": key.id,
        "name": text.name,
        "code": text.code,
        "tags": list(text.tags),
        "text": text.text,
        "status": text.status or None,
        "project_id": project_id,
        "created_at": _moment(key.created_ms),
        "updated_at": _moment(max(key.created_ms, text.updated_ms)),  # which may be the hour before the creation
        "highlights": _highlights(hit),
        "why": why_view(hit.why),
    }


def why_view(why: Why) -> WhyView:
    """Render the rules by which a hit ranks; the order that was asked for is seen anyway."""
    return {
        "reading": why.reading,
        "missing": why.missing,
        "typos": why.typos,
        "proximity": why.proximity,
        "attribute": why.attribute,
        "position": why.position,
        "exactness": why.exactness,
    }


def interpreted_view(query: Query) -> InterpretedView:
    """Render how a query was read."""
    reading = query.meant
    filters: Filters = reading.filters
    begin, end = filters.created_from_ms, filters.created_until_ms
    return {
        "words": [term.shown for term in reading.terms],
        "types": _sorted(filters.types),
        "statuses": _sorted(filters.statuses),
        "tags": _sorted(filters.tags),
        "created_after": _moment(begin) if begin is not None else None,
        "created_before": _moment(end) if end is not None else None,
        "ignored": list(query.ignored),
        "cut": list(query.cut),
    }


def _highlights(hit: Hit) -> HighlightsView:
    found: HighlightsView = {}
    if "name" in hit.pieces:
        found["name"] = _pieces(hit.pieces["name"])
    if "code" in hit.pieces:
        found["code"] = _pieces(hit.pieces["code"])
    if "text" in hit.pieces:
        found["text"] = _pieces(hit.pieces["text"])
    return found


def _pieces(pieces: Sequence[Piece]) -> list[PieceView]:
    return [{"text": piece.text, "matches": piece.matches} for piece in pieces]


def _sorted(values: Iterable[str] | None) -> list[str] | None:
    return None if values is None else sorted(values)


def _moment(moment_ms: int) -> str:
    return iso(from_epoch_ms(moment_ms))

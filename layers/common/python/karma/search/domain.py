"""Rows, queries and hits: what is looked through, what is asked, and what is found. Frozen; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple, TypeVar

from karma.core.records import Record
from karma.core.search_rows import SearchKey, SearchText

T = TypeVar("T")

MAX_QUERY_CHARS: Final = 200
MAX_TERMS: Final = 10
"""Words and phrases of a query that are looked for; the answer names those that are not."""
MAX_ROWS: Final = 10_000
"""Objects of an owner that are looked through: the newest ones; the answer says whether there are others."""
MAX_TEXT_CHARS: Final = 120
"""Characters of an object's description that are kept."""
MAX_TAG_CHARS: Final = 50
NEAR: Final = 8
"""Words further apart than this are as good as words of different texts."""


class SearchRow(NamedTuple):
    """An object as it is found."""

    key: SearchKey
    text: SearchText


class RowPart(IntEnum):
    """RowPart of a row that a word is in, the best one first."""

    NAME = 0
    CODE = 1
    TAGS = 2
    TEXT = 3


class ObjectType(StrEnum):
    """Type of objects that are found; each is declared by its context."""

    AVATAR = "avatar"
    DEVICE = "device"
    FILE = "file"
    PROJECT = "project"
    RUN = "run"
    TASK = "task"
    THREAD = "thread"


class Sort(StrEnum):
    """Order that goes before the place of words, and after all that says how well they match."""

    CREATED = "created_at"
    UPDATED = "updated_at"
    NAME = "name"


class Filters(Record, kw_only=True):
    """Filters of hits, besides matching words: one of the types, statuses and tags; None: any."""

    types: frozenset[str] | None = None
    statuses: frozenset[str] | None = None
    tags: frozenset[str] | None = None
    """Folded."""
    created_from_ms: int | None = None
    created_until_ms: int | None = None
    """The first moment that is too late."""

    def __and__(self, other: Filters) -> Filters:
        """Return filters that let through what both do."""
        return Filters(
            types=_both(self.types, other.types, frozenset.__and__),
            statuses=_both(self.statuses, other.statuses, frozenset.__and__),
            tags=_both(self.tags, other.tags, frozenset.__and__),
            created_from_ms=_both(self.created_from_ms, other.created_from_ms, max),
            created_until_ms=_both(self.created_until_ms, other.created_until_ms, min),
        )


def _both(one: T | None, other: T | None, narrower: Callable[[T, T], T]) -> T | None:
    if one is None or other is None:
        return other if one is None else one
    return narrower(one, other)


class Term(Record):
    """A word of a query, or several that must follow each other."""

    words: tuple[str, ...]
    as_prefix: bool = False
    """Words that begin with it match as well as it itself: the query ends with it."""
    is_phrase: bool = False
    is_joined: bool = False
    """It is written as one with the term before it, as in `EOS-3A`: neither is left out without the other."""

    @property
    def shown(self) -> str:
        """Return the term as an answer names it."""
        return f'"{" ".join(self.words)}"' if self.is_phrase else self.words[0]


class QueryReading(Record, kw_only=True):
    """One way to understand a query."""

    terms: tuple[Term, ...]
    filters: Filters
    object_id: str = ""
    """Id of the only object that is meant; "": the query is no id."""
    is_whole: bool = False
    """Hits must match all terms."""


class Query(Record, kw_only=True):
    """A query as it is understood: hits of the first reading come before those of the second."""

    readings: tuple[QueryReading, ...]
    ignored: tuple[str, ...] = ()
    """Words that say nothing, such as `the`."""
    cut: tuple[str, ...] = ()
    """Words behind the tenth, which are not looked for."""

    @property
    def meant(self) -> QueryReading:
        """Return the reading that is told: the one that has filters, or else the one of fewer words."""
        return min(self.readings, key=lambda reading: (reading.is_whole, len(reading.terms)))


class Why(NamedTuple):
    """Meilisearch's seven rules as they rank a hit, each the better the less; what follows decides ties."""

    reading: int
    missing: int
    """Terms of the query, from its end, that the hit does not have."""
    typos: int
    proximity: int
    """Words between those that are looked for; 1 more where their order is another one."""
    attribute: int
    """Sum of the parts that the terms are in (`RowPart`)."""
    sort: tuple[int | str, ...]
    position: int
    """Sum of the places of the terms in their parts."""
    exactness: int
    """Twice the terms that it has only as beginnings or with typos; 1 more unless its name has no other words."""
    age: int
    """The less, the later it was changed."""
    id: str

    @classmethod
    def of(cls, values: Sequence[Any]) -> Why:
        """Return the rank that a cursor names, whose signature says that it is ours."""
        return cls._make(tuple(each) if isinstance(each, list) else each for each in values)


class Piece(NamedTuple):
    """A part of a text, which matches what was looked for or does not."""

    text: str
    matches: bool


class Hit(Record, kw_only=True):
    """An object that was found."""

    row: SearchRow
    why: Why
    pieces: Mapping[str, Sequence[Piece]] = field(default_factory=dict)
    """Texts of it that match, by their names: `name`, `code`, `text`."""


class Found(Record, kw_only=True):
    """A page of hits, the best ones first."""

    hits: tuple[Hit, ...]
    total: int
    last: Why | None = None
    """Rank of the last hit, behind which the next page goes on; None: there is no next page."""
    window: int = 0
    """Of hits in a segment, the window in which the last one is: karma/search/segments/merging.py."""
    floor: Why | None = None
    """The greatest rank of the windows before that one."""

"""The judged collection: 500 objects of one account, and queries with the grades of what they should find.

Half of the queries with an answer were written and judged by hand over the first 130 objects (`by: hand`). The others
are words of an object, changed in a known way (`by: mutation`): its own grade is 3, that of objects with all of the
words that were meant in their name 2, and with all of them anywhere 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import orjson

from karma.core.ids import UserId
from karma.core.search_rows import SearchKey, SearchText
from karma.core.searchables import declared
from karma.search.domain import SearchRow
from karma.search.grammar import Lexicon

_FILES = Path(__file__).parents[2] / "fixtures" / "search"
OWNER = UserId("01890000-0000-7000-8000-00000000000a")


@dataclass(frozen=True)
class Judged:
    kind: str
    query: str
    by: str
    grades: Mapping[str, int]


@cache
def rows() -> Sequence[SearchRow]:
    lines = (_FILES / "rows.jsonl").read_bytes().splitlines()
    return [
        SearchRow(
            SearchKey(OWNER, each["type"], each["id"], each["created"] * 60_000),
            SearchText(
                name=each["name"],
                code=each["code"],
                tags=tuple(each["tags"]),
                text=each["text"],
                status=each["status"],
                updated_ms=each["created"] * 60_000,
            ),
        )
        for each in map(orjson.loads, lines)
    ]


@cache
def queries() -> Sequence[Judged]:
    return [Judged(**orjson.loads(line)) for line in (_FILES / "queries.jsonl").read_bytes().splitlines()]


@cache
def lexicon() -> Lexicon:
    return Lexicon.of(each for source in declared() for each in source.types)

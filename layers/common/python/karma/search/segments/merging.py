"""Finds what matches a query in a segment and in the rows that have changed since, in one ranking.

A segment numbers what a reading finds and gives it window by window, the best first. The rows of a window are ranked as
those of a small account are, by the same code (`Ranking`), among those that have changed since and come no later than
the window's last one. So the first page is that of a small account wherever its rows are in the first window. Behind
it, rows of different windows may stand in another order than their ranks; each row is on one page.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import Final, NamedTuple

from karma.search.domain import Found, Hit, Query, SearchRow, Sort, Why
from karma.search.highlighting import pieces_of
from karma.search.index import Index
from karma.search.ranking import Numbers, Ranking
from karma.search.segments.ports import Segment

WINDOW: Final = 32
"""Rows that are read and ranked together; a page that asks for more takes several windows."""


class Behind(NamedTuple):
    """Place of a hit, behind which a page begins."""

    why: Why
    window: int = 0
    floor: Why | None = None
    """The greatest rank of the windows before; changed rows up to it were shown there."""


class _Ranked(NamedTuple):
    why: Why
    row: SearchRow
    by: Ranking
    window: int
    floor: Why | None


def find_in_segment(
    segment: Segment,
    changed: Index,
    was: Index,
    query: Query,
    *,
    limit: int,
    after: Behind | None = None,
    sort: Sort | None = None,
) -> Found:
    """Return the page of hits that begins behind a place.

    Args:
        segment: the account's rows as they were once.
        changed: its rows that have changed since.
        was: the segment's rows of what has changed or gone, which are not to be found.
        query: what is looked for.
        limit: hits of a page.
        after: place of the last hit of the page before.
        sort: an order that goes before the places of words.

    Raises:
        SegmentUnusable: the segment cannot be read.
    """
    best: list[_Ranked] = []
    seen: Numbers = set()
    gone: Numbers = set()
    for n in range(len(query.readings)):
        ranking = Ranking(changed, query.readings[n], n, sort)
        fresh = ranking.numbers - seen
        seen |= fresh
        gone |= Ranking(was, query.readings[n], n, sort).numbers
        if len(best) <= limit and (after is None or n >= after.why.reading):
            begin = after if after is not None and n == after.why.reading else None
            found = _windows(segment, ranking, fresh, was, query, n, begin, sort, most=limit + 1 - len(best))
            best += [each for each, _ in zip(found, range(limit + 1 - len(best)), strict=False)]
    hits = tuple(Hit(row=each.row, why=each.why, pieces=pieces_of(each.row, each.by.matches)) for each in best[:limit])
    last = best[limit - 1] if len(best) > limit else None
    return Found(
        hits=hits,
        total=segment.count(query.readings) - len(gone) + len(seen),
        last=last.why if last else None,
        window=last.window if last else 0,
        floor=last.floor if last else None,
    )


def _windows(
    segment: Segment,
    changed: Ranking,
    fresh: Numbers,
    was: Index,
    query: Query,
    n: int,
    after: Behind | None,
    sort: Sort | None,
    *,
    most: int,
) -> Iterator[_Ranked]:
    """Yield the hits of a reading behind a place, window by window."""
    reading, before = query.readings[n], query.readings[:n]
    window, floor, begin = (after.window, after.floor, after.why) if after else (0, None, None)
    while True:
        rows = segment.window(reading, before, sort=sort, begin=window * WINDOW, size=WINDOW)
        index = Index(each for each in rows if each.key not in was)
        ranking = Ranking(index, reading, n, sort)
        ranked = ranking.ranked(ranking.numbers, None, most=WINDOW)
        is_last = len(rows) < WINDOW
        ceiling = max(why for why, _ in ranked) if ranked else None
        if floor is not None and (ceiling is None or ceiling < floor):
            ceiling = floor
        others = changed.ranked(fresh, max(filter(None, (floor, begin)), default=None), most=most)
        yield from merge(
            (_Ranked(why, index.entry(k).row, ranking, window, floor) for why, k in ranked if not begin or why > begin),
            (
                _Ranked(why, changed.row(k), changed, window, floor)
                for why, k in others
                if is_last or (ceiling is not None and why <= ceiling)
            ),
            key=lambda each: each.why,
        )
        if is_last:
            return
        window, floor, begin = window + 1, ceiling, None

"""Segments answer as an index in memory does, and with what has changed behind them: properties over random rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.core.search_rows import SearchKey
from karma.integrations.tantivy.engine import TantivyEngine
from karma.search.domain import Filters, Found, SearchRow, Sort, Why
from karma.search.grammar import read_query
from karma.search.index import Index
from karma.search.ranking import find
from karma.search.segments.merging import WINDOW, Behind, find_in_segment
from karma.search.segments.ports import Segment, SegmentUnusable
from tests.unit.search.judged import OWNER, Judged, lexicon, queries, rows
from tests.unit.search.test_index import ids, names, row
from tests.unit.search.test_relevance import ndcg

ENGINE = TantivyEngine()
FEW = settings(max_examples=15, deadline=None)


def opened(given_rows: Sequence[SearchRow]) -> Segment:
    return ENGINE.open(OWNER, ENGINE.build(given_rows).data)


class Split:
    """Rows of which some are in a segment, some have changed since, and some have gone since."""

    def __init__(self, now: Sequence[SearchRow], before: Sequence[SearchRow], changed: Sequence[SearchKey]) -> None:
        """`before` are the rows of the segment, `changed` the keys of all that have changed since, gone ones too."""
        self.memory = Index(now)
        self.segment = opened(before)
        self.gone = frozenset(changed)
        self.changed = Index([each for each in now if each.key in self.gone])
        self.was = Index(self.segment.rows_of(self.gone))

    def search(
        self,
        query: str,
        *,
        limit: int = 1_000,
        after: Behind | None = None,
        sort: Sort | None = None,
        **filters: Any,
    ) -> Found:
        asked = read_query(query, lexicon(), Filters(**filters))
        return find_in_segment(self.segment, self.changed, self.was, asked, limit=limit, after=after, sort=sort)

    def expected(self, query: str, *, limit: int = 1_000, sort: Sort | None = None, **filters: Any) -> Found:
        asked = read_query(query, lexicon(), Filters(**filters))
        return find(self.memory, asked, limit=limit, sort=sort)


@cache
def judged() -> Split:
    """Return the judged rows: of three in four the segment has what they are, or were, and of some that have gone."""
    dice = random.Random(3)
    before: list[SearchRow] = []
    changed: list[SearchKey] = []
    for each in rows():
        fate = dice.choice(("same", "same", "same", "new", "changed"))
        if fate != "same":
            changed.append(each.key)
        if fate == "same":
            before.append(each)
        elif fate == "changed":
            other = dice.choice(rows())
            before.append(SearchRow(each.key, replace(other.text, name=f"{other.text.name} {each.text.name}")))
    for n, each in enumerate(rows()[:50]):
        gone = SearchRow(SearchKey(OWNER, each.key.type, f"gone{n}", n), each.text)
        before.append(gone)
        changed.append(gone.key)
    return Split(rows(), before, changed)


@pytest.mark.req("R-C-31")
def test_queries_are_answered_as_judged_also_by_a_segment_with_what_has_changed() -> None:
    by_kind: dict[str, list[tuple[float, Judged]]] = {}
    for each in queries():
        if each.grades:
            score = ndcg(ids(judged().search(each.query, limit=10)), each.grades)
            by_kind.setdefault(each.kind, []).append((score, each))
        elif each.kind == "none":
            assert ids(judged().search(each.query)) == []
    means = {kind: mean(score for score, _ in found) for kind, found in by_kind.items()}
    assert len(means) == 8
    assert min(means.values()) >= 0.90, means
    assert mean(score for found in by_kind.values() for score, _ in found) >= 0.95, means


@pytest.mark.req("R-C-31")
def test_a_judged_query_finds_the_same_in_both_with_the_same_texts_lit_up() -> None:
    differ = 0
    for each in queries():
        found, expected = judged().search(each.query), judged().expected(each.query)
        assert found.total == expected.total, each.query
        assert sorted(ids(found)) == sorted(ids(expected)), each.query
        if found.total <= WINDOW:
            assert found.hits == expected.hits, each.query
        ranked = {hit.row.key: hit for hit in expected.hits}
        assert all(hit == ranked[hit.row.key] for hit in found.hits)
        differ += ids(found)[:10] != ids(expected)[:10]
    assert differ <= len(queries()) // 50


texts = names | st.sampled_from(["", "温度传感器 hall", "hall 温度传感", "nort pump 3a", "northpump hall"])
asked = st.one_of(
    texts,
    texts.map(lambda text: f'"{text}"'),
    st.sampled_from(["north hal", "sensro", "northhall pumps", "north pump-3a hall", "online devices pump", "a the"]),
)


@pytest.mark.fault("F-36b")
@given(st.lists(st.tuples(texts, st.none() | texts, st.booleans()), min_size=1, max_size=50), asked)
@FEW
def test_nothing_is_found_by_what_it_was_and_everything_by_what_it_is(
    given_rows: Sequence[tuple[str, str | None, bool]], query: str
) -> None:
    """Each row has been in the segment by its first name, if any, and is what the second one says, or as it was."""
    before, now, changed = [], [], []
    for n, (first, second, was_there) in enumerate(given_rows):
        old, new = row(n, first), row(n, second) if second is not None else None
        if was_there or second == first:
            before.append(old)
        if second == first and was_there:
            now.append(old)
            continue
        changed.append(old.key)
        if new is not None:
            now.append(new)
    split = Split(now, before, changed)
    found, expected = split.search(query), split.expected(query)
    assert found.total == expected.total == len(found.hits)
    assert sorted(ids(found)) == sorted(ids(expected))
    if len(now) <= WINDOW:
        assert found.hits == expected.hits


@given(st.lists(texts, min_size=1, max_size=120), asked, st.integers(1, 40), st.sampled_from([None, *Sort]))
@FEW
def test_pages_together_are_the_whole_list_once(
    given_names: Sequence[str], query: str, size: int, sort: Sort | None
) -> None:
    given_rows = [row(n, name) for n, name in enumerate(given_names)]
    split = Split(given_rows, given_rows[::2], [each.key for each in given_rows[1::2]])
    whole = split.search(query, sort=sort)
    seen: list[str] = []
    after: Behind | None = None
    while True:
        page = split.search(query, limit=size, after=after, sort=sort)
        seen += ids(page)
        assert page.total == whole.total
        if page.last is None:
            break
        floor = None if page.floor is None else Why.of(list(page.floor))
        after = Behind(Why.of(list(page.last)), page.window, floor)
    assert seen == ids(whole)
    assert sorted(seen) == sorted(ids(split.expected(query)))


@pytest.mark.parametrize("sort", [None, *Sort], ids=lambda sort: sort or "none")
@pytest.mark.parametrize("query", ["", "pump", "measure", "status:online"], ids=["all", "few", "many", "filter"])
def test_orders_and_filters_are_those_of_an_index_in_memory(query: str, sort: Sort | None) -> None:
    filters: list[dict[str, Any]] = [{}, {"types": frozenset({"device", "task"})}, {"tags": frozenset({"water"})}]
    for more in filters:
        found = judged().search(query, limit=WINDOW, sort=sort, **more)
        expected = judged().expected(query, limit=WINDOW, sort=sort, **more)
        assert found.total == expected.total
        assert ids(found)[:10] == ids(expected)[:10]
    between: dict[str, Any] = {"created_from_ms": 100 * 60_000, "created_until_ms": 140 * 60_000}
    assert ids(judged().search(query, sort=sort, **between)) == ids(judged().expected(query, sort=sort, **between))
    assert ids(judged().search(query, created_until_ms=-5)) == []


def test_an_object_is_found_by_its_id_where_it_is() -> None:
    same = next(each for each in rows() if each.key not in judged().gone)
    one = SearchRow(SearchKey(OWNER, "task", "01890000-0000-7000-8000-000000000001", 5), same.text)
    two = SearchRow(one.key, replace(same.text, name="other"))
    assert ids(Split([one, same], [one, same], []).search(one.key.id)) == [one.key.id]
    [hit] = Split([two, same], [one, same], [one.key]).search(one.key.id).hits
    assert hit.row == two


def test_what_is_no_segment_is_not_opened() -> None:
    data = ENGINE.build([row(1, "pump")]).data
    assert ids(
        find_in_segment(ENGINE.open(OWNER, data), Index(), Index(), read_query("pump", lexicon(), Filters()), limit=5)
    )
    broken = [b"", b"{}", data[:-9], data.replace(b'"format":1', b'"format":0'), data[:40], b"\n" + data]
    for each in broken:
        with pytest.raises(SegmentUnusable):
            ENGINE.open(OWNER, each)

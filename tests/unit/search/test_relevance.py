"""Quality of answers to queries: nDCG@10 over a judged collection, in all and in each class of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import log2
from statistics import mean

import pytest

from karma.search.domain import Filters
from karma.search.grammar import read_query
from karma.search.index import Index
from karma.search.ranking import find
from tests.unit.search.judged import Judged, lexicon, queries, rows

_DEPTH = 10
_IN_ALL, _IN_EACH = 0.95, 0.90


@pytest.fixture(scope="module")
def index() -> Index:
    return Index(rows())


def answer(index: Index, query: str) -> list[str]:
    found = find(index, read_query(query, lexicon(), Filters()), limit=_DEPTH)
    return [hit.row.key.id for hit in found.hits]


def gain(grades: Sequence[int]) -> float:
    """Return the discounted cumulative gain of grades in their order."""
    return sum((float(2**grade) - 1) / log2(place + 2) for place, grade in enumerate(grades[:_DEPTH]))


def ndcg(found: Sequence[str], grades: Mapping[str, int]) -> float:
    """Return how near an answer comes to the best one, from 0 to 1."""
    return gain([grades.get(each, 0) for each in found]) / gain(sorted(grades.values(), reverse=True))


def scores(index: Index) -> dict[str, list[tuple[float, Judged]]]:
    found: dict[str, list[tuple[float, Judged]]] = defaultdict(list)
    for judged in queries():
        if judged.grades:
            found[judged.kind].append((ndcg(answer(index, judged.query), judged.grades), judged))
    return found


@pytest.mark.req("R-C-31")
def test_queries_of_every_class_are_answered_as_judged(index: Index) -> None:
    by_kind = scores(index)
    assert len(queries()) >= 200
    assert by_kind.keys() == {"exact", "prefix", "typo", "order", "cjk", "mixed", "serial", "filter"}
    means = {kind: mean(score for score, _ in found) for kind, found in by_kind.items()}
    worst = sorted((score, each.query) for found in by_kind.values() for score, each in found)[:15]
    assert min(means.values()) >= _IN_EACH, (means, worst)
    assert mean(score for found in by_kind.values() for score, _ in found) >= _IN_ALL, (means, worst)


@pytest.mark.req("R-C-31")
@pytest.mark.parametrize("query", [each.query for each in queries() if each.kind == "none"])
def test_what_is_nowhere_is_not_found(index: Index, query: str) -> None:
    assert answer(index, query) == []


def test_the_one_object_that_is_meant_comes_first(index: Index) -> None:
    known = [each for each in queries() if [*each.grades.values()].count(3) == 1]
    ranks = []
    for judged in known:
        [meant] = [each for each, grade in judged.grades.items() if grade == 3]
        found = answer(index, judged.query)
        ranks.append(1 / (1 + found.index(meant)) if meant in found else 0)
    assert mean(ranks) >= 0.95

"""The grammar by which queries are read."""

from __future__ import annotations

import pytest

from karma.core.searchables import declared_types
from karma.identity.permissions import ROLES_OF
from karma.search.domain import MAX_TERMS, Filters, ObjectType, Query
from karma.search.grammar import read_query
from tests.unit.search.judged import lexicon


def read(text: str, **given: frozenset[str]) -> Query:
    return read_query(text, lexicon(), Filters(**given))  # type: ignore[arg-type]


def told(text: str) -> tuple[list[str], set[str], set[str], set[str]]:
    """Return the words, types, statuses and tags that a query means."""
    meant = read(text).meant
    sets = (meant.filters.types, meant.filters.statuses, meant.filters.tags)
    types, statuses, tags = (set(each or ()) for each in sets)
    return [term.shown for term in meant.terms], types, statuses, tags


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("pump hall", (["pump", "hall"], set(), set(), set())),
        ("Online DEVICES", ([], {"device"}, {"online"}, set())),
        ("show me all my offline devices", ([], {"device"}, {"offline"}, set())),
        ("failed runs pump", (["pump"], {"run"}, {"failed"}, set())),
        ("type:device status:online tag:North pump", (["pump"], {"device"}, {"online"}, {"north"})),
        ("type:devices", ([], {"device"}, set(), set())),
        ('tag:"north hall"', ([], set(), set(), {"north hall"})),
        ("status:online status:error", ([], set(), {"online", "error"}, set())),
        ("error file", (["error"], {"file"}, set(), set())),
        ("pump-online", (["pump", "online"], set(), set(), set())),
        ('"online devices"', (['"online devices"'], set(), set(), set())),
        ("type:planet", (["type", "planet"], set(), set(), set())),
        ("在线设备", ([], {"device"}, {"online"}, set())),
        ("上海设备", (["上海"], {"device"}, set(), set())),
        ("the", (["the"], set(), set(), set())),
        ("", ([], set(), set(), set())),
        ('""', ([], set(), set(), set())),
        ('"pump hall', (['"pump hall"'], set(), set(), set())),
        ("created_after:yesterday", (["created", "after", "yesterday"], set(), set(), set())),
    ],
    ids=range(19),
)
def test_what_a_query_means(text: str, meant: object) -> None:
    assert told(text) == meant


def test_words_that_are_filters_are_words_in_a_second_reading() -> None:
    first, second = read("online pump").readings
    assert (first.filters.statuses, [term.shown for term in first.terms]) == (frozenset({"online"}), ["pump"])
    assert (second.filters.statuses, second.is_whole) == (None, True)
    assert [term.shown for term in second.terms] == ["online", "pump"]


def test_moments_narrow_and_days_are_utc() -> None:
    filters = read("created_after:2026-01-02 created_before:2026-01-03T00:00:00Z").meant.filters
    assert (filters.created_from_ms, filters.created_until_ms) == (1_767_312_000_000, 1_767_398_400_000)


def test_what_is_given_beside_a_query_is_never_widened() -> None:
    only = frozenset({"device"})
    for text in ("tasks", "type:task", "type:task pump", "失败", "failed"):
        for reading in read(text, types=only).readings:
            assert reading.filters.types is not None
            assert reading.filters.types <= only


def test_words_behind_the_tenth_are_named() -> None:
    query = read(" ".join(f"w{n}" for n in range(13)))
    assert (len(query.meant.terms), query.cut) == (MAX_TERMS, ("w10", "w11", "w12"))


def test_an_id_means_its_object_alone() -> None:
    [reading] = read(" 01994b90-2f1a-7e35-8c77-0d9e6b4a5f21 ").readings
    assert (reading.object_id, reading.terms) == ("01994b90-2f1a-7e35-8c77-0d9e6b4a5f21", ())


def test_types_are_those_that_contexts_declare_each_with_a_permission_that_there_is() -> None:
    assert [each.name for each in declared_types()] == [each.value for each in ObjectType]
    assert {each.permission for each in declared_types()} <= ROLES_OF.keys()

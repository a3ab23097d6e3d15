"""Devices of others that projects show, in the index of whoever is shown them: memory and segment alike."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import pytest

from karma.core.clock import epoch_ms
from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.search.cache import IndexCache
from karma.search.domain import SearchRow, Why
from karma.search.ports import SharedRows, StampedChange
from karma.search.segments.building import BuildOutcome
from karma.search.segments.merging import Behind
from karma.search.segments.opening import Segments
from karma.search.service import SearchAnswer, SearchRequest, SearchService
from karma.search.showing import MAX_PROJECTS, Showing
from tests.fakes.search import MemorySearchRows
from tests.support.rows import NOW
from tests.unit.search.judged import OWNER
from tests.unit.search.test_segment_building import MOST, TYPES
from tests.unit.search.test_segment_building import World as Segmented

BEA, EVE = UserId("01890000-0000-7000-8000-00000000000b"), UserId("01890000-0000-7000-8000-00000000000e")


class SharedThings:
    """Objects that projects show, as a test says; nobody finds what it says is gone."""

    def __init__(self) -> None:
        self.shown: dict[str, list[SearchKey]] = {}
        self.gone: set[SearchKey] = set()
        self.asked: list[Sequence[str]] = []

    def shown_to(self, viewer: UserId, projects: Sequence[str], *, most: int) -> SharedRows:
        self.asked.append(projects)
        found = {key: each for each in projects for key in self.shown.get(each, []) if key.owner != viewer}
        return SharedRows(dict(list(found.items())[:most]), is_complete=len(found) <= most)

    def findable(self, viewer: UserId, keys: Collection[SearchKey]) -> Collection[SearchKey]:
        assert viewer
        return [key for key in keys if key not in self.gone]


class CountedRows(MemorySearchRows):
    """Counts the rows of others that are read."""

    read = 0

    def rows_of(self, keys: Collection[SearchKey]) -> Sequence[SearchRow]:
        self.read += len(keys)
        return super().rows_of(keys)


class Team(Segmented):
    """An account with rows of its own, in memory or in a segment, and projects that show it devices of Bea's."""

    def __init__(self, *, in_segment: bool) -> None:
        self.things, self.most = SharedThings(), MOST if in_segment else 1_000
        super().__init__(rows=0)
        self.store: CountedRows = CountedRows()
        self.service = self.process()
        for n in range(20 if in_segment else 4):
            self.say(n, f"valve {n}")
        self.put(SearchKey(OWNER, "project", "p1", 50), "Greenhouse")
        if in_segment:
            assert self.build() is BuildOutcome.PUBLISHED

    def process(self, **_: object) -> SearchService:
        segments, showing = Segments(self.engine, self.objects, self.asked), Showing(self.store, self.things)
        cache = IndexCache(self.store, self.clock, segments, most=self.most, showing=showing)
        return SearchService(cache, TYPES)

    def put(self, key: SearchKey, name: str | None) -> SearchKey:
        self.sequence += 1
        text = None if name is None else SearchText(name=name, updated_ms=self.sequence)
        self.store.write(key.owner, [StampedChange(RowChange(key, text), str(self.sequence))], at=self.clock.at)
        return key

    def device(self, n: int, *, name: str = "", owner: UserId = BEA) -> SearchKey:
        return self.put(SearchKey(owner, "device", f"b{n}", epoch_ms(NOW) + n), name or f"pump {n}")


@pytest.fixture(params=[False, True], ids=["memory", "segment"])
def team(request: pytest.FixtureRequest) -> Team:
    return Team(in_segment=request.param)


@pytest.mark.fault("F-44a")
def test_what_a_project_shows_is_found_and_said_to_be_shown_by_it(team: Team) -> None:
    assert team.found("pump") == []
    team.things.shown["p1"] = [team.device(n) for n in range(3)]
    answer = team.search("pump")
    assert team.found("pump") == ["pump 0", "pump 1", "pump 2"]
    assert {answer.shown_in[hit.row.key] for hit in answer.found.hits} == {"p1"}
    assert (answer.found.total, answer.is_complete, answer.searched) == (3, True, team.search("valve").searched)
    assert team.search("valve").searched == len([*team.store.newest(OWNER, most=99).rows]) + 3
    assert team.search("pump", owner=EVE).found.total == 0


@pytest.mark.fault("F-44b")
def test_what_is_shown_no_more_is_not_found_by_the_next_query(team: Team) -> None:
    first, second = team.device(1), team.device(2)
    team.things.shown["p1"] = [first, second]
    assert team.found("pump") == ["pump 1", "pump 2"]
    team.things.shown["p1"] = [second]
    assert team.found("pump") == ["pump 2"]
    assert team.search("pump").found.total == 1
    team.things.gone.add(second)
    assert (team.found("pump"), team.search("pump").found.total) == ([], 0), "its row is still there"
    team.things.gone.clear()
    team.things.shown.clear()
    assert team.found("pump") == []
    team.things.shown["p1"] = [first]
    assert team.found("pump") == ["pump 1"]


@pytest.mark.fault("F-44b")
def test_a_project_is_found_by_its_members_alone_before_a_stream_has_told_of_the_end(team: Team) -> None:
    assert team.found("greenhouse") == ["Greenhouse"]
    team.things.gone.add(SearchKey(OWNER, "project", "p1", 50))
    assert (team.found("greenhouse"), team.search("greenhouse").found.total) == ([], 0)


def test_a_changed_row_is_read_again_and_an_unchanged_one_is_not(team: Team) -> None:
    keys = team.things.shown["p1"] = [team.device(n) for n in range(3)]
    team.found("pump")
    before = team.store.read
    team.found("pump")
    assert team.store.read == before
    team.put(keys[1], "fan 1")
    assert (team.found("fan"), team.found("pump")) == (["fan 1"], ["pump 0", "pump 2"])
    assert team.store.read == before + 3
    team.put(keys[1], None)
    assert team.found("fan") == []
    team.put(keys[1], "pump again")
    assert team.found("again") == ["pump again"]


def test_somebody_in_no_project_asks_nothing_of_them(team: Team) -> None:
    team.put(SearchKey(OWNER, "project", "p1", 50), None)
    assert team.found("valve")
    assert team.things.asked == []


def test_the_newest_projects_are_asked_and_an_answer_says_if_there_are_more(team: Team) -> None:
    for n in range(MAX_PROJECTS):
        team.put(SearchKey(OWNER, "project", f"q{n:03d}", 100 + n), "Shed")
    answer = team.search("pump")
    assert not answer.is_complete
    assert len(team.things.asked[-1]) == MAX_PROJECTS
    assert "p1" not in team.things.asked[-1]


def test_rows_of_others_and_own_ones_are_one_ranking_in_whole_pages(team: Team, seed: int) -> None:
    dice = random.Random(seed)
    for n in range(60, 75):
        team.say(n, f"pump {dice.randint(0, 9)} hall")
    team.things.shown["p1"] = [team.device(n, name=f"pump {dice.randint(0, 9)} hall") for n in range(15)]
    whole = _page(team, limit=100).found
    assert whole.total == len(whole.hits) == 30
    assert [hit.why for hit in whole.hits] == sorted(hit.why for hit in whole.hits)
    seen: list[str] = []
    after: Behind | None = None
    while True:
        found = _page(team, limit=4, after=after).found
        seen += [hit.row.key.id for hit in found.hits]
        assert found.total == 30
        if found.last is None:
            break
        after = Behind(Why.of([*found.last]), found.window, found.floor)
    assert seen == [hit.row.key.id for hit in whole.hits]


def _page(team: Team, *, limit: int, after: Behind | None = None) -> SearchAnswer:
    request = SearchRequest(query="pump hall", types=[each.name for each in TYPES], limit=limit, after=after)
    return team.service.search(OWNER, request)


def test_an_index_is_as_full_as_before_when_many_are_shown_and_hidden_again(team: Team) -> None:
    keys = [team.device(n) for n in range(100)]
    for _ in range(4):
        team.things.shown["p1"] = keys
        assert team.search("pump").found.total == 100
        team.things.shown["p1"] = []
        assert team.search("pump").found.total == 0
    own = len(team.store.newest(OWNER, most=99).rows)
    assert team.search("valve").searched == own

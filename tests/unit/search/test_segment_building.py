"""Segments are made, kept, told of and done without: builders that die or meet, and what a query says meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from karma.core.ids import UserId, new_id
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.core.searchables import declared_types
from karma.integrations.tantivy.engine import TantivyEngine
from karma.search.cache import IndexCache
from karma.search.domain import SearchRow
from karma.search.ports import StampedChange
from karma.search.segments.building import BUILD_TIME, BuildOutcome, SegmentBuilder
from karma.search.segments.domain import JOURNAL_KEPT, MAX_AGE, RENEWED_AFTER
from karma.search.segments.opening import Segments
from karma.search.segments.ports import PackedSegment
from karma.search.segments.requests import QueuedRequests, SegmentRequest, read_message
from karma.search.service import SearchAnswer, SearchRequest, SearchService
from tests.fakes.runs import SetClock
from tests.fakes.search import MemorySearchRows
from tests.fakes.segments import AskedSegments, MemorySegments
from tests.support.rows import NOW
from tests.unit.search.judged import OWNER

TYPES = declared_types()
MOST = 8


class Engine(TantivyEngine):
    """Does something else while it builds."""

    meanwhile: Callable[[], None] | None = None

    def build(self, rows: Sequence[SearchRow]) -> PackedSegment:
        done, self.meanwhile = self.meanwhile, None
        made = super().build(rows)
        if done is not None:
            done()
        return made


class World:
    """An account with more objects than are looked through in memory, and processes that are asked."""

    def __init__(self, rows: int = 12) -> None:
        self.store: Any = MemorySearchRows()
        self.objects, self.asked = MemorySegments(), AskedSegments()
        self.clock, self.engine = SetClock(NOW), Engine()
        self.sequence = 0
        self.service = self.process()
        for n in range(rows):
            self.say(n, f"pump {n}")

    def process(self, **more: Any) -> SearchService:
        """Return the service of a process that has just begun."""
        segments = Segments(self.engine, self.objects, self.asked)
        return SearchService(IndexCache(self.store, self.clock, segments, most=MOST, **more), TYPES)

    def builder(self, rows: Any = None, objects: Any = None) -> SegmentBuilder:
        return SegmentBuilder(rows or self.store, self.engine, objects or self.objects, self.clock, above=MOST)

    def say(self, n: int, name: str | None, *, owner: UserId = OWNER) -> None:
        self.sequence += 1
        self.clock.at += timedelta(seconds=1)
        key = SearchKey(owner, "device", f"r{n}", n)
        text = None if name is None else SearchText(name=name, updated_ms=self.sequence)
        self.store.write(owner, [StampedChange(RowChange(key, text), str(self.sequence))], at=self.clock.at)

    def segment_id(self, owner: UserId = OWNER) -> str:
        segment = self.store.head(owner).segment
        return segment.id if segment else ""

    def build(self) -> BuildOutcome:
        return self.builder().build(OWNER, instead_of=self.segment_id())

    def search(self, query: str, *, owner: UserId = OWNER, by: SearchService | None = None) -> SearchAnswer:
        request = SearchRequest(query=query, types=[each.name for each in TYPES], limit=100)
        return (by or self.service).search(owner, request)

    def found(self, query: str, *, by: SearchService | None = None) -> list[str]:
        return sorted(hit.row.text.name for hit in self.search(query, by=by).found.hits)


@pytest.mark.req("R-C-31")
def test_of_many_objects_the_newest_are_found_until_there_is_a_segment_and_then_all() -> None:
    world = World()
    first = world.search("pump")
    assert (first.in_segment, first.is_complete, first.searched) == (False, False, MOST)
    assert world.asked.asked == [(OWNER, "")]
    assert world.build() is BuildOutcome.PUBLISHED
    then = world.search("pump")
    assert (then.in_segment, then.is_complete, then.searched, then.found.total) == (True, True, 12, 12)
    assert then.as_of == world.clock.at


@pytest.mark.fault("F-36b")
@pytest.mark.req("R-C-31")
def test_what_is_stored_is_found_by_the_next_query_and_nothing_by_what_it_was() -> None:
    world = World()
    world.build()
    assert world.found('"pump 3"') == ["pump 3"]
    world.say(3, "valve seven")
    world.say(4, None)
    world.say(99, "pump new")
    for by in (world.service, world.process()):
        assert world.found('"pump 3"', by=by) == world.found('"pump 4"', by=by) == []
        assert world.found("valve", by=by) == ["valve seven"]
        assert world.found("new", by=by) == ["pump new"]
        answer = world.search("pump", by=by)
        assert (answer.found.total, answer.searched, answer.in_segment) == (11, 12, True)
    world.say(3, None)
    world.say(4, "pump again")
    assert world.found('"valve seven"') == []
    assert world.found('"pump again"') == ["pump again"]


@pytest.mark.req("R-C-31")
def test_after_any_changes_and_builds_each_process_answers_as_the_store() -> None:
    world = World()
    dice = random.Random(11)
    processes = [world.service, world.process()]
    for _ in range(150):
        what = dice.random()
        if what < 0.05:
            world.clock.at += BUILD_TIME
            assert world.build() in {BuildOutcome.PUBLISHED, BuildOutcome.TOO_SMALL}
        elif what < 0.07:
            processes.append(world.process())
        else:
            world.say(dice.randint(0, 20), None if dice.random() < 0.3 else f"pump {dice.randint(0, 5)}")
        stored = sorted(row.text.name for row in world.store.newest(OWNER, most=100).rows)
        by = dice.choice(processes)
        answer = world.search("pump", by=by)
        if answer.is_complete:
            assert world.found("pump", by=by) == stored
            assert world.found('"pump 3"', by=by) == [name for name in stored if name == "pump 3"]
        else:
            assert not world.segment_id()
            assert set(world.found("pump", by=by)) <= set(stored)


def test_others_segments_are_not_looked_into() -> None:
    world, other = World(), UserId("01890000-0000-7000-8000-00000000000b")
    world.build()
    world.say(1, "pump other", owner=other)
    assert [hit.row.text.name for hit in world.search("pump", owner=other).found.hits] == ["pump other"]
    assert "pump other" not in world.found("pump")


def _missing(world: World) -> None:
    world.objects.stored.clear()


def _other_bytes(world: World) -> None:
    for key, data in world.objects.stored.items():
        world.objects.stored[key] = data[:-1] + bytes([data[-1] ^ 1])


def _another(world: World) -> None:
    secret = SearchRow(SearchKey(OWNER, "device", "s", 1), SearchText(name="pump of somebody else"))
    world.objects.stored = dict.fromkeys(world.objects.stored, world.engine.build([secret]).data)


@pytest.mark.fault("F-36b")
@pytest.mark.req("R-C-31")
@pytest.mark.parametrize("breaks", [_missing, _other_bytes, _another], ids=["missing", "other_bytes", "another"])
def test_without_its_segment_an_account_s_newest_objects_are_found_and_another_one_is_made(
    breaks: Callable[[World], None],
) -> None:
    world = World()
    world.build()
    gone = world.segment_id()
    breaks(world)
    answer = world.search("pump")
    assert (answer.in_segment, answer.is_complete, answer.searched) == (False, False, MOST)
    assert world.asked.asked == [(OWNER, gone)]
    reads = world.objects.reads
    world.say(11, "valve")
    assert world.found("valve") == ["valve"]
    assert world.objects.reads == reads
    [(owner, instead_of)] = world.asked.asked
    assert world.builder().build(owner, instead_of=instead_of) is BuildOutcome.PUBLISHED
    assert world.search("pump").found.total == 11
    assert world.builder().build(owner, instead_of=instead_of) is BuildOutcome.NOT_NEEDED


def test_a_segment_that_fails_while_it_is_read_is_done_without() -> None:
    world = World()
    world.build()
    world.search("pump")

    class Failing:
        def search(self, *_: object, **__: object) -> object:
            raise ValueError("An IO error occurred")

    kept = world.service._cache.index(OWNER)
    assert kept.segment is not None
    vars(kept.segment.segment)["_searcher"] = Failing()
    answer = world.search("pump")
    assert (answer.in_segment, answer.is_complete) == (False, False)
    assert world.asked.asked == [(OWNER, world.segment_id())]


def test_a_query_goes_on_while_the_queue_is_away_and_asks_once_a_minute() -> None:
    world = World()
    world.asked.is_away = True
    assert not world.search("pump").is_complete
    world.asked.is_away = False
    for _ in range(3):
        world.search("pump")
    assert world.asked.asked == [(OWNER, "")]
    world.clock.at += timedelta(minutes=1)
    world.search("pump")
    assert world.asked.asked == [(OWNER, "")] * 2


def test_a_segment_is_renewed_by_age_only_where_something_has_changed_and_not_used_when_it_is_old() -> None:
    assert RENEWED_AFTER < MAX_AGE < JOURNAL_KEPT
    world = World()
    world.build()
    world.clock.at += RENEWED_AFTER
    world.search("pump")
    assert world.asked.asked == []
    world.say(1, "valve")
    assert world.search("pump").in_segment
    assert world.asked.asked == [(OWNER, world.segment_id())]
    world.clock.at += MAX_AGE - RENEWED_AFTER
    assert not world.search("pump").in_segment
    assert len(world.asked.asked) == 2


def test_an_account_that_has_become_small_needs_no_segment() -> None:
    world = World()
    world.build()
    for n in range(6):
        world.say(n, None)
    assert world.build() is BuildOutcome.TOO_SMALL
    answer = world.search("pump")
    assert (answer.in_segment, answer.is_complete, answer.found.total) == (False, True, 6)
    assert world.objects.stored == {}


def test_what_is_forgotten_and_filled_anew_is_not_found_by_an_old_segment() -> None:
    world = World()
    world.build()
    world.search("pump")
    world.store.forget(OWNER)
    key = SearchKey(OWNER, "device", "r1", 1)
    filled = StampedChange(RowChange(key, SearchText(name="valve")), "0")
    world.store.write(OWNER, [filled], at=world.clock.at)
    assert (world.found("pump"), world.found("valve")) == ([], ["valve"])


def _second(world: World) -> None:
    """Another builder, once the time of this one is over."""
    world.clock.at += BUILD_TIME
    assert world.build() is BuildOutcome.PUBLISHED


def _early(world: World) -> None:
    assert world.build() is BuildOutcome.NOT_NEEDED


def _changed(world: World) -> None:
    world.say(2, "pump changed")
    world.say(5, None)


def _forgotten(world: World) -> None:
    world.store.forget(OWNER)


def _deleted(world: World) -> None:
    world.store.heads.clear()
    world.store.stored.clear()


@pytest.mark.parametrize(
    ("meanwhile", "outcome"),
    [
        (_second, BuildOutcome.OVERTAKEN),
        (_early, BuildOutcome.PUBLISHED),
        (_changed, BuildOutcome.PUBLISHED),
        (_forgotten, BuildOutcome.OVERTAKEN),
        (_deleted, BuildOutcome.OVERTAKEN),
    ],
    ids=["second", "early", "changed", "forgotten", "deleted"],
)
def test_whatever_happens_while_a_segment_is_made_one_counts_at_the_most_and_none_tells_what_was(
    meanwhile: Callable[[World], None], outcome: BuildOutcome
) -> None:
    world = World()
    world.build()
    world.engine.meanwhile = lambda: meanwhile(world)
    assert world.build() is outcome
    stored = world.store.newest(OWNER, most=100).rows
    assert world.found("pump") == sorted(row.text.name for row in stored)
    left = {world.segment_id()} if world.segment_id() else set()
    assert {segment_id for _, segment_id in world.objects.stored} <= left | {min(world.objects.stored)[1]}
    assert left <= {segment_id for _, segment_id in world.objects.stored}


class Dies:
    """Passes calls on until so many are over, and dies before the next one or behind it."""

    def __init__(self, given: object, calls: list[int], *, behind: bool) -> None:
        self._given, self._calls, self._behind = given, calls, behind

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._given, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls[0] -= 1
            if self._calls[0] < 0 and not self._behind:
                raise KeyboardInterrupt
            result = method(*args, **kwargs)
            if self._calls[0] < 0:
                raise KeyboardInterrupt
            return result

        return call


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
def test_a_death_at_any_call_leaves_nothing_behind_once_another_one_has_built(*, behind: bool) -> None:
    for calls in range(20):
        world = World()
        world.build()
        before, left = world.segment_id(), [calls]
        world.say(1, "pump changed")
        world.clock.at += BUILD_TIME
        dying = world.builder(Dies(world.store, left, behind=behind), Dies(world.objects, left, behind=behind))
        try:
            dying.build(OWNER, instead_of=before)
        except KeyboardInterrupt:
            died = True
        else:
            died = False
        assert world.found('"pump changed"') == ["pump changed"]
        assert world.search("pump").found.total == 12
        world.say(2, "pump later")
        world.clock.at += BUILD_TIME
        assert world.build() is BuildOutcome.PUBLISHED
        assert [segment_id for _, segment_id in world.objects.stored] == [world.segment_id()]
        assert world.found('"pump later"') == ["pump later"]
        if not died:
            assert calls > 5
            return
    pytest.fail("it went on calling")


def test_segments_of_those_who_asked_last_are_kept_within_the_disk() -> None:
    world = World()
    world.build()
    segment = world.store.head(OWNER).segment
    assert segment is not None
    others = [UserId(new_id()) for _ in range(2)]
    for owner in others:
        for n in range(12):
            world.say(n, f"pump {n}", owner=owner)
        assert world.builder().build(owner, instead_of="") is BuildOutcome.PUBLISHED
    service = world.process(disk_bytes=segment.size * 5 // 2)
    for owner, reads in ((OWNER, 1), (others[0], 2), (OWNER, 2), (others[1], 3), (OWNER, 3), (others[0], 4)):
        world.search("pump", owner=owner, by=service)
        assert world.objects.reads == reads


def test_a_message_is_read_as_it_was_sent_and_no_other() -> None:
    sent: list[str] = []

    class Queue:
        def send(self, body: str) -> None:
            sent.append(body)

    QueuedRequests(Queue()).ask(OWNER, instead_of="")
    assert [read_message(each) for each in sent] == [SegmentRequest(OWNER, "")]
    for body in ("", "[]", '{"user_id": "x", "instead_of": ""}', f'{{"user_id": "{OWNER}", "instead_of": "x"}}', "{}"):
        with pytest.raises(ValueError, match=r"."):
            read_message(body)

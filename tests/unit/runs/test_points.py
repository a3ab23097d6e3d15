"""Checkpoints as their owners see them: what a run notes, the ids, and labels."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.domain import Thread, ThreadKey
from karma.core.errors import Gone, NotFound
from karma.core.ids import RunId, UserId
from karma.core.requests import IdempotencyKeyReused
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import CheckpointKind, RunKey, RunStatus
from karma.runs.points import PointId, read_point_id, write_point_id
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.support.lost_runs import KEY, THREAD, Life, World, begin, cancel
from tests.support.requests import key

RUN_IDS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), min_size=1, max_size=128
)
LABELS = st.just("") | st.text("0123456789abcdef", min_size=16, max_size=16)


class TestIds:
    @given(RUN_IDS, st.integers(1, 10**8 - 1), LABELS)
    def test_say_the_run_the_segment_and_the_label(self, run_id: str, n: int, label: str) -> None:
        point = PointId(RunId(run_id), n, label)
        written = write_point_id(point)
        assert read_point_id(written) == point
        assert all(char.isalnum() or char in "-_" for char in written)

    @given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: base64.urlsafe_b64encode(data).decode()))
    def test_are_none_where_none_was_written(self, text: str) -> None:
        for candidate in (text, f"ckpt_{text}"):
            found = read_point_id(candidate)
            assert found is None or write_point_id(found) == candidate

    @pytest.mark.parametrize(
        "place",
        ["0#r", "01#r", "123456789#r", "2.abc#r", "2.0123456789abcdeg#r", "2#", "2#a#b", "2#a b", "-1#r", "2", ""],
    )
    def test_of_another_form_are_none(self, place: str) -> None:
        text = "ckpt_" + base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")
        assert read_point_id(text) is None

    def test_of_the_same_meaning_are_one(self) -> None:
        written = write_point_id(PointId(RunId("ab"), 2))  # 4 bytes, so that 4 bits of its last character say nothing
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        similar = [written[:-1] + each for each in alphabet] + [f"{written}==", f"{written}=", f" {written}"]
        assert [each for each in similar if read_point_id(each) == PointId(RunId("ab"), 2)] == [written]


@pytest.fixture
def world() -> World:
    world = World()
    begin(world, Life(None))
    return world


def service(world: World, points: MemoryCheckpoints | None = None) -> CheckpointService:
    return CheckpointService(world.store, points or MemoryCheckpoints(world.store), world.clock)


@pytest.mark.req("R-A-19")
def test_a_run_notes_a_point_behind_each_turn_and_each_store_of_results(world: World) -> None:
    found = service(world).page(KEY.user_id, KEY.run_id, limit=50)
    assert [(each.steps, each.kind) for each in found] == [
        (turn, kind) for turn in (1, 2, 3) for kind in (CheckpointKind.TURN, CheckpointKind.TOOLS)
    ]
    # u a t t | a t | a t t, and the last answer stands behind the last point
    assert [each.messages for each in found] == [2, 4, 5, 6, 7, 9]
    assert [each.total_tokens for each in found] == [150, 150, 300, 300, 450, 450]
    assert [each.description for each in found][:2] == ["After turn 1 of the model", "After results of tools in turn 1"]
    assert {each.at for each in found} == {world.clock.now()}
    assert {each.status for each in found} == {RunStatus.RUNNING}


@pytest.mark.req("R-A-21")
def test_each_point_has_the_messages_up_to_it(world: World) -> None:
    whole = world.store.thread(THREAD)
    for point in service(world).page(KEY.user_id, KEY.run_id, limit=50):
        found = service(world).find(KEY.user_id, write_point_id(point.id))
        assert found.messages == list(whole.messages[: point.messages])
        assert found.setup is not None
        assert found.point == point


def test_a_point_is_found_by_its_owner_alone_and_not_once_its_thread_is_deleted(world: World) -> None:
    points = MemoryCheckpoints(world.store)
    mine = service(world, points).page(KEY.user_id, KEY.run_id, limit=1)[0].id
    label = service(world, points).label(KEY.user_id, KEY.run_id, description="x", tags=()).id
    other = UserId("01890000-0000-7000-8000-000000000002")
    world.store.runs_by_key[RunKey(other, RunId("r2"))] = replace(
        world.store.runs_by_key[KEY], key=RunKey(other, RunId("r2"))
    )

    def is_missing(user_id: UserId, place: PointId) -> bool:
        try:
            service(world, points).find(user_id, write_point_id(place))
        except NotFound:
            return True
        return False

    for place in (mine, label):
        assert not is_missing(KEY.user_id, place)
        assert is_missing(other, place)
        assert is_missing(other, place._replace(run_id=RunId("r2")))
        assert is_missing(KEY.user_id, place._replace(run_id=RunId("nobody's")))
        assert is_missing(KEY.user_id, place._replace(n=place.n + 100))
        assert is_missing(KEY.user_id, place._replace(label="0" * 16))
    world.store.threads[THREAD] = Thread(key=THREAD, is_deleted=True)
    assert is_missing(KEY.user_id, mine)
    assert is_missing(KEY.user_id, label)
    with pytest.raises(NotFound):
        service(world, points).label(KEY.user_id, KEY.run_id, description="late", tags=())
    with pytest.raises(NotFound):
        service(world, points).page(other, KEY.run_id, limit=5)


class TestLabels:
    @pytest.mark.req("R-A-20")
    def test_of_an_ended_run_stand_at_its_end(self, world: World) -> None:
        made = service(world).label(KEY.user_id, KEY.run_id, description="The end", tags=("good",))
        run = world.store.run(KEY)
        assert run is not None
        assert (made.kind, made.position, made.status) == (CheckpointKind.MANUAL, run.last_message, RunStatus.FINISHED)
        assert (made.messages, made.steps, made.total_tokens, made.tags) == (10, 4, 600, ("good",))

    def test_of_a_run_that_runs_stand_at_its_newest_checkpoint_wherever_it_is(self) -> None:
        whole = World()
        begin(whole, Life(None))
        seen = set()
        for steps in range(1, 60):
            world = World()
            begin(world, Life(steps))
            if world.store.run(KEY) is None:
                continue
            points = MemoryCheckpoints(world.store)
            made = service(world, points).label(KEY.user_id, KEY.run_id, description="Now", tags=())
            newest = world.store.last_checkpoint(KEY)
            found = service(world, points).find(KEY.user_id, write_point_id(made.id))
            assert found.point == made
            assert world.store.last_checkpoint(KEY) == newest, "a label is none to go on from"
            if newest is not None and made.status is RunStatus.RUNNING:
                assert (made.id.n, made.position, made.steps) == (newest.n, newest.position, newest.progress.steps)
            seen.add((made.steps, made.status))
        assert {steps for steps, status in seen if status is RunStatus.RUNNING} == {0, 1, 2, 3}

    def test_of_a_cancelled_run_stand_behind_what_it_kept(self) -> None:
        world = World()
        begin(world, Life(20))
        world.clock.pass_by(world.store.logs[KEY][1].lease_until - world.clock.now())
        world.clock.at = world.clock.at.replace(year=world.clock.at.year + 1)
        run = cancel(world)
        made = service(world).label(KEY.user_id, KEY.run_id, description="", tags=())
        assert (made.status, made.position) == (RunStatus.CANCELLED, run.last_message)

    def test_of_the_same_words_at_the_same_point_are_one(self, world: World) -> None:
        points = MemoryCheckpoints(world.store)
        label = service(world, points).label
        first = label(KEY.user_id, KEY.run_id, description="a", tags=("x",))
        world.clock.at = world.clock.at.replace(year=2030)
        again = label(KEY.user_id, KEY.run_id, description="a", tags=("x",))
        other = label(KEY.user_id, KEY.run_id, description="a", tags=())
        assert again == first != other
        assert len(points.labels[KEY]) == 2

    def test_of_one_request_are_one_also_when_the_run_has_gone_on(self, world: World) -> None:
        points = MemoryCheckpoints(world.store)
        run = world.store.runs_by_key[KEY]
        world.store.runs_by_key[KEY] = replace(run, status=RunStatus.RUNNING, last_message=-1)
        label = service(world, points).label
        first = label(KEY.user_id, KEY.run_id, description="a", tags=(), idempotency_key=key("k"))
        world.store.runs_by_key[KEY] = run
        assert label(KEY.user_id, KEY.run_id, description="a", tags=(), idempotency_key=key("k")) == first
        assert len(points.labels[KEY]) == 1
        with pytest.raises(IdempotencyKeyReused):
            label(KEY.user_id, KEY.run_id, description="b", tags=(), idempotency_key=key("k"))
        del points.labels[KEY]
        with pytest.raises(Gone):
            label(KEY.user_id, KEY.run_id, description="a", tags=(), idempotency_key=key("k"))

    def test_of_threads_without_a_run_are_refused(self) -> None:
        world = World()
        world.store.threads[THREAD] = Thread(key=ThreadKey(*THREAD))
        with pytest.raises(NotFound):
            service(world).label(KEY.user_id, RunId("nobody's"), description="", tags=())

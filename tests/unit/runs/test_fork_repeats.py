"""Repeats of requests to go back to a point, or to fork from one, whose point or thread was deleted since."""

from __future__ import annotations

import pytest

from karma.conversations.domain import Thread, ThreadKey
from karma.core.errors import Gone, NotFound
from karma.core.requests import IdempotencyKeyReused
from karma.runs.domain import RunExists, RunKey
from karma.runs.modifications import Modifications
from karma.runs.points import PointId, write_point_id
from karma.runs.restoring import Restored
from tests.fakes.runs import KeptFrames, caller
from tests.support.forks import execute, forks
from tests.support.lost_runs import KEY, THREAD, Life, World, begin
from tests.support.requests import key
from tests.unit.runs.test_forking import name, points


@pytest.fixture
def world() -> World:
    world = World()
    begin(world, Life(None), KeptFrames())
    return world


@pytest.mark.parametrize("ended", [False, True])
def test_a_repeat_of_a_fork_says_what_became_of_its_run_whatever_became_of_the_point(
    world: World, *, ended: bool
) -> None:
    point, store = name(points(world)[0]), world.store
    wanted, other = Modifications(message="Stop"), Modifications(message="Go on")
    made = forks(world).fork(caller(), point, wanted, key=key("k"))

    def begin_again(more: Modifications, name: str = "k") -> RunKey:
        return forks(world).fork(caller(), point, more, key=key(name)).run.key

    kept_thread, kept_run = store.threads[THREAD], store.runs_by_key[KEY]
    store.threads[THREAD] = Thread(key=THREAD, is_deleted=True)
    if ended:
        del store.runs_by_key[KEY]
    assert begin_again(wanted) == made.run.key
    with pytest.raises(IdempotencyKeyReused):
        begin_again(other)
    with pytest.raises(NotFound):
        begin_again(wanted, "another")

    own = ThreadKey(KEY.user_id, made.run.thread_id)
    store.threads[own] = Thread(key=own, version=store.threads[own].version + 1, is_deleted=True)
    del store.runs_by_key[made.run.key]
    before = list(store.runs_by_key)
    for there in (False, True):
        if there:
            store.threads[THREAD], store.runs_by_key[KEY] = kept_thread, kept_run
            before = list(store.runs_by_key)
        with pytest.raises(Gone) as gone:
            begin_again(wanted)
        assert (gone.value.code, gone.value.details) == ("GONE", {"id": made.run.key.run_id})
        assert list(store.runs_by_key) == before


@pytest.mark.parametrize("is_purged", [False, True])
def test_a_repeat_of_a_fork_whose_thread_was_deleted_is_gone_while_its_point_is_there(
    world: World, *, is_purged: bool
) -> None:
    point, store = name(points(world)[0]), world.store
    wanted = Modifications(message="Stop")
    made = forks(world).fork(caller(), point, wanted, key=key("k"))
    own = ThreadKey(KEY.user_id, made.run.thread_id)
    store.threads[own] = Thread(key=own, version=store.threads[own].version + 1, is_deleted=True)
    if is_purged:
        del store.runs_by_key[made.run.key]
    with pytest.raises(Gone) as gone:
        forks(world).fork(caller(), point, wanted, key=key("k"))
    assert gone.value.details == {"id": made.run.key.run_id}


def test_a_repeat_whose_run_is_in_a_deleted_thread_and_not_found_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, store = name(points(world)[0]), world.store
    wanted = Modifications(message="Stop")
    made = forks(world).fork(caller(), point, wanted, key=key("k"))
    own = ThreadKey(KEY.user_id, made.run.thread_id)
    store.threads[own] = Thread(key=own, version=store.threads[own].version + 1, is_deleted=True)
    del store.runs_by_key[made.run.key]

    def exists(*_: object, **__: object) -> None:
        raise RunExists(made.run.key.run_id)  # as the table says while the run's id is kept

    monkeypatch.setattr(store, "start", exists)
    with pytest.raises(Gone):
        forks(world).fork(caller(), point, wanted, key=key("k"))


@pytest.mark.parametrize("as_run", [False, True])
def test_a_repeat_that_went_back_in_a_thread_is_gone_once_that_is_deleted(world: World, *, as_run: bool) -> None:
    point, store = name(points(world)[0]), world.store

    def restore(place: str = point, *, named: str | None = "k", run: bool = as_run) -> Restored:
        made = forks(world)
        restore = made.restore_as_run if run else made.in_place.restore
        return restore(caller(), place, Modifications(), key=key(named) if named else None)

    made = restore()
    assert restore() == made
    with pytest.raises(IdempotencyKeyReused):
        restore(run=not as_run)
    store.threads[THREAD] = Thread(key=THREAD, is_deleted=True)
    store.runs_by_key.clear()
    for _ in range(2):
        with pytest.raises(Gone) as gone:
            restore()
        made_id = made.run.key.run_id if made.run else THREAD.thread_id
        assert (gone.value.code, gone.value.details) == ("GONE", {"id": made_id})
    for named in ("another", None):
        with pytest.raises(NotFound):
            restore(named=named)
    with pytest.raises(NotFound):
        restore("ckpt_none")
    with pytest.raises(IdempotencyKeyReused):
        restore(write_point_id(PointId(KEY.run_id, 99)))
    assert not store.runs_by_key


@pytest.mark.fault("F-29zh")
@pytest.mark.parametrize("message", [None, "Stop"], ids=["as it was", "other words"])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_repeat_names_the_effects_of_before_and_none_of_its_own_run(
    world: World, nth: int, message: str | None
) -> None:
    """Until the new run has ended, and behind that."""
    point, wanted = name(points(world)[nth]), Modifications(message=message)
    first = forks(world).restore_as_run(caller(), point, wanted, key=key("k"))
    assert first.run is not None
    assert first.effects
    for _ in range(2):
        again = forks(world).restore_as_run(caller(), point, wanted, key=key("k"))
        assert again.run is not None
        assert (again.run.key, again.effects) == (first.run.key, first.effects)
        execute(world, first.run.key)
    later = forks(world).restore_as_run(caller(), point, wanted, key=key("another"))
    assert len(later.effects) > len(first.effects), "the run did nothing"

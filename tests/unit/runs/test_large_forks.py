"""Forks of conversations that are more than the transaction that starts a run can add."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.billing.allowances import Metric
from karma.billing.plans import PlanName
from karma.conversations.domain import Message
from karma.conversations.stored import dump_messages
from karma.core.errors import PayloadTooLarge, QuotaExceeded
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import Run, RunStatus
from karma.runs.drafts import packs
from karma.runs.modifications import Modifications
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller
from tests.support.forks import execute, forks
from tests.support.lost_runs import KEY, THREAD, Life, World, begin
from tests.support.plans import allowances
from tests.support.requests import key as given_key
from tests.unit.runs.test_forking import EACH, conversation, killed, name, parent, points, run_on, worked


@pytest.fixture(scope="module")
def long_run() -> World:
    return worked()


def told(world: World, run: Run) -> list[Message]:
    """Return a run's conversation without the ids of its messages: what is new has a new one each time."""
    return [replace(message, id="") for message in conversation(world, run)]


class TestLargeFork:
    """A copy of more than one transaction adds; the limits are lowered, so that the world's conversation is one."""

    @pytest.fixture(autouse=True)
    def _limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("karma.runs.drafts.MAX_ADDED_BYTES", 300)

    @pytest.mark.req("R-A-23")
    @pytest.mark.parametrize("kind", EACH)
    def test_is_the_fork_that_a_small_one_is(self, long_run: World, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        before = parent(long_run)
        for point in points(long_run)[5::9]:
            whole = CheckpointService(long_run.store, MemoryCheckpoints(long_run.store), long_run.clock)
            wanted = EACH[kind](list(whole.find(KEY.user_id, name(point)).messages))
            large = forks(long_run).fork(caller(), name(point), wanted, key=None).run
            with monkeypatch.context() as patch:
                patch.setattr("karma.runs.drafts.MAX_ADDED_BYTES", 10**9)
                small = forks(long_run).fork(caller(), name(point), wanted, key=None).run
            assert told(long_run, large) == told(long_run, small)
            as_small = replace(large, key=small.key, thread_id=small.thread_id, created_at=small.created_at)
            assert as_small == small
            ended, _ = run_on(long_run, large)
            assert ended.status is RunStatus.FINISHED or kind == "max_steps"
        assert parent(long_run) == before

    @pytest.mark.parametrize("after", [False, True])
    def test_wherever_its_process_dies_a_repeat_ends_it_and_what_is_left_is_no_thread(self, after: bool) -> None:
        for steps in range(1, 100):
            world = World()
            begin(world, Life(None))
            before, point = parent(world), name(points(world)[-1])

            def ask(life: Life, world: World = world, point: str = point) -> object:
                return forks(world, life).fork(caller(), point, Modifications(message="Go on"), key=given_key("k"))

            died = killed(lambda: ask(Life(steps, after=after)))  # noqa: B023  called at once
            ask(Life(None))
            (made,) = [run for run in world.store.runs_by_key if run != KEY]
            execute(world, made)
            assert world.store.runs_by_key[made].status is RunStatus.FINISHED
            assert parent(world) == before
            own = {THREAD.thread_id, world.store.runs_by_key[made].thread_id}
            others = [thread for key, thread in world.store.threads.items() if key.thread_id not in own]
            assert all(thread.is_draft and thread.is_deleted for thread in others)
            assert len(others) <= 1
            if not died:
                break
        assert steps > 8

    @pytest.mark.parametrize("metric", [Metric.RUNS, Metric.MODEL_SPEND])
    def test_of_whom_has_used_up_the_plan_is_not_stored(self, metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World()
        begin(world, Life(None))
        free = allowances(PlanName.FREE, clock=world.clock)
        monkeypatch.setattr("tests.support.forks.allowances", lambda **_: free)
        (used,) = [each for each in world.store.usage.taken if each[1] is metric]
        world.store.usage.taken[used] = 10**9
        with pytest.raises(QuotaExceeded):
            forks(world).fork(caller(), name(points(world)[-1]), Modifications(), key=None)
        assert set(world.store.threads) == {THREAD}

    def test_has_bounds_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World()
        begin(world, Life(None))
        monkeypatch.setattr("karma.runs.forking.MAX_COPIED_BYTES", 400)
        with pytest.raises(PayloadTooLarge):
            forks(world).fork(caller(), name(points(world)[-1]), Modifications(), key=None)
        monkeypatch.setattr("karma.runs.forking.MAX_ADDED_BYTES", 10)
        wanted = Modifications(message="x" * 100)
        with pytest.raises(PayloadTooLarge):
            forks(world).restore_as_run(caller(), name(points(world)[-1]), wanted, key=None)
        assert set(world.store.threads) == {THREAD}


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(100, 900))
def test_packs_are_the_messages_in_order_and_none_is_larger_than_it_may(sizes: list[int], most: int) -> None:
    messages = [Message(id=str(n), role="user", content="x" * size) for n, size in enumerate(sizes)]
    found = list(packs(messages, most=most))
    assert [each for pack in found for each in pack] == messages
    assert all(len(pack) == 1 or len(dump_messages(pack)) <= most for pack in found)

"""Use cases over the store in memory, with another request between a read and its write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from karma.core.clock import Clock
from karma.core.errors import Gone, InvalidTransition, NotFound, StaleVersion, StorageThrottled, StorageUnavailable
from karma.core.ids import TaskId, UserId, new_id
from karma.identity.transactional import AccountGone
from karma.tasks.domain import AlreadyCompleted, DependenciesUnfinished, NewSubtask, NewTask, Task, TaskStatus
from karma.tasks.ports import GoneTask
from karma.tasks.service import TaskQuery, TaskService
from karma.tasks.sweeps import GRACE, finish_deletions
from tests.fakes.identity import MovableClock
from tests.fakes.tasks import MemoryTasks
from tests.support.requests import key

USER = UserId(new_id())
IN_PROGRESS, COMPLETED, CANCELLED = TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED, TaskStatus.CANCELLED


class Interrupted(MemoryTasks):
    """Store in which another request makes a change right before a write, once."""

    meanwhile: Callable[[], object] | None = None

    def replace(self, old: Task, new: Task, **more: Any) -> None:
        self._others()
        super().replace(old, new, **more)

    def step(self, *args: Any) -> None:
        self._others()
        super().step(*args)

    def begin_delete(self, *args: Any, **more: Any) -> None:
        self._others()
        super().begin_delete(*args, **more)

    def _others(self) -> None:
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def tasks(store: Interrupted, clock: Clock) -> TaskService:
    return TaskService(store, clock)


CHAIN = NewTask(
    title="Inventory",
    metadata={},
    subtasks=(
        NewSubtask(title="count", ref="count", metadata={}),
        NewSubtask(title="report", ref="report", dependencies=("count",), metadata={}),
    ),
)


def steps(tasks: TaskService, task_id: TaskId, subtask_id: str, *statuses: TaskStatus) -> None:
    for status in statuses:
        tasks.step(USER, task_id, subtask_id, status)


class TestASubtask:
    def test_starts_its_task_and_moves_its_progress(self, tasks: TaskService) -> None:
        made = tasks.create(USER, CHAIN)
        count, report = made.subtasks
        assert report.dependencies == (count.id,)

        with pytest.raises(DependenciesUnfinished):
            tasks.step(USER, made.task.id, report.id, IN_PROGRESS)
        steps(tasks, made.task.id, count.id, IN_PROGRESS)
        assert tasks.get(USER, made.task.id).status is IN_PROGRESS
        steps(tasks, made.task.id, count.id, COMPLETED)
        steps(tasks, made.task.id, report.id, IN_PROGRESS)

        task = tasks.get(USER, made.task.id)
        assert (task.progress, task.version) == (50, 4)

    @pytest.mark.fault("F-27a")
    @pytest.mark.parametrize("ending", [TaskStatus.FAILED, TaskStatus.CANCELLED])
    def test_that_ended_without_success_is_tried_again_until_its_task_is_over(
        self, tasks: TaskService, ending: TaskStatus
    ) -> None:
        made = tasks.create(USER, CHAIN)
        count, report = (each.id for each in made.subtasks)
        steps(tasks, made.task.id, count, IN_PROGRESS, ending, TaskStatus.PENDING, IN_PROGRESS, COMPLETED)
        steps(tasks, made.task.id, report, IN_PROGRESS, ending)
        assert tasks.get(USER, made.task.id).progress == 50
        tasks.change(USER, made.task.id, {"status": COMPLETED})
        with pytest.raises(AlreadyCompleted):
            tasks.step(USER, made.task.id, report, TaskStatus.PENDING)

    def test_that_was_changed_meanwhile_is_read_again(self, tasks: TaskService, store: Interrupted) -> None:
        made = tasks.create(USER, CHAIN)
        part = made.subtasks[0].id
        steps(tasks, made.task.id, part, IN_PROGRESS)
        store.meanwhile = lambda: tasks.step(USER, made.task.id, part, TaskStatus.FAILED)
        with pytest.raises(InvalidTransition):
            tasks.step(USER, made.task.id, part, COMPLETED)

    @pytest.mark.req("R-M-39")
    def test_of_a_task_that_ends_meanwhile_is_not_changed(self, tasks: TaskService, store: Interrupted) -> None:
        made = tasks.create(USER, CHAIN)
        part = made.subtasks[0].id
        tasks.change(USER, made.task.id, {"status": IN_PROGRESS})
        store.meanwhile = lambda: tasks.change(USER, made.task.id, {"status": COMPLETED})
        with pytest.raises(AlreadyCompleted):
            tasks.step(USER, made.task.id, part, IN_PROGRESS)
        assert [each.status for each in tasks.subtasks(USER, made.task.id)] == [CANCELLED, CANCELLED]

    def test_asked_again_for_its_status_stays(self, tasks: TaskService) -> None:
        made = tasks.create(USER, CHAIN)
        part = made.subtasks[0].id
        steps(tasks, made.task.id, part, IN_PROGRESS)
        assert tasks.step(USER, made.task.id, part, IN_PROGRESS).version == 2
        steps(tasks, made.task.id, part, COMPLETED)
        with pytest.raises(AlreadyCompleted):
            tasks.step(USER, made.task.id, part, COMPLETED)

    def test_of_an_older_version_is_refused(self, tasks: TaskService) -> None:
        made = tasks.create(USER, CHAIN)
        part = made.subtasks[0].id
        tasks.step(USER, made.task.id, part, IN_PROGRESS, version=1)
        with pytest.raises(StaleVersion):
            tasks.step(USER, made.task.id, part, COMPLETED, version=1)


class TestATask:
    def test_that_ends_sees_the_subtask_that_was_completed_meanwhile(
        self, tasks: TaskService, store: Interrupted
    ) -> None:
        made = tasks.create(USER, CHAIN)
        part = made.subtasks[0].id
        steps(tasks, made.task.id, part, IN_PROGRESS)
        store.meanwhile = lambda: tasks.step(USER, made.task.id, part, COMPLETED)

        ended = tasks.cancel(USER, made.task.id)

        assert (ended.status, ended.completed_count, ended.progress) == (CANCELLED, 1, 50)
        assert [each.status for each in tasks.subtasks(USER, made.task.id)] == [COMPLETED, CANCELLED]

    @pytest.mark.req("R-M-05")
    def test_of_an_older_version_is_refused_and_without_one_is_read_again(
        self, tasks: TaskService, store: Interrupted
    ) -> None:
        task = tasks.create(USER, CHAIN).task
        store.meanwhile = lambda: tasks.change(USER, task.id, {"title": "theirs"})
        with pytest.raises(StaleVersion):
            tasks.change(USER, task.id, {"title": "mine"}, version=1)
        store.meanwhile = lambda: tasks.change(USER, task.id, {"priority": 9})
        mine = tasks.change(USER, task.id, {"title": "mine"})
        assert (mine.title, mine.priority, mine.version) == ("mine", 9, 4)

    def test_with_the_same_again_is_not_written(self, tasks: TaskService) -> None:
        task = tasks.create(USER, CHAIN).task
        assert tasks.change(USER, task.id, {"title": task.title}) == task
        assert tasks.change(USER, task.id, {}) == task

    @pytest.mark.req("R-M-39")
    def test_that_is_over_takes_no_changes(self, tasks: TaskService) -> None:
        task = tasks.create(USER, replace(CHAIN, subtasks=())).task
        assert tasks.cancel(USER, task.id) == tasks.cancel(USER, task.id)
        with pytest.raises(InvalidTransition):
            tasks.change(USER, task.id, {"title": "late"})
        done = tasks.create(USER, replace(CHAIN, subtasks=())).task
        tasks.change(USER, done.id, {"status": IN_PROGRESS})
        tasks.change(USER, done.id, {"status": COMPLETED})
        for changes in ({"status": COMPLETED}, {"status": CANCELLED}, {"title": done.title}):
            with pytest.raises(AlreadyCompleted):
                tasks.change(USER, done.id, changes)

    def test_keeps_no_writer_waiting_for_ever(self, tasks: TaskService, store: Interrupted) -> None:
        task = tasks.create(USER, CHAIN).task
        tries = []

        def busy(*_args: Any, **_more: Any) -> None:
            tries.append(1)
            raise StorageThrottled("busy")

        store.replace = busy  # type: ignore[method-assign]
        with pytest.raises(StorageThrottled):
            tasks.change(USER, task.id, {"title": "x"})
        assert len(tries) > 1

    def test_is_made_once_for_a_request(self, tasks: TaskService) -> None:
        first = tasks.create(USER, CHAIN, idempotency_key=key("t"))
        tasks.change(USER, first.task.id, {"title": "renamed"})
        again = tasks.create(USER, CHAIN, idempotency_key=key("t"))
        assert (again.task.id, again.task.title, again.subtasks) == (first.task.id, "renamed", first.subtasks)
        tasks.delete(USER, first.task.id)
        with pytest.raises(Gone):
            tasks.create(USER, CHAIN, idempotency_key=key("t"))

    def test_of_a_deleted_account_is_not_made(self, tasks: TaskService, store: Interrupted) -> None:
        store.deleted_accounts.add(USER)
        with pytest.raises(AccountGone):
            tasks.create(USER, CHAIN)

    @pytest.mark.req("R-M-40")
    @pytest.mark.parametrize("task_id", ["", "x", "TASK#1", "01994b94-9b20-7e83-b6c4-d2e1f0a98765"])
    def test_that_is_missing_is_not_found(self, tasks: TaskService, task_id: str) -> None:
        other = tasks.create(UserId(new_id()), CHAIN)
        for missing in (task_id, other.task.id):
            for act in (
                lambda missing: tasks.get(USER, missing),
                lambda missing: tasks.change(USER, missing, {}),
                lambda missing: tasks.cancel(USER, missing),
                lambda missing: tasks.subtasks(USER, missing),
                lambda missing: tasks.step(USER, missing, other.subtasks[0].id, IN_PROGRESS),
                lambda missing: tasks.delete(USER, missing),
            ):
                with pytest.raises(NotFound):
                    act(missing)


class TestDeleting:
    @pytest.mark.req("R-M-06")
    def test_takes_the_subtasks_along(self, tasks: TaskService, store: Interrupted) -> None:
        made = tasks.create(USER, CHAIN)
        tasks.delete(USER, made.task.id)
        assert (store.tasks, store.parts, store.tombstones) == ({}, {}, {})

    def test_is_finished_by_the_sweep_when_the_database_goes_away(
        self, tasks: TaskService, store: Interrupted, clock: MovableClock
    ) -> None:
        made = tasks.create(USER, CHAIN)
        remove = store.remove

        def away(gone: GoneTask) -> None:
            raise StorageUnavailable("away")

        store.remove = away  # type: ignore[method-assign]
        tasks.delete(USER, made.task.id)
        with pytest.raises(NotFound):
            tasks.get(USER, made.task.id)
        clock.at += GRACE * 2
        assert finish_deletions(store, clock) == 0
        store.remove = remove  # type: ignore[method-assign]
        assert finish_deletions(store, clock) == 1
        assert (store.parts, store.tombstones) == ({}, {})

    def test_again_goes_on_where_the_first_died(self, tasks: TaskService, store: Interrupted) -> None:
        made = tasks.create(USER, CHAIN)
        store.begin_delete(made.task, at=made.task.created_at)
        tasks.delete(USER, made.task.id)
        assert (store.parts, store.tombstones) == ({}, {})
        with pytest.raises(NotFound):
            tasks.delete(USER, made.task.id)

    def test_leaves_what_is_young_to_its_request(
        self, tasks: TaskService, store: Interrupted, clock: MovableClock
    ) -> None:
        store.begin_delete(tasks.create(USER, CHAIN).task, at=clock.now())
        assert finish_deletions(store, clock) == 0

    def test_of_a_version_that_was_changed_meanwhile_is_refused(self, tasks: TaskService, store: Interrupted) -> None:
        made = tasks.create(USER, CHAIN)
        store.meanwhile = lambda: tasks.step(USER, made.task.id, made.subtasks[0].id, IN_PROGRESS)
        with pytest.raises(StaleVersion):
            tasks.delete(USER, made.task.id, version=1)
        tasks.delete(USER, made.task.id)
        assert store.tasks == {}


def test_a_list_counts_no_further_than_a_thousand_of_a_status(tasks: TaskService) -> None:
    for _ in range(1_003):
        tasks.create(USER, replace(CHAIN, subtasks=()))
    every = tasks.list(USER, TaskQuery())
    pending = tasks.list(USER, TaskQuery(status=TaskStatus.PENDING))
    assert (every.total, every.total_capped) == (1_003, False)
    assert (pending.total, pending.total_capped) == (1_000, True)

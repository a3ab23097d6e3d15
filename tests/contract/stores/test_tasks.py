"""Tasks: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest

from karma.core.clock import monotonic
from karma.core.errors import AlreadyExists
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.identity.transactional import AccountGone
from karma.tasks import domain
from karma.tasks.domain import Subtask, Task, TaskChanged, TaskStatus, TooManyTasks
from karma.tasks.ports import GoneTask, Tasks
from karma.tasks.repository import TaskRepository
from tests.contexts.tasks import USER, parts, task
from tests.fakes.tasks import MemoryTasks
from tests.support.accounts import open_account
from tests.support.requests import asked
from tests.support.rows import NOW
from tests.support.stores import Database, Store

OTHER = UserId(new_id())
PENDING, IN_PROGRESS, COMPLETED, FAILED, CANCELLED = TaskStatus


@pytest.fixture
def task_store(store: Store) -> Tasks:
    return MemoryTasks() if store.in_memory else stored(store.database)


@pytest.fixture
def dynamo(database: Database) -> TaskRepository:
    return stored(database)


def stored(database: Database) -> TaskRepository:
    for user in (USER, OTHER):
        open_account(user)
    return TaskRepository()


def later(old: Task, **fields: Any) -> Task:
    return replace(old, updated_at=old.updated_at + timedelta(seconds=1), version=old.version + 1, **fields)


def stepped(old: Subtask, status: TaskStatus) -> Subtask:
    return replace(old, status=status, updated_at=old.updated_at + timedelta(seconds=1), version=old.version + 1)


@pytest.mark.req("R-M-07")
def test_a_task_and_its_subtasks_read_back_whole(task_store: Tasks) -> None:
    one = task(of=3)
    task_store.create(one, list(reversed(parts(one))), request=asked("t"))

    assert task_store.get(USER, one.id) == one
    assert task_store.subtasks(one.id) == parts(one)
    assert task_store.subtask(one.id, parts(one)[2].id) == parts(one)[2]
    assert task_store.page(USER, status=None, newest_first=True, after="", limit=5) == [one]
    assert task_store.made_by(USER, asked("t")) == one.id


def test_a_task_that_does_not_exist_or_is_another_s_is_not_found(task_store: Tasks) -> None:
    task_store.create(task(1, user=OTHER), [], request=asked("t"))

    assert task_store.get(USER, task().id) is None
    assert task_store.subtask(task().id, parts(task(), 1)[0].id) is None
    assert task_store.subtasks(task().id) == []
    assert task_store.made_by(USER, asked("t")) is None
    assert task_store.page(USER, status=None, newest_first=True, after="", limit=5) == []
    assert [task_store.count(USER, status=status, most=9) for status in (None, PENDING)] == [0, 0]
    assert not task_store.is_gone(GoneTask(USER, task().id))


def test_a_request_makes_one_task(task_store: Tasks) -> None:
    task_store.create(task(1), [], request=asked("t"))
    with pytest.raises(AlreadyExists):
        task_store.create(task(2, of=1), parts(task(2), 1), request=asked("t"))
    task_store.create(task(3), [], request=None)
    task_store.create(task(4), [], request=None)

    assert (task_store.get(USER, task(2).id), task_store.subtasks(task(2).id)) == (None, [])
    assert task_store.count(USER, status=None, most=9) == 3


def test_a_request_of_another_day_makes_another_task(task_store: Tasks) -> None:
    task_store.create(task(1), [], request=asked("t"))
    with pytest.raises(IdempotencyKeyReused):
        task_store.made_by(USER, asked("t", "another task"))
    day_after = asked("t", "another task", at=NOW + RETENTION)
    assert task_store.made_by(USER, day_after) is None
    task_store.create(task(2), [], request=day_after)
    assert task_store.made_by(USER, day_after) == task(2).id
    assert task_store.count(USER, status=None, most=9) == 2


def test_a_task_takes_as_many_subtasks_as_are_allowed(task_store: Tasks) -> None:
    one = task(of=90)
    task_store.create(one, parts(one), request=asked("t"))
    assert task_store.subtasks(one.id) == parts(one)
    ended = [stepped(each, CANCELLED) for each in parts(one)]
    task_store.replace(one, later(one, status=CANCELLED), ended=ended)
    assert {each.status for each in task_store.subtasks(one.id)} == {CANCELLED}


@pytest.mark.req("R-M-08")
def test_lists_go_by_age_and_status_and_behind_an_id(task_store: Tasks) -> None:
    made = [task(n) for n in range(1, 8)]
    for each in made:
        task_store.create(each, [], request=None)
        if int(each.id[-2:]) % 2 == 0:
            task_store.replace(each, later(each, status=CANCELLED))

    def numbers(
        status: TaskStatus | None = None, *, newest: bool = True, after: str = "", limit: int = 10
    ) -> list[int]:
        page = task_store.page(USER, status=status, newest_first=newest, after=after, limit=limit)
        return [int(each.id[-2:]) for each in page]

    assert numbers() == [7, 6, 5, 4, 3, 2, 1]
    assert numbers(newest=False, limit=3) == [1, 2, 3]
    assert numbers(after=made[4].id, limit=2) == [4, 3]
    assert numbers(newest=False, after=made[4].id) == [6, 7]
    assert numbers(PENDING) == [7, 5, 3, 1]
    assert numbers(CANCELLED, after=made[5].id) == [4, 2]
    assert numbers(CANCELLED, newest=False, after=made[1].id, limit=1) == [4]
    assert numbers(FAILED) == []
    counts = [task_store.count(USER, status=status, most=2) for status in (None, PENDING, FAILED)]
    assert counts == [7, 2, 0]


def test_a_replacement_ends_subtasks_with_it(task_store: Tasks) -> None:
    one = task(of=2)
    task_store.create(one, parts(one), request=None)
    ended = [stepped(parts(one)[1], CANCELLED)]

    task_store.replace(one, later(one, status=CANCELLED, title="renamed", metadata={}), ended=ended)

    assert task_store.get(USER, one.id) == later(one, status=CANCELLED, title="renamed", metadata={})
    assert task_store.subtasks(one.id) == [parts(one)[0], ended[0]]


@pytest.mark.req("R-M-05")
def test_a_stale_version_changes_and_deletes_nothing(task_store: Tasks) -> None:
    old = task(of=1)
    task_store.create(old, parts(old), request=None)
    new = later(old, title="new")
    task_store.replace(old, new)

    with pytest.raises(TaskChanged):
        task_store.replace(old, later(old, title="late"), ended=[stepped(parts(old)[0], CANCELLED)])
    with pytest.raises(TaskChanged):
        task_store.begin_delete(old, at=NOW)

    assert (task_store.get(USER, old.id), task_store.subtasks(old.id)) == (new, parts(old))
    assert task_store.count(USER, status=None, most=9) == 1


class TestAStep:
    def test_is_counted_in_its_task(self, task_store: Tasks) -> None:
        one = task(of=1)
        (part,) = parts(one)
        task_store.create(one, [part], request=None)
        started, done = stepped(part, IN_PROGRESS), stepped(stepped(part, IN_PROGRESS), COMPLETED)

        task_store.step(one, part, started)
        assert task_store.get(USER, one.id) == later(one, status=IN_PROGRESS)
        assert task_store.page(USER, status=IN_PROGRESS, newest_first=True, after="", limit=5) == [
            later(one, status=IN_PROGRESS)
        ]
        task_store.step(one, started, done)

        assert task_store.subtask(one.id, part.id) == done
        changed = task_store.get(USER, one.id)
        assert changed is not None
        assert (changed.completed_count, changed.version, changed.progress) == (1, 3, 100)

    def test_to_an_end_does_not_start_its_task(self, task_store: Tasks) -> None:
        one = task(of=1)
        task_store.create(one, parts(one), request=None)
        task_store.step(one, parts(one)[0], stepped(parts(one)[0], CANCELLED))
        assert task_store.get(USER, one.id) == later(one)

    @pytest.mark.parametrize("status", [COMPLETED, FAILED, CANCELLED])
    def test_is_refused_when_the_task_is_over(self, task_store: Tasks, status: TaskStatus) -> None:
        one = task(of=1)
        task_store.create(one, parts(one), request=None)
        task_store.replace(one, later(one, status=status))
        with pytest.raises(TaskChanged):
            task_store.step(one, parts(one)[0], stepped(parts(one)[0], IN_PROGRESS))
        assert task_store.subtasks(one.id) == parts(one)

    def test_is_refused_when_the_subtask_was_changed(self, task_store: Tasks) -> None:
        one = task(of=1)
        (part,) = parts(one)
        task_store.create(one, [part], request=None)
        task_store.step(one, part, stepped(part, IN_PROGRESS))
        with pytest.raises(TaskChanged):
            task_store.step(one, part, stepped(part, CANCELLED))
        assert task_store.subtask(one.id, part.id) == stepped(part, IN_PROGRESS)

    def test_may_be_taken_by_several_at_once(self, dynamo: TaskRepository) -> None:
        one = task(of=6)
        dynamo.create(one, parts(one), request=None)
        start = Barrier(6)

        def take(part: Subtask) -> None:
            start.wait(5)
            dynamo.step(one, part, stepped(part, IN_PROGRESS))

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(take, parts(one)))
        assert {each.status for each in dynamo.subtasks(one.id)} == {IN_PROGRESS}
        found = dynamo.get(USER, one.id)
        assert found is not None
        assert found.version == 7


class TestADeletion:
    @pytest.mark.req("R-M-06")
    def test_hides_the_task_first_and_then_removes_all(self, task_store: Tasks) -> None:
        one, two = task(1, of=2), task(2, of=1)
        for each in (one, two):
            task_store.create(each, parts(each), request=None)
        gone = GoneTask(USER, one.id)

        task_store.begin_delete(one, at=NOW)

        assert (task_store.get(USER, one.id), task_store.is_gone(gone)) == (None, True)
        assert task_store.count(USER, status=None, most=9) == 1
        assert task_store.page(USER, status=PENDING, newest_first=True, after="", limit=5) == [two]
        with pytest.raises(TaskChanged):
            task_store.step(one, parts(one)[0], stepped(parts(one)[0], IN_PROGRESS))
        task_store.remove(gone)
        task_store.remove(gone)
        assert (task_store.subtasks(one.id), task_store.is_gone(gone)) == ([], False)
        assert (task_store.get(USER, two.id), task_store.subtasks(two.id)) == (two, parts(two))

    def test_that_is_old_is_listed_oldest_first(self, task_store: Tasks) -> None:
        for n in (3, 1, 2):
            task_store.create(task(n), [], request=None)
            task_store.begin_delete(task(n), at=NOW + timedelta(minutes=n))
        gone = [GoneTask(USER, task(n).id) for n in (1, 2, 3)]
        assert task_store.gone(before=NOW + timedelta(minutes=3), limit=9) == gone[:2]
        assert task_store.gone(before=NOW + timedelta(hours=1), limit=1) == gone[:1]


class TestTheEndOfAnAccount:
    def purge(self, *, seconds: float = 60) -> PurgeAttempt:
        return PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() + seconds, settled=True)

    def kinds(self, database: Database) -> Counter[str]:
        rows = database.items("work")
        return Counter(row["type"]["S"] for row in rows)

    def test_leaves_nothing_of_its_tasks_and_everything_of_others(
        self, dynamo: TaskRepository, database: Database
    ) -> None:
        for n in (1, 2):
            dynamo.create(task(n, of=2), parts(task(n), 2), request=asked(f"t{n}"))
        dynamo.begin_delete(task(2), at=NOW)
        dynamo.create(task(3, user=OTHER, of=1), parts(task(3), 1), request=asked("t"))

        assert not dynamo.purge_account(self.purge(seconds=-1))
        assert dynamo.purge_account(self.purge())

        assert self.kinds(database) == Counter(task=1, subtask=1, task_counter=1, task_request=1)
        assert dynamo.purge_account(self.purge())

    def test_lets_no_task_be_made(self, dynamo: TaskRepository, database: Database) -> None:
        with pytest.raises(AccountGone):
            dynamo.create(task(user=UserId(new_id())), [], request=asked("t"))
        assert self.kinds(database) == Counter()


@pytest.mark.fault("F-26d")
def test_an_account_has_so_many_tasks_and_subtasks_and_deleting_makes_room(
    task_store: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "MAX_ENTRIES", 5)

    def create(number: int, of: int, user: UserId = USER) -> Task:
        made = task(number, of=of, user=user)
        task_store.create(made, parts(made), request=asked(f"t{number}"))
        return made

    first = create(1, 2)
    for of in (2, 3):
        with pytest.raises(TooManyTasks):
            create(2, of)
    create(2, 1)
    with pytest.raises(TooManyTasks):
        create(3, 0)
    with pytest.raises(AlreadyExists):  # a repeat is told so, also when nothing fits any more
        task_store.create(task(7), [], request=asked("t2"))
    create(4, 4, OTHER)
    task_store.begin_delete(first, at=NOW)
    create(5, 2)
    with pytest.raises(TooManyTasks):
        create(6, 0)

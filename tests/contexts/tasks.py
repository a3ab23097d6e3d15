"""Declarations of tasks for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest

from karma.core.errors import AlreadyExists
from karma.core.ids import SubtaskId, TaskId, UserId, new_id
from karma.core.requests import RETENTION
from karma.tasks.domain import Subtask, Task, TaskStatus
from karma.tasks.ports import GoneTask
from karma.tasks.repository import TaskRepository
from tests.fakes.tasks import MemoryTasks
from tests.integration.permissions.world import Bodies, Objects, World, bearer
from tests.support.contexts import Checks, Fakes, Scenarios, made
from tests.support.requests import asked
from tests.support.rows import LATER, NOW, AccountRows

USER = UserId(new_id())


def task(number: int = 1, *, user: UserId = USER, of: int = 0, **more: Any) -> Task:
    return Task(
        id=TaskId(f"01890000-0000-7000-8000-{number:012d}"),
        user_id=user,
        title=f"task {number}",
        description="Line one\nline two",
        priority=9,
        status=TaskStatus.PENDING,
        metadata={"sheet": {"rows": [1, None, "x"]}},
        subtask_count=of,
        completed_count=0,
        created_at=NOW,
        updated_at=NOW,
        version=1,
        **more,
    )


def parts(parent: Task, n: int | None = None) -> list[Subtask]:
    ids = [SubtaskId(f"{parent.id[:-14]}{i:02d}{parent.id[-12:]}") for i in range(n or parent.subtask_count)]
    return [
        Subtask(
            id=made,
            task_id=parent.id,
            ref=f"r{i}" if i else None,
            title=f"part {i}",
            description="",
            status=TaskStatus.PENDING,
            dependencies=tuple(ids[:i][-2:]),
            tools=("browser",) * (i % 2),
            metadata={"i": i},
            created_at=NOW,
            updated_at=NOW,
            version=1,
        )
        for i, made in enumerate(ids)
    ]


class TaskRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.tasks = TaskRepository()

    def new_task(self) -> tuple[Task, list[Subtask]]:
        made = replace(task(user=self.ada.id, of=2), id=TaskId(new_id()))
        return made, parts(made)

    @cached_property
    def task(self) -> tuple[Task, list[Subtask]]:
        task, subtasks = self.new_task()
        self.tasks.create(task, subtasks, request=asked("t"))
        return task, subtasks

    @cached_property
    def gone_task(self) -> GoneTask:
        task, _ = self.task
        self.tasks.begin_delete(task, at=NOW)
        return GoneTask(self.ada.id, task.id)


FAKES: Fakes = {MemoryTasks: (TaskRepository,)}

SCENARIOS = Scenarios[TaskRows](
    TaskRows,
    {
        "TaskRepository.get": made(lambda r: r.task[0], lambda r, t: r.tasks.get(t.user_id, t.id)),
        "TaskRepository.subtask": made(lambda r: r.task[1][0], lambda r, s: r.tasks.subtask(s.task_id, s.id)),
        "TaskRepository.subtasks": made(lambda r: r.task[0], lambda r, t: r.tasks.subtasks(t.id)),
        "TaskRepository.made_by": made(lambda r: r.task[0], lambda r, t: r.tasks.made_by(t.user_id, asked("t"))),
        "TaskRepository.page": made(
            lambda r: r.task[0],
            lambda r, t: r.tasks.page(t.user_id, status=t.status, newest_first=True, after="", limit=5),
        ),
        "TaskRepository.count": made(
            lambda r: r.task[0], lambda r, t: r.tasks.count(t.user_id, status=t.status, most=5)
        ),
        "TaskRepository.create": made(
            lambda r: r.new_task(), lambda r, n: r.tasks.create(n[0], n[1], request=asked("t"))
        ),
        "TaskRepository.replace": made(
            lambda r: r.task, lambda r, n: r.tasks.replace(n[0], replace(n[0], title="x", version=2), ended=n[1][:1])
        ),
        "TaskRepository.step": made(
            lambda r: r.task, lambda r, n: r.tasks.step(n[0], n[1][0], replace(n[1][0], status=TaskStatus.IN_PROGRESS))
        ),
        "TaskRepository.begin_delete": made(lambda r: r.task[0], lambda r, t: r.tasks.begin_delete(t, at=NOW)),
        "TaskRepository.remove": made(lambda r: r.gone_task, lambda r, gone: r.tasks.remove(gone)),
        "TaskRepository.is_gone": made(lambda r: r.gone_task, lambda r, gone: r.tasks.is_gone(gone)),
        "TaskRepository.gone": made(lambda r: r.gone_task, lambda r, _: r.tasks.gone(before=LATER, limit=5)),
        "TaskRepository.purge_account": made(lambda r: (r.task, r.purge()), lambda r, n: r.tasks.purge_account(n[1])),
    },
)


def _task(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/tasks", _new_task(world, owner))["task"]["id"])


def _subtask(world: World, owner: str, ids: Mapping[str, str]) -> str:
    token = bearer(world.person(owner).token)
    listed = world.api("GET", f"/api/v1/tasks/{ids['task_id']}/subtasks", headers=token)
    return str(listed.data["subtasks"][0]["id"])


def _new_task(_: World, __: str) -> dict[str, Any]:
    return {"title": "Inventory", "subtasks": [{"title": "Count"}]}


OBJECTS: Objects = {"task_id": _task, "subtask_id": _subtask}

BODIES: Bodies = {
    "POST /api/v1/tasks": _new_task,
    "PATCH /api/v1/tasks/{task_id}": lambda *_: {"title": "Stock"},
    "PATCH /api/v1/tasks/{task_id}/subtasks/{subtask_id}": lambda *_: {"status": "in_progress"},
}


def _made_task_over(rows: TaskRows) -> None:
    rows.task  # noqa: B018
    again, subtasks = rows.new_task()
    with pytest.raises(AlreadyExists):
        rows.tasks.create(again, subtasks, request=asked("t"))
    rows.tasks.create(again, subtasks, request=asked("t", at=NOW + RETENTION))


EXPIRES = Checks[TaskRows](TaskRows, {"task_request": _made_task_over})

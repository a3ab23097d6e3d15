"""In-memory stand-in for the store of tasks. It passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.core.ids import SubtaskId, TaskId, UserId
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import AccountGone
from karma.tasks import domain
from karma.tasks.domain import Subtask, Task, TaskChanged, TaskStatus, TooManyTasks
from karma.tasks.ports import GoneTask
from tests.fakes.requests import MemoryRequests


@dataclass
class MemoryTasks:
    """Tasks in dictionaries."""

    tasks: dict[TaskId, Task] = field(default_factory=dict)
    parts: dict[TaskId, dict[SubtaskId, Subtask]] = field(default_factory=dict)
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    tombstones: dict[GoneTask, datetime] = field(default_factory=dict)
    deleted_accounts: set[UserId] = field(default_factory=set)

    def get(self, user_id: UserId, task_id: TaskId) -> Task | None:
        task = self.tasks.get(task_id)
        return task if task is not None and task.user_id == user_id else None

    def subtask(self, task_id: TaskId, subtask_id: SubtaskId) -> Subtask | None:
        return self.parts.get(task_id, {}).get(subtask_id)

    def subtasks(self, task_id: TaskId) -> list[Subtask]:
        return sorted(self.parts.get(task_id, {}).values(), key=lambda each: each.id)

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> TaskId | None:
        made = self.requests.noted(user_id, request)
        return TaskId(made) if made else None

    def create(self, task: Task, subtasks: Sequence[Subtask], *, request: RepeatableRequest | None) -> None:
        if task.user_id in self.deleted_accounts:
            raise AccountGone(task.user_id)
        self.requests.require_new(task.user_id, request)
        held = sum(1 + each.subtask_count for each in self.tasks.values() if each.user_id == task.user_id)
        if held + 1 + len(subtasks) > domain.MAX_ENTRIES:
            raise TooManyTasks
        self.requests.note(task.user_id, request, task.id)
        self.tasks[task.id] = task
        self.parts[task.id] = {each.id: each for each in subtasks}

    def replace(self, old: Task, new: Task, *, ended: Sequence[Subtask] = ()) -> None:
        self._require(old)
        self.tasks[new.id] = new
        for each in ended:
            stored = self.parts[new.id][each.id]
            self.parts[new.id][each.id] = replace(
                stored, status=each.status, updated_at=each.updated_at, version=stored.version + 1
            )

    def step(self, task: Task, old: Subtask, new: Subtask) -> None:
        stored, parent = self.subtask(task.id, old.id), self.tasks.get(task.id)
        if stored is None or stored.version != old.version or parent is None or parent.status.is_over:
            raise _changed(task)
        self.parts[task.id][old.id] = replace(
            stored, status=new.status, updated_at=new.updated_at, version=stored.version + 1
        )
        starts = new.status is TaskStatus.IN_PROGRESS
        self.tasks[task.id] = replace(
            parent,
            status=TaskStatus.IN_PROGRESS if starts else parent.status,
            completed_count=parent.completed_count + (new.status is TaskStatus.COMPLETED),
            updated_at=new.updated_at,
            version=parent.version + 1,
        )

    def page(
        self, user_id: UserId, *, status: TaskStatus | None, newest_first: bool, after: str, limit: int
    ) -> list[Task]:
        found = sorted(self._listed(user_id, status), key=lambda task: task.id, reverse=newest_first)
        behind = [task for task in found if not after or ((task.id < after) == newest_first and task.id != after)]
        return behind[:limit]

    def count(self, user_id: UserId, *, status: TaskStatus | None, most: int) -> int:
        found = len(self._listed(user_id, status))
        return found if status is None else min(found, most)

    def begin_delete(self, task: Task, *, at: datetime) -> None:
        self._require(task)
        del self.tasks[task.id]
        self.tombstones[GoneTask(task.user_id, task.id)] = at

    def remove(self, gone: GoneTask) -> None:
        self.parts.pop(gone.task_id, None)
        self.tombstones.pop(gone, None)

    def is_gone(self, gone: GoneTask) -> bool:
        return gone in self.tombstones

    def gone(self, *, before: datetime, limit: int) -> list[GoneTask]:
        old = [(at, gone) for gone, at in self.tombstones.items() if at < before]
        return [gone for _, gone in sorted(old)][:limit]

    def _listed(self, user_id: UserId, status: TaskStatus | None) -> list[Task]:
        mine = [task for task in self.tasks.values() if task.user_id == user_id]
        return [task for task in mine if status is None or task.status is status]

    def _require(self, seen: Task) -> None:
        stored = self.tasks.get(seen.id)
        if stored is None or stored.version != seen.version:
            raise _changed(seen)


def _changed(task: Task) -> TaskChanged:
    return TaskChanged(f"Task {task.id} was changed by another request; read it again")

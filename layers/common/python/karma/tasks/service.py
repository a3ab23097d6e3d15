"""Use cases of tasks: create, list, read, change, cancel, delete, and change the status of a subtask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from karma.core.clock import Clock
from karma.core.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    StaleVersion,
    StorageThrottled,
    Upstream,
    ValidationFailed,
)
from karma.core.ids import SubtaskId, TaskId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, no_longer, repeatable
from karma.tasks.domain import (
    NewSubtask,
    NewTask,
    Subtask,
    Task,
    TaskChanged,
    TaskStatus,
    cancelled_with,
    require_open,
    require_ready,
    require_step,
    require_subtask_step,
    wrong_dependencies,
)
from karma.tasks.ports import GoneTask, Tasks

MAX_OFFSET_ROWS = 1_000
"""Rows that pages by number reach at the most, and up to which the tasks of a status are counted."""

_MET = (StorageThrottled, TaskChanged)
"""Errors of a write that another one preceded; it is repeated on what is stored then."""


class TaskQuery(Record, kw_only=True):
    """Filter, order and position of a list; `after` is the `next_after` of the page before, "" for the first one."""

    limit: int = 20
    offset: int = 0
    after: str = ""
    status: TaskStatus | None = None
    newest_first: bool = True


class TaskPage(Record, kw_only=True):
    """A page of tasks."""

    tasks: tuple[Task, ...]
    total: int
    total_capped: bool
    next_after: TaskId | None
    """Id after which the next page starts; None at the end."""


class TaskWithSubtasks(Record, kw_only=True):
    """A task and all of its subtasks."""

    task: Task
    subtasks: tuple[Subtask, ...]


class TaskService:
    """Operations of owners on their tasks. Another owner's task is NotFound in all of them."""

    def __init__(self, store: Tasks, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    # Reading

    def get(self, user_id: UserId, task_id: str) -> Task:
        """Read one task.

        Raises:
            NotFound: the owner has no such task.
        """
        task = self._store.get(user_id, TaskId(task_id)) if is_id(task_id) else None
        if task is None:
            raise NotFound(f"Task {task_id} not found")
        return task

    def subtasks(self, user_id: UserId, task_id: str) -> list[Subtask]:
        """Read a task's subtasks, in the order in which they were given.

        Raises:
            NotFound: the owner has no such task.
        """
        return self._store.subtasks(self.get(user_id, task_id).id)

    def list(self, user_id: UserId, query: TaskQuery) -> TaskPage:
        """Return a page by age, by one query and, unless the first page has all tasks, one call that counts.

        Raises:
            InvalidRequest: INVALID_PAGE: a page by number ends beyond 1,000 rows.
        """
        wanted = query.offset + query.limit
        if wanted > MAX_OFFSET_ROWS:
            raise InvalidRequest(
                f"Pages by number end at {MAX_OFFSET_ROWS} rows; go on with `cursor`", code="INVALID_PAGE"
            )
        # One row more than shown tells whether another page follows.
        rows = self._store.page(
            user_id, status=query.status, newest_first=query.newest_first, after=query.after, limit=wanted + 1
        )
        shown = rows[query.offset : wanted]
        more = len(rows) > wanted
        total, capped = len(rows), False
        if more or query.after:
            stored = self._store.count(user_id, status=query.status, most=MAX_OFFSET_ROWS)
            total = max(total, stored)
            capped = query.status is not None and stored >= MAX_OFFSET_ROWS
        return TaskPage(
            tasks=tuple(shown),
            total=total,
            total_capped=capped,
            next_after=shown[-1].id if more and shown else None,
        )

    # Writing

    def create(
        self, user_id: UserId, new: NewTask, *, idempotency_key: IdempotencyKey | None = None
    ) -> TaskWithSubtasks:
        """Store a task with its subtasks; a repeat with the same `idempotency_key` returns the task of the first one.

        Raises:
            ValidationFailed: a dependency names no subtask of the task, or dependencies form a cycle.
            Gone: the first request's task was deleted meanwhile.
            IdempotencyKeyReused: the first request asked for another task.
            AccountGone: the owner's account is deleted.
            TooManyTasks: the owner would have more than `MAX_ENTRIES` tasks and subtasks.
        """
        wrong = wrong_dependencies(new.subtasks)
        if wrong:
            details = [{"field": field, "message": message, "type": "value_error"} for field, message in wrong]
            raise ValidationFailed("Request validation failed", details=details)
        made = self._made(user_id, new)
        request = repeatable(idempotency_key, new, at=made.task.created_at)
        try:
            self._store.create(made.task, made.subtasks, request=request)
        except AlreadyExists:
            earlier = self._store.made_by(user_id, request) if request else None
            task = self._store.get(user_id, earlier) if earlier else None
            if task is None:
                raise no_longer(earlier) from None
            return TaskWithSubtasks(task=task, subtasks=tuple(self._store.subtasks(task.id)))
        count("TaskCreated")
        logger.info("task.created", task_id=made.task.id, subtasks=len(made.subtasks))
        return made

    def _made(self, user_id: UserId, new: NewTask) -> TaskWithSubtasks:
        now = self._clock.now()
        task = Task(
            id=TaskId(new_id()),
            user_id=user_id,
            title=new.title,
            description=new.description,
            priority=new.priority,
            status=TaskStatus.PENDING,
            metadata=new.metadata,
            subtask_count=len(new.subtasks),
            completed_count=0,
            created_at=now,
            updated_at=now,
            version=1,
        )
        # Sorted: ids of one millisecond have no order, and subtasks are read in that of their ids.
        ids = [SubtaskId(each) for each in sorted(new_id() for _ in new.subtasks)]
        by_ref = {each.ref: made_id for each, made_id in zip(new.subtasks, ids, strict=True)}

        def subtask(made_id: SubtaskId, each: NewSubtask) -> Subtask:
            return Subtask(
                id=made_id,
                task_id=task.id,
                ref=each.ref,
                title=each.title,
                description=each.description,
                status=TaskStatus.PENDING,
                dependencies=tuple(by_ref[ref] for ref in each.dependencies),
                tools=each.tools,
                metadata=each.metadata,
                created_at=now,
                updated_at=now,
                version=1,
            )

        return TaskWithSubtasks(task=task, subtasks=tuple(map(subtask, ids, new.subtasks)))

    def change(self, user_id: UserId, task_id: str, changes: Mapping[str, Any], *, version: int | None = None) -> Task:
        """Change title, description, priority, metadata or status; a task that ends cancels its unfinished subtasks.

        Raises:
            NotFound: the owner has no such task.
            StaleVersion: `version` is not the stored one.
            AlreadyCompleted, InvalidTransition: the task is finished, or cannot make this transition.
        """

        def once() -> Task:
            old = self._of_version(user_id, task_id, version)
            if not changes:
                return old
            new = replace(old, **changes)
            if new == old and old.status is not TaskStatus.COMPLETED:
                return old
            require_open(f"Task {old.id}", old.status)
            if new.status is not old.status:
                require_step(f"Task {old.id}", old.status, new.status)
            now = self._clock.now()
            new = replace(new, updated_at=now, version=old.version + 1)
            over = new.status.is_over and old.subtask_count
            ended = cancelled_with(self._store.subtasks(old.id), at=now) if over else []
            self._store.replace(old, new, ended=ended)
            logger.info("task.changed", task_id=old.id, status=new.status, ended=len(ended))
            return new

        return repeat(once, on=_MET)

    def cancel(self, user_id: UserId, task_id: str, *, version: int | None = None) -> Task:
        """Cancel a task and its unfinished subtasks; cancelling a cancelled one changes nothing.

        Raises:
            NotFound, StaleVersion, AlreadyCompleted, InvalidTransition: as in `change`.
        """
        return self.change(user_id, task_id, {"status": TaskStatus.CANCELLED}, version=version)

    def step(
        self, user_id: UserId, task_id: str, subtask_id: str, status: TaskStatus, *, version: int | None = None
    ) -> Subtask:
        """Change the status of a subtask; the first one that starts also starts its task.

        Raises:
            NotFound: the owner has no such task, or it has no such subtask.
            StaleVersion: `version` is not the stored one.
            AlreadyCompleted, InvalidTransition: task or subtask is finished, or cannot make this transition.
            DependenciesUnfinished: a dependency of the subtask is not completed.
        """

        def once() -> Subtask:
            task = self.get(user_id, task_id)
            old = self._store.subtask(task.id, SubtaskId(subtask_id)) if is_id(subtask_id) else None
            if old is None:
                raise NotFound(f"Subtask {subtask_id} not found")
            if version is not None and version != old.version:
                raise StaleVersion(f"Subtask {old.id} has version {old.version}")
            if old.status is status and status is not TaskStatus.COMPLETED:
                return old
            require_open(f"Task {task.id}", task.status)
            require_subtask_step(f"Subtask {old.id}", old.status, status)
            if status is TaskStatus.IN_PROGRESS and old.dependencies:
                require_ready(old, self._store.subtasks(task.id))
            new = replace(old, status=status, updated_at=self._clock.now(), version=old.version + 1)
            self._store.step(task, old, new)
            logger.info("subtask.changed", task_id=task.id, subtask_id=old.id, status=status)
            return new

        return repeat(once, on=_MET)

    def delete(self, user_id: UserId, task_id: str, *, version: int | None = None) -> None:
        """Delete a task: first it is replaced by a record of its deletion, then its subtasks go.

        A sweep finishes deletions that a crash interrupted; may be repeated.

        Raises:
            NotFound: the owner has no such task.
            StaleVersion: `version` is not the stored one.
        """

        def once() -> None:
            task = self._of_version(user_id, task_id, version)
            self._store.begin_delete(task, at=self._clock.now())
            count("TaskDeleted")
            logger.info("task.deleted", task_id=task.id)

        gone = GoneTask(user_id, TaskId(task_id))
        try:
            repeat(once, on=_MET)
        except NotFound:
            if not (is_id(task_id) and self._store.is_gone(gone)):
                raise
        try:
            self._store.remove(gone)
        except Upstream as exc:
            logger.warning("task.left_for_sweep", task_id=gone.task_id, cause=type(exc).__name__)

    def _of_version(self, user_id: UserId, task_id: str, version: int | None) -> Task:
        task = self.get(user_id, task_id)
        if version is not None and task.version != version:
            raise StaleVersion(f"Task {task.id} has version {task.version}")
        return task

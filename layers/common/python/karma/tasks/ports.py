"""Ports of tasks; the second implementation is in tests/fakes/tasks.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from karma.core.ids import SubtaskId, TaskId, UserId
from karma.core.requests import RepeatableRequest
from karma.tasks.domain import Subtask, Task, TaskStatus


class GoneTask(NamedTuple):
    """A deleted task of which data may be left."""

    user_id: UserId
    task_id: TaskId


class Tasks(Protocol):
    """A store of tasks and subtasks. All calls block; each write but `remove` is one transaction."""

    def get(self, user_id: UserId, task_id: TaskId) -> Task | None:
        """Read a task, consistently; None: it is absent, deleted, or another owner's."""

    def subtask(self, task_id: TaskId, subtask_id: SubtaskId) -> Subtask | None:
        """Read one subtask, consistently; None: it does not exist."""

    def subtasks(self, task_id: TaskId) -> list[Subtask]:
        """Read a task's subtasks in the order of its body, consistently."""

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> TaskId | None:
        """Return the id of the task that a request created, consistently; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """

    def create(self, task: Task, subtasks: Sequence[Subtask], *, request: RepeatableRequest | None) -> None:
        """Store a new task, and the record of `request`.

        Raises:
            AlreadyExists: a request with this key created a task within the last 25 hours; `made_by` names it.
            AccountGone: the owner's account is deleted.
            TooManyTasks: the owner would have more than `MAX_ENTRIES` tasks and subtasks.
        """

    def replace(self, old: Task, new: Task, *, ended: Sequence[Subtask] = ()) -> None:
        """Store `new`, which has the next version, in place of `old`, and subtasks that end with it.

        Raises:
            TaskChanged: `old` is not the stored one any more.
        """

    def step(self, task: Task, old: Subtask, new: Subtask) -> None:
        """Store `new` in place of `old`; update its task's counters, version, and status when the first subtask starts.

        Two subtasks of a task may do so at the same time.

        Raises:
            TaskChanged: `old` is not the stored one any more, or the task is finished or deleted.
        """

    def page(
        self, user_id: UserId, *, status: TaskStatus | None, newest_first: bool, after: str, limit: int
    ) -> list[Task]:
        """List tasks by age, those after the id `after`, "" for the first page."""

    def count(self, user_id: UserId, *, status: TaskStatus | None, most: int) -> int:
        """Count tasks; those of a status up to `most`."""

    def begin_delete(self, task: Task, *, at: datetime) -> None:
        """Replace a task by a record of its deletion: nobody sees it any more, and its subtasks cannot change.

        Raises:
            TaskChanged: `task` is not the stored one any more.
        """

    def remove(self, gone: GoneTask) -> None:
        """Delete the data of a deleted task, the record of its deletion last; may be repeated."""

    def is_gone(self, gone: GoneTask) -> bool:
        """Tell whether a deleted task's record still exists, consistently."""

    def gone(self, *, before: datetime, limit: int) -> list[GoneTask]:
        """List deleted tasks of which data may be left, from the oldest on."""

"""What tasks need from outside; the second implementation is in tests/fakes/tasks.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from karma.core.ids import SubtaskId, TaskId, UserId
from karma.tasks.domain import Subtask, Task, TaskStatus


class GoneTask(NamedTuple):
    """A deleted task of which something may be left."""

    user_id: UserId
    task_id: TaskId


class TaskStore(Protocol):
    """Tasks and subtasks at rest. All calls block; each write but `remove` is one transaction."""

    def get(self, user_id: UserId, task_id: TaskId) -> Task | None:
        """Read one, consistently; None when it is absent, deleted, or another owner's."""

    def subtask(self, task_id: TaskId, subtask_id: SubtaskId) -> Subtask | None:
        """Read one subtask, consistently."""

    def subtasks(self, task_id: TaskId) -> list[Subtask]:
        """Read a task's subtasks in the order of its body, consistently."""

    def made_by(self, user_id: UserId, request_token: str) -> TaskId | None:
        """Find what a request made, consistently."""

    def create(self, task: Task, subtasks: Sequence[Subtask], *, request_token: str) -> None:
        """Store a new task; "" is no token.

        Raises:
            AlreadyExists: this token made a task within 24 hours before.
            AccountGone: its owner is deleted.
            TooManyTasks: the owner would have more than `MAX_ENTRIES` tasks and subtasks.
        """

    def replace(self, old: Task, new: Task, *, ended: Sequence[Subtask] = ()) -> None:
        """Store `new`, which has the next version, in place of `old`, and subtasks that end with it.

        Raises:
            TaskChanged: `old` is not the stored one any more.
        """

    def step(self, task: Task, old: Subtask, new: Subtask) -> None:
        """Store `new` in place of `old` and count it in its task, which gets the next version, and starts with it.

        Two subtasks of a task may do so at the same time.

        Raises:
            TaskChanged: `old` is not the stored one any more, or the task is over or gone.
        """

    def page(
        self, user_id: UserId, *, status: TaskStatus | None, newest_first: bool, after: str, limit: int
    ) -> list[Task]:
        """List tasks by age, those behind the id `after`; "" is the first page."""

    def count(self, user_id: UserId, *, status: TaskStatus | None, most: int) -> int:
        """Count tasks; with a status no further than `most`."""

    def begin_delete(self, task: Task, *, at: datetime) -> None:
        """Put a tombstone in the place of a task: it is gone for everybody, and its subtasks change no more.

        Raises:
            TaskChanged: `task` is not the stored one any more.
        """

    def remove(self, gone: GoneTask) -> None:
        """Remove what is left of a deleted task, the tombstone last; may be repeated."""

    def is_gone(self, gone: GoneTask) -> bool:
        """Tell whether the tombstone of a task stands, consistently."""

    def gone(self, *, before: datetime, limit: int) -> list[GoneTask]:
        """List deleted tasks of which something may be left, from the oldest on."""

"""Tasks and their subtasks: types, the table of status transitions, and the rules of dependencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from karma.core.errors import Conflict, InvalidTransition, StaleVersion
from karma.core.ids import SubtaskId, TaskId, UserId
from karma.core.records import Record

MAX_TITLE_CHARS: Final = 255
MAX_DESCRIPTION_CHARS: Final = 4_000
MAX_TASK_METADATA_BYTES: Final = 8_192
MAX_SUBTASK_METADATA_BYTES: Final = 4_096
MAX_SUBTASKS: Final = 90
"""Subtasks of one task; they are written with it in one transaction, which has 100 items at the most."""
MAX_ENTRIES: Final = 20_000
"""Tasks and subtasks of an account, whatever its plan; finished ones count until they are deleted."""
MAX_TOOLS: Final = 20
MAX_TOOL_CHARS: Final = 64
MAX_REF_CHARS: Final = 64
MAX_PRIORITY: Final = 9
DEFAULT_PRIORITY: Final = 5


class TaskStatus(StrEnum):
    """Status of a task or a subtask."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Tell whether the status is final."""
        return not TRANSITIONS[self]


TRANSITIONS: Final[Mapping[TaskStatus, frozenset[TaskStatus]]] = {
    TaskStatus.PENDING: frozenset({TaskStatus.IN_PROGRESS, TaskStatus.CANCELLED}),
    TaskStatus.IN_PROGRESS: frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}
"""Every transition that a task may make."""

SUBTASK_TRANSITIONS: Final[Mapping[TaskStatus, frozenset[TaskStatus]]] = {
    **TRANSITIONS,
    TaskStatus.FAILED: frozenset({TaskStatus.PENDING}),
    TaskStatus.CANCELLED: frozenset({TaskStatus.PENDING}),
}
"""Every transition that a subtask may make while its task is open: one that ended without success may be tried again,
since others may wait for it."""


class AlreadyCompleted(Conflict):
    """A completed task or subtask cannot be changed."""

    code = "ALREADY_COMPLETED"


class DependenciesUnfinished(InvalidTransition):
    """A subtask cannot start before its dependencies are completed; `details` name those that are not.

    `subtasks` are the ids of its own, `blockers` also those that these depend on, each with `id`, `ref` and `status`.
    """

    code = "DEPENDENCIES_UNFINISHED"


class TooManyTasks(Conflict):
    """The account has as many tasks and subtasks as it may have."""

    code = "TOO_MANY_TASKS"

    def __init__(self) -> None:
        """Make the error, with advice how to get below the limit."""
        super().__init__(
            f"An account has at most {MAX_ENTRIES} tasks and subtasks; delete some, for example those that are over"
        )


class TaskChanged(StaleVersion):
    """Another request changed the task or subtask after it was read: read it again."""


class NewSubtask(Record, kw_only=True):
    """A subtask as the body of its task describes it."""

    title: str
    ref: str | None = None
    """Name by which other subtasks of the same body refer to it; None: none does."""
    description: str = ""
    dependencies: tuple[str, ...] = ()
    """Refs of the subtasks that must be completed before it starts."""
    tools: tuple[str, ...] = ()
    metadata: Mapping[str, Any]


class NewTask(Record, kw_only=True):
    """A task as its owner describes it; lengths are checked by schemas.CreateTaskBody."""

    title: str
    description: str = ""
    priority: int = DEFAULT_PRIORITY
    metadata: Mapping[str, Any]
    subtasks: tuple[NewSubtask, ...] = ()


class Task(Record, kw_only=True):
    """A task. Each change of one of its subtasks raises its version, too."""

    id: TaskId
    user_id: UserId
    title: str
    description: str
    priority: int
    """From 0 to 9; higher goes first."""
    status: TaskStatus
    metadata: Mapping[str, Any]
    subtask_count: int
    completed_count: int
    """Number of its subtasks that are completed."""
    created_at: datetime
    updated_at: datetime
    version: int

    @property
    def progress(self) -> int:
        """Return the percentage of completed subtasks; 100 for a completed task, 0 for another one without subtasks."""
        if self.status is TaskStatus.COMPLETED:
            return 100
        return 100 * self.completed_count // self.subtask_count if self.subtask_count else 0


class Subtask(Record, kw_only=True):
    """A part of a task that is done by itself."""

    id: SubtaskId
    task_id: TaskId
    ref: str | None
    title: str
    description: str
    status: TaskStatus
    dependencies: tuple[SubtaskId, ...]
    """Ids of the subtasks that must be completed before it starts."""
    tools: tuple[str, ...]
    """Names of the tools that a worker must have to do it."""
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    version: int


def require_step(what: str, current: TaskStatus, wanted: TaskStatus) -> None:
    """Refuse a transition of a task that `TRANSITIONS` lacks; `what` names it in the message.

    Raises:
        AlreadyCompleted: the task is completed.
        InvalidTransition: the status cannot become the wanted one.
    """
    require_open(what, current)
    if wanted not in TRANSITIONS[current]:
        raise InvalidTransition(f"{what} is {current} and cannot become {wanted}")


def require_subtask_step(what: str, current: TaskStatus, wanted: TaskStatus) -> None:
    """Refuse a transition of a subtask that `SUBTASK_TRANSITIONS` lacks; `what` names it in the message.

    Raises:
        AlreadyCompleted: the subtask is completed.
        InvalidTransition: the status cannot become the wanted one.
    """
    if wanted in SUBTASK_TRANSITIONS[current]:
        return
    if current in (TaskStatus.FAILED, TaskStatus.CANCELLED):
        raise InvalidTransition(f"{what} is {current}; set it to pending to try it again")
    require_step(what, current, wanted)


def require_open(what: str, current: TaskStatus) -> None:
    """Refuse to change a task or subtask whose status is final.

    Raises:
        AlreadyCompleted: the task or subtask is completed.
        InvalidTransition: the task or subtask failed or was cancelled.
    """
    if current is TaskStatus.COMPLETED:
        raise AlreadyCompleted(f"{what} is completed already")
    if current.is_over:
        raise InvalidTransition(f"{what} is {current} and takes no more changes")


def require_ready(subtask: Subtask, siblings: Sequence[Subtask]) -> None:
    """Refuse to start a subtask before its dependencies are completed.

    Raises:
        DependenciesUnfinished: a dependency is not completed.
    """
    by_id = {each.id: each for each in siblings}
    unfinished = [each for each in subtask.dependencies if by_id[each].status is not TaskStatus.COMPLETED]
    if not unfinished:
        return
    blockers: dict[SubtaskId, Subtask] = {}
    ahead = list(unfinished)
    while ahead:
        each = by_id[ahead.pop(0)]
        if each.id not in blockers and each.status is not TaskStatus.COMPLETED:
            blockers[each.id] = each
            ahead += each.dependencies
    said = f"Subtask {subtask.id} depends on {len(unfinished)} that are not completed"
    ended = [each.id for each in blockers.values() if each.status.is_over]
    if ended:
        said += f"; {', '.join(ended)} failed or cancelled: nothing goes on before that is set to pending again"
    named = [{"id": each.id, "ref": each.ref, "status": each.status} for each in blockers.values()]
    raise DependenciesUnfinished(said, details={"subtasks": unfinished, "blockers": named})


def cancelled_with(subtasks: Sequence[Subtask], *, at: datetime) -> list[Subtask]:
    """Return the unfinished subtasks as they are cancelled with their task."""
    return [
        replace(each, status=TaskStatus.CANCELLED, updated_at=at, version=each.version + 1)
        for each in subtasks
        if not each.status.is_over
    ]


def wrong_dependencies(subtasks: Sequence[NewSubtask]) -> list[tuple[str, str]]:
    """List errors in the dependencies of subtasks, as pairs of field and message; [] for a graph without cycles."""
    wrong: list[tuple[str, str]] = []
    by_ref: dict[str, int] = {}
    for i, each in enumerate(subtasks):
        if each.ref is not None and by_ref.setdefault(each.ref, i) != i:
            wrong.append((f"subtasks.{i}.ref", f"subtasks.{by_ref[each.ref]} has it as well"))
    for i, each in enumerate(subtasks):
        for j, ref in enumerate(each.dependencies):
            if ref not in by_ref:
                wrong.append((f"subtasks.{i}.dependencies.{j}", "is no ref of a subtask of this task"))
    if wrong:
        return wrong
    cycle = _cycle([[by_ref[ref] for ref in each.dependencies] for each in subtasks])
    if cycle:
        names = " -> ".join(str(subtasks[i].ref) for i in [*cycle, cycle[0]])
        wrong.append((f"subtasks.{cycle[0]}.dependencies", f"form a cycle: {names}"))
    return wrong


def _cycle(needs: Sequence[Sequence[int]]) -> list[int]:
    """Return one cycle of a graph, [] when it has none; `needs[i]` are the nodes that node i depends on."""
    left = set(range(len(needs)))
    while ready := {i for i in left if not left.intersection(needs[i])}:
        left -= ready
    if not left:
        return []
    # Each of the rest needs another of the rest, so a walk along them comes back to itself.
    path = [min(left)]
    while True:
        following = next(i for i in needs[path[-1]] if i in left)
        if following in path:
            return path[path.index(following) :]
        path.append(following)

"""Answers of the task routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from karma.core.clock import iso
from karma.tasks.domain import Subtask, Task, TaskStatus


class TaskView(TypedDict):
    """A task."""

    id: str
    title: str
    description: str
    priority: int
    status: TaskStatus
    progress: int
    """Percent of its subtasks that are completed; 100 for a completed task."""
    subtask_count: int
    completed_count: int
    metadata: dict[str, Any]
    created_at: str
    updated_at: str
    version: int
    """From 1; it goes up with each change of the task or of one of its subtasks."""


def task_view(task: Task) -> TaskView:
    """Shape a task."""
    return {
        "id": task.id,
        "title": task.title,
        "description": task.description,
        "priority": task.priority,
        "status": task.status,
        "progress": task.progress,
        "subtask_count": task.subtask_count,
        "completed_count": task.completed_count,
        "metadata": dict(task.metadata),
        "created_at": iso(task.created_at),
        "updated_at": iso(task.updated_at),
        "version": task.version,
    }


class SubtaskView(TypedDict):
    """A subtask."""

    id: str
    task_id: str
    ref: str | None
    title: str
    description: str
    status: TaskStatus
    dependencies: list[str]
    """Ids of subtasks of the same task."""
    tools: list[str]
    metadata: dict[str, Any]
    created_at: str
    updated_at: str
    version: int


def subtask_view(subtask: Subtask) -> SubtaskView:
    """Shape a subtask."""
    return {
        "id": subtask.id,
        "task_id": subtask.task_id,
        "ref": subtask.ref,
        "title": subtask.title,
        "description": subtask.description,
        "status": subtask.status,
        "dependencies": list(subtask.dependencies),
        "tools": list(subtask.tools),
        "metadata": dict(subtask.metadata),
        "created_at": iso(subtask.created_at),
        "updated_at": iso(subtask.updated_at),
        "version": subtask.version,
    }


class TaskData(TypedDict):
    """One task."""

    task: TaskView


class CreatedTaskData(TypedDict):
    """A new task and its subtasks."""

    task: TaskView
    subtasks: list[SubtaskView]


class TaskListData(TypedDict):
    """A page of tasks; `page` and `page_size` unless a cursor or an offset was given."""

    tasks: list[TaskView]
    total: int
    total_capped: bool
    """`total` stopped counting at 1,000, as it does with a status."""
    limit: int
    next_cursor: str | None
    page: NotRequired[int]
    page_size: NotRequired[int]


class SubtaskData(TypedDict):
    """One subtask."""

    subtask: SubtaskView


class SubtaskListData(TypedDict):
    """All subtasks of a task, in the order in which they were given."""

    subtasks: list[SubtaskView]
    total: int

"""Rows of search for tasks; subtasks are found by their task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from karma.core.happenings import Image, ItemChange, text_in
from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText, SearchType
from karma.core.searchables import SearchSource, in_hours, kind_of, moment_in, rows_of_item

_TASK: Final = SearchType(
    name="task",
    words=("tasks", "任务"),
    permission="task:read",
    statuses={
        "pending": ("待处理", "open"),
        "in_progress": ("进行中",),
        "completed": ("已完成", "done"),
        "failed": ("失败",),
        "cancelled": ("已取消", "canceled"),
    },
)


class TaskSource:
    """Tasks, each found by its owner."""

    types: Sequence[SearchType] = (_TASK,)

    def rows(self, change: ItemChange) -> Iterable[RowChange]:
        """Return the row of a task."""
        if kind_of(change) != _TASK.name:
            return []
        return rows_of_item(change, _row)


def source() -> SearchSource:
    """Return what is found of tasks."""
    return TaskSource()


def _row(image: Image) -> RowChange:
    key = SearchKey(
        UserId(text_in(image, "user_id")), _TASK.name, text_in(image, "task_id"), moment_in(image, "created_at")
    )
    text = SearchText(
        name=text_in(image, "title"),
        text=text_in(image, "description"),
        status=text_in(image, "status"),
        updated_ms=in_hours(moment_in(image, "updated_at")),
    )
    return RowChange(key, text)

"""Tasks, live. A task's version goes up with each change of its subtasks, so its message says that they changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from karma.core.happenings import ItemChange, number_in, text_in
from karma.core.ids import TaskId, UserId
from karma.core.live import Channel, LiveSource, ObjectState, OwnersAlone, Update

if TYPE_CHECKING:
    from karma.tasks.domain import Task


class LiveTasks(OwnersAlone):
    """Channels `task:<id>`."""

    permissions: Mapping[str, str] = {"task": "task:read"}

    def updates(self, change: ItemChange) -> Sequence[Update]:
        """See LiveSource."""
        image = change.new or change.old
        if text_in(image, "type") != "task":
            return ()
        user_id, task_id = text_in(image, "user_id"), text_in(image, "task_id")
        channels = (Channel(user_id, "task", task_id), Channel(user_id, "user", user_id))
        if change.new is None:
            return (Update(channels=channels, state=_deleted(task_id, change)),)
        from karma.core.dynamo.items import Item
        from karma.tasks.repository import TaskItem, task_of

        item = Item.from_raw_data(dict(change.new))
        return (Update(channels=channels, state=_state(task_of(item))),) if isinstance(item, TaskItem) else ()

    def states(
        self,
        channel: Channel,
        viewer: UserId,
        held: Mapping[str, int],  # noqa: ARG002
    ) -> Sequence[ObjectState] | None:
        """See LiveSource; one Get."""
        from karma.tasks.repository import TaskRepository

        task = TaskRepository().get(viewer, TaskId(channel.object_id))
        return None if task is None else (_state(task),)


def source() -> LiveSource:
    """Return what tasks declare."""
    return LiveTasks()


def _state(task: Task) -> ObjectState:
    from karma.tasks.answers import task_view

    view = task_view(task)
    return ObjectState(
        name=f"task:{task.id}", version=task.version, at=view["updated_at"], ref=f"/tasks/{task.id}", data={**view}
    )


def _deleted(task_id: str, change: ItemChange) -> ObjectState:
    return ObjectState(
        name=f"task:{task_id}",
        version=number_in(change.old, "version") + 1,
        at=text_in(change.old, "updated_at"),
        ref=f"/tasks/{task_id}",
        data=None,
        deleted=True,
    )

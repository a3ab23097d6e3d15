"""Tasks in the table `work`; access patterns are in docs/adr/0023-tasks.md.

| item | pk | sk | index gsi1 |
|---|---|---|---|
| task | TASKS#<user> | TASK#<task> | TASKS#<user>#<status> / TASK#<task> |
| deleted task | TASKS#<user> | GONE#<task> | SWEEP#TASKS / <moment>#<task> |
| number of tasks | TASKS#<user> | COUNTER#tasks | |
| task made for an Idempotency-Key | TASKS#<user> | REQUEST#<token> | |
| subtask | TASK#<task> | SUBTASK#<subtask> | |

Ids sort by time, so the list by age is the order of the keys. A task's version goes up with each change of its
subtasks, so a writer that knows the version has seen them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, cast

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import count, delete, get, query, query_up_to
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.partitions import delete_keys, empty, pages
from karma.core.dynamo.requests import RequestAttributes, note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import query_work
from karma.core.ids import SubtaskId, TaskId, UserId
from karma.core.purge import PurgeAttempt
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import require_account
from karma.tasks import domain
from karma.tasks.domain import Subtask, Task, TaskChanged, TaskStatus, TooManyTasks
from karma.tasks.ports import GoneTask

SWEEP_PARTITION: Final = "SWEEP#TASKS"
_TASK: Final = "TASK#"
_GONE: Final = "GONE#"
_PAGE: Final = 100


def owner_pk(user_id: UserId) -> str:
    """Return the partition of a user's tasks."""
    return f"TASKS#{user_id}"


def status_pk(user_id: UserId, status: str) -> str:
    """Return the partition of gsi1 with a user's tasks of one status."""
    return f"{owner_pk(user_id)}#{status}"


def task_key(user_id: UserId, task_id: str) -> Key:
    """Return the key of a task."""
    return Key(owner_pk(user_id), f"{_TASK}{task_id}")


def gone_key(user_id: UserId, task_id: TaskId) -> Key:
    """Return the key of the record of a task's deletion."""
    return Key(owner_pk(user_id), f"{_GONE}{task_id}")


def counter_key(user_id: UserId) -> Key:
    """Return the key of the counter of a user's tasks."""
    return Key(owner_pk(user_id), "COUNTER#tasks")


def subtasks_pk(task_id: str) -> str:
    """Return the partition of a task's subtasks."""
    return f"{_TASK}{task_id}"


def subtask_key(task_id: TaskId, subtask_id: SubtaskId) -> Key:
    """Return the key of a subtask."""
    return Key(subtasks_pk(task_id), f"SUBTASK#{subtask_id}")


class TasksItem(Item):
    """Base of the items of tasks in the table `work`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "work"


class TaskItem(TasksItem, discriminator="task"):
    """A task."""

    task_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    title = UnicodeAttribute()
    description = UnicodeAttribute()
    priority = NumberAttribute()
    status = UnicodeAttribute(default=TaskStatus.PENDING.value)
    metadata = JSONAttribute()
    subtask_count = NumberAttribute(default=0)
    completed_count = NumberAttribute(default=0)


class SubtaskItem(TasksItem, discriminator="subtask"):
    """A subtask."""

    subtask_id = UnicodeAttribute()
    task_id = UnicodeAttribute()
    ref = UnicodeAttribute(null=True)
    title = UnicodeAttribute()
    description = UnicodeAttribute()
    status = UnicodeAttribute(default=TaskStatus.PENDING.value)
    dependencies = JSONAttribute()
    tools = JSONAttribute()
    metadata = JSONAttribute()


class GoneTaskItem(TasksItem, discriminator="gone_task"):
    """Record of a task's deletion, while data of it may be left."""

    task_id = UnicodeAttribute()
    user_id = UnicodeAttribute()


class TaskCounterItem(TasksItem, discriminator="task_counter"):
    """Number of a user's tasks."""

    value = NumberAttribute(default=0)
    entries = NumberAttribute(default=0)
    """Number of tasks and subtasks together; absent until the first one was counted so."""


class TaskRequestItem(RequestAttributes, TasksItem, discriminator="task_request"):
    """Record of the task that a request with an Idempotency-Key created."""


class TaskRepository:
    """Tasks over DynamoDB."""

    name = "tasks"
    """Name of its step in the deletion of an account."""

    # Reading

    def get(self, user_id: UserId, task_id: TaskId) -> Task | None:
        """See Tasks; one Get."""
        item = get(TaskItem, task_key(user_id, task_id), consistent=True)
        return task_of(item) if item else None

    def subtask(self, task_id: TaskId, subtask_id: SubtaskId) -> Subtask | None:
        """See Tasks; one Get."""
        item = get(SubtaskItem, subtask_key(task_id, subtask_id), consistent=True)
        return _subtask(item) if item else None

    def subtasks(self, task_id: TaskId) -> list[Subtask]:
        """See Tasks; one Query a megabyte."""
        found: list[Subtask] = []
        start: dict[str, str] | None = None
        while True:
            page = query(TasksItem, subtasks_pk(task_id), limit=_PAGE, start=start, consistent=True)
            found += [_subtask(item) for item in page.items if isinstance(item, SubtaskItem)]
            start = page.last
            if start is None:
                return found

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> TaskId | None:
        """See Tasks; one Get."""
        made = noted(TaskRequestItem, request_key(owner_pk(user_id), request), request)
        return TaskId(made) if made else None

    def page(
        self, user_id: UserId, *, status: TaskStatus | None, newest_first: bool, after: str, limit: int
    ) -> list[Task]:
        """See Tasks; one Query a megabyte, eventually consistent."""
        pk = owner_pk(user_id) if status is None else status_pk(user_id, status)
        index = None if status is None else TasksItem.gsi1
        sort_key = TasksItem.sk if status is None else TasksItem.gsi1sk
        start: dict[str, str] | None = None
        if after:
            key = task_key(user_id, after)
            start = key._asdict() if status is None else {**key._asdict(), "gsi1pk": pk, "gsi1sk": key.sk}
        return query_up_to(
            limit,
            TasksItem,
            pk,
            sort_key.startswith(_TASK),
            wanted=TaskItem,
            read=task_of,
            forward=not newest_first,
            start=start,
            index=index,
        )

    def count(self, user_id: UserId, *, status: TaskStatus | None, most: int) -> int:
        """See Tasks; one Get, or with a status one Query."""
        if status is not None:
            return count(TasksItem, status_pk(user_id, status), most=most, index=TasksItem.gsi1)
        item = get(TaskCounterItem, counter_key(user_id))
        return int(item.value) if item else 0

    # Writing

    def create(self, task: Task, subtasks: Sequence[Subtask], *, request: RepeatableRequest | None) -> None:
        """See Tasks; a check and 2 items, one for a key, and the subtasks."""
        tx = Transaction()
        require_account(tx, task.user_id)
        if request is not None:
            note_request(tx, TaskRequestItem(*request_key(owner_pk(task.user_id), request)), request, task.id)
        tx.put(_task_item(task))
        for each in subtasks:
            tx.put(_subtask_item(each))
        entries = TaskCounterItem.entries
        added = 1 + len(subtasks)
        tx.upsert(
            TaskCounterItem(*counter_key(task.user_id)),
            [TaskCounterItem.value.add(1), entries.add(added)],
            entries.does_not_exist() | (entries <= domain.MAX_ENTRIES - added),
            on_fail=TooManyTasks(),
        )
        tx.commit()

    def replace(self, old: Task, new: Task, *, ended: Sequence[Subtask] = ()) -> None:
        """See Tasks; one item, and one for each subtask that ends."""
        tx = Transaction()
        item = _task_item(new)
        item.version = old.version
        tx.put(item, on_fail=_changed(old))
        for each in ended:
            # The task's version is checked: none of its subtasks has changed since it was read.
            actions = [SubtaskItem.status.set(each.status), SubtaskItem.updated_at.set(iso(each.updated_at))]
            tx.update(SubtaskItem(*subtask_key(each.task_id, each.id)), actions)
        tx.commit()

    def step(self, task: Task, old: Subtask, new: Subtask) -> None:
        """See Tasks; two items."""
        at = iso(new.updated_at)
        tx = Transaction()
        tx.update(
            SubtaskItem(*subtask_key(old.task_id, old.id)),
            [SubtaskItem.status.set(new.status), SubtaskItem.updated_at.set(at)],
            SubtaskItem.version == old.version,
            on_fail=_changed(task),
        )
        actions: list[Action] = [TaskItem.updated_at.set(at)]
        if new.status is TaskStatus.IN_PROGRESS:
            actions += [
                TaskItem.status.set(TaskStatus.IN_PROGRESS.value),
                TaskItem.gsi1pk.set(status_pk(task.user_id, TaskStatus.IN_PROGRESS)),
            ]
        if new.status is TaskStatus.COMPLETED:
            actions.append(TaskItem.completed_count.add(1))
        tx.update(TaskItem(*task_key(task.user_id, task.id)), actions, _open(), on_fail=_changed(task))
        tx.commit()

    def begin_delete(self, task: Task, *, at: datetime) -> None:
        """See Tasks; three items."""
        now = iso(at)
        tx = Transaction()
        item = TaskItem(*task_key(task.user_id, task.id))
        item.version = task.version
        tx.delete(item, locked=True, on_fail=_changed(task))
        tombstone = GoneTaskItem(
            *gone_key(task.user_id, task.id),
            task_id=task.id,
            user_id=task.user_id,
            created_at=now,
            updated_at=now,
            gsi1pk=SWEEP_PARTITION,
            gsi1sk=f"{now}#{task.id}",
        )
        tx.put(tombstone, on_fail=_changed(task))
        removed = [TaskCounterItem.value.add(-1), TaskCounterItem.entries.add(-1 - task.subtask_count)]
        tx.upsert(TaskCounterItem(*counter_key(task.user_id)), removed)
        tx.commit()

    def remove(self, gone: GoneTask) -> None:
        """See Tasks; one Query and one transaction a hundred items, then one Delete."""
        for keys in pages(TasksItem, subtasks_pk(gone.task_id)):
            tx = Transaction()
            for key in keys:
                tx.delete(SubtaskItem(*key))
            tx.commit()
        delete(GoneTaskItem(*gone_key(gone.user_id, gone.task_id)))

    def is_gone(self, gone: GoneTask) -> bool:
        """See Tasks; one Get."""
        return get(GoneTaskItem, gone_key(gone.user_id, gone.task_id), consistent=True) is not None

    def gone(self, *, before: datetime, limit: int) -> list[GoneTask]:
        """See Tasks; one Query, eventually consistent."""
        old_enough = TasksItem.gsi1sk < iso(before)
        return query_work(GoneTaskItem, SWEEP_PARTITION, old_enough, _gone, limit=limit).items

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Delete an account's tasks; True when none is left.

        Nothing is created meanwhile: a new task requires the account, and subtasks are created only with their task.
        """
        for keys in pages(TasksItem, owner_pk(purge.user_id)):
            for key in keys:
                kind, _, task_id = key.sk.partition("#")
                # Subtasks are found by the task's item, so they go first.
                if f"{kind}#" in {_TASK, _GONE} and not empty(TasksItem, subtasks_pk(task_id), purge):
                    return False
            if purge.over():
                return False
            delete_keys(TasksItem, keys)
        return True


def _open() -> Condition:
    status = TaskItem.status
    condition: Condition = (status == TaskStatus.PENDING.value) | (status == TaskStatus.IN_PROGRESS.value)
    return condition


def _changed(task: Task) -> TaskChanged:
    return TaskChanged(f"Task {task.id} was changed by another request; read it again")


def _gone(item: GoneTaskItem) -> GoneTask:
    return GoneTask(UserId(item.user_id), TaskId(item.task_id))


def _task_item(task: Task) -> TaskItem:
    key = task_key(task.user_id, task.id)
    return TaskItem(
        *key,
        task_id=task.id,
        user_id=task.user_id,
        title=task.title,
        description=task.description,
        priority=task.priority,
        status=task.status.value,
        metadata=dict(task.metadata),
        subtask_count=task.subtask_count,
        completed_count=task.completed_count,
        created_at=iso(task.created_at),
        updated_at=iso(task.updated_at),
        gsi1pk=status_pk(task.user_id, task.status),
        gsi1sk=key.sk,
    )


def task_of(item: TaskItem) -> Task:
    """Return a task as stored."""
    return Task(
        id=TaskId(item.task_id),
        user_id=UserId(item.user_id),
        title=item.title,
        description=item.description,
        priority=int(item.priority),
        status=TaskStatus(item.status),
        metadata=cast("dict[str, Any]", item.metadata),
        subtask_count=int(item.subtask_count),
        completed_count=int(item.completed_count),
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.version),
    )


def _subtask_item(subtask: Subtask) -> SubtaskItem:
    return SubtaskItem(
        *subtask_key(subtask.task_id, subtask.id),
        subtask_id=subtask.id,
        task_id=subtask.task_id,
        ref=subtask.ref,
        title=subtask.title,
        description=subtask.description,
        status=subtask.status.value,
        dependencies=list(subtask.dependencies),
        tools=list(subtask.tools),
        metadata=dict(subtask.metadata),
        created_at=iso(subtask.created_at),
        updated_at=iso(subtask.updated_at),
    )


def _subtask(item: SubtaskItem) -> Subtask:
    return Subtask(
        id=SubtaskId(item.subtask_id),
        task_id=TaskId(item.task_id),
        ref=item.ref,
        title=item.title,
        description=item.description,
        status=TaskStatus(item.status),
        dependencies=tuple(SubtaskId(each) for each in cast("list[str]", item.dependencies)),
        tools=tuple(cast("list[str]", item.tools)),
        metadata=cast("dict[str, Any]", item.metadata),
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.version),
    )

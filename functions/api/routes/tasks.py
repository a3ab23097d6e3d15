from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Request
from starlette.responses import Response

from api.services import tasks
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import Cursor, Limit, Offset, PageNumber, Place, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.tasks.answers import (
    CreatedTaskData,
    SubtaskData,
    SubtaskListData,
    TaskData,
    TaskListData,
    subtask_view,
    task_view,
)
from karma.tasks.domain import Task, TaskStatus
from karma.tasks.schemas import ChangeSubtaskBody, ChangeTaskBody, CreateTaskBody

router = Router("tasks")

Reader = Annotated[Caller, permit("task:read")]
Writer = Annotated[Caller, permit("task:write")]


@router.post("/tasks", idempotent=True, status_code=201, responses=answers(status=201, errors=(409,)))
async def create_task(request: Request, body: CreateTaskBody, caller: Writer) -> Answer[CreatedTaskData]:
    """Create a task, and with it its subtasks: those that depend on others name them by `ref`."""

    def create() -> Outcome[CreatedTaskData]:
        key = idempotency_key(request, caller)
        made = tasks.service().create(caller.user_id, body.new(), idempotency_key=key)
        subtasks = [subtask_view(each) for each in made.subtasks]
        return Outcome(status=201, data={"task": task_view(made.task), "subtasks": subtasks}, made_id=made.task.id)

    return await once(request, caller, create, find=lambda made: tasks.service().get(caller.user_id, made))


@router.get("/tasks", responses=answers(errors=(400,)))
async def list_tasks(
    caller: Reader,
    status: TaskStatus | None = None,
    page: PageNumber | None = None,
    page_size: Limit | None = None,
    limit: Limit | None = None,
    offset: Offset | None = None,
    cursor: Cursor | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> Answer[TaskListData]:
    """List the caller's tasks by `created_at`: by page, by offset, or by the `next_cursor` of the page before."""
    from karma.tasks.service import TaskQuery

    scope = scope_of("tasks", caller.user_id, order, status)
    place = Place.of(scope, page=page, page_size=page_size, limit=limit, offset=offset, cursor=cursor)
    query = TaskQuery(
        limit=place.size,
        offset=place.offset,
        after=place.after_id,
        status=status,
        newest_first=order == "desc",
    )
    found = tasks.service().list(caller.user_id, query)
    data: TaskListData = {
        "tasks": [task_view(task) for task in found.tasks],
        "total": found.total,
        "total_capped": found.total_capped,
        **place.told({"id": found.next_after}),
    }
    return ok(data)


@router.get("/tasks/{task_id}", responses=answers(etag=True, errors=(404,)))
async def get_task(task_id: str, caller: Reader) -> Answer[TaskData]:
    """Show a task with its progress; the ETag is its version."""
    return _task(tasks.service().get(caller.user_id, task_id))


@router.patch("/tasks/{task_id}", responses=answers(etag=True, errors=(404, 409)))
async def change_task(task_id: str, body: ChangeTaskBody, caller: Writer, if_match: IfMatch = None) -> Answer[TaskData]:
    """Change a task, or give it its next status; when it ends, what is unfinished of its subtasks is cancelled."""
    given = {name: getattr(body, name) for name in body.model_fields_set - {"version"}}
    version = expected_version(if_match, body.version)
    return _task(tasks.service().change(caller.user_id, task_id, given, version=version))


@router.delete("/tasks/{task_id}", status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_task(task_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete a task and its subtasks."""
    tasks.service().delete(caller.user_id, task_id, version=expected_version(if_match))
    return no_content()


@router.post("/tasks/{task_id}/cancel", responses=answers(etag=True, errors=(404, 409)))
async def cancel_task(task_id: str, caller: Writer, if_match: IfMatch = None) -> Answer[TaskData]:
    """Cancel a task and what is unfinished of its subtasks; a cancelled one stays as it is."""
    return _task(tasks.service().cancel(caller.user_id, task_id, version=expected_version(if_match)))


@router.get("/tasks/{task_id}/subtasks", responses=answers(errors=(404,)))
async def list_subtasks(task_id: str, caller: Reader) -> Answer[SubtaskListData]:
    """List all subtasks of a task, in the order in which they were given."""
    found = tasks.service().subtasks(caller.user_id, task_id)
    return ok({"subtasks": [subtask_view(each) for each in found], "total": len(found)})


@router.patch("/tasks/{task_id}/subtasks/{subtask_id}", responses=answers(etag=True, errors=(404, 409)))
async def change_subtask(
    task_id: str, subtask_id: str, body: ChangeSubtaskBody, caller: Writer, if_match: IfMatch = None
) -> Answer[SubtaskData]:
    """Give a subtask its next status: it starts when all that it depends on is completed, and its task with it."""
    version = expected_version(if_match, body.version)
    found = tasks.service().step(caller.user_id, task_id, subtask_id, body.status, version=version)
    return ok({"subtask": subtask_view(found)}, headers=etag(found.version))


def _task(task: Task) -> Answer[TaskData]:
    return ok({"task": task_view(task)}, headers=etag(task.version))

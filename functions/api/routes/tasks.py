from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Request
from starlette.responses import Response

from api import deps
from api.deps import permit
from api.idempotency import Outcome, once, request_token
from api.locking import IfMatch, etag, expected_version
from api.openapi import answers
from api.presenters import no_content, ok
from api.routing import Router
from karma.core.errors import InvalidRequest, ValidationFailed
from karma.identity.domain import Caller
from karma.tasks.domain import Task, TaskStatus
from karma.tasks.schemas import (
    ChangeSubtaskBody,
    ChangeTaskBody,
    CreatedTaskData,
    CreateTaskBody,
    SubtaskData,
    SubtaskListData,
    TaskData,
    TaskListData,
)

router = Router("tasks")

Reader = Annotated[Caller, permit("task:read")]
Writer = Annotated[Caller, permit("task:write")]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("/tasks", status_code=201, responses=answers(CreatedTaskData, status=201, errors=(409, 410)))
async def create_task(request: Request, body: CreateTaskBody, caller: Writer) -> Response:
    """Create a task, and with it its subtasks: those that depend on others name them by `ref`."""
    from karma.tasks.service import subtask_view, task_view

    def create() -> Outcome:
        token = request_token(request, caller) or ""
        made = deps.task_service().create(caller.user_id, body.new(), request_token=token)
        subtasks = [subtask_view(each) for each in made.subtasks]
        return Outcome(status=201, data={"task": task_view(made.task), "subtasks": subtasks})

    return await once(request, caller, create)


@router.get("/tasks", responses=answers(TaskListData, errors=(400,)))
async def list_tasks(
    caller: Reader,
    status: TaskStatus | None = None,
    page: Annotated[int | None, Query(ge=1)] = None,
    page_size: Limit | None = None,
    limit: Limit | None = None,
    offset: Annotated[int | None, Query(ge=0)] = None,
    cursor: Annotated[str | None, Query(max_length=2048)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """List the caller's tasks by `created_at`: by page, by offset, or by the `next_cursor` of the page before."""
    from karma.tasks.service import TaskQuery, task_view

    if cursor is not None and (offset is not None or page is not None):
        raise InvalidRequest("cursor: not together with page or offset", code="INVALID_PAGE")
    size = page_size or limit or 20
    scope = f"tasks:{caller.user_id}:{order}:{status or ''}"
    query = TaskQuery(
        limit=size,
        offset=offset if offset is not None else ((page or 1) - 1) * size,
        after=str(deps.cursor_signer().decode(cursor, scope=scope).get("id", "")) if cursor is not None else "",
        status=status,
        newest_first=order == "desc",
    )
    found = deps.task_service().list(caller.user_id, query)
    following = deps.cursor_signer().encode({"id": found.next_after}, scope=scope) if found.next_after else None
    data: dict[str, object] = {
        "tasks": [task_view(task) for task in found.tasks],
        "total": found.total,
        "total_capped": found.total_capped,
        "limit": size,
        "next_cursor": following,
    }
    if cursor is None and offset is None:
        data |= {"page": page or 1, "page_size": size}
    return ok(data)


@router.get("/tasks/{task_id}", responses=answers(TaskData, errors=(404,)))
async def get_task(task_id: str, caller: Reader) -> Response:
    """Show a task with its progress; the ETag is its version."""
    return _task(deps.task_service().get(caller.user_id, task_id))


@router.patch("/tasks/{task_id}", responses=answers(TaskData, errors=(404, 409)))
async def change_task(task_id: str, body: ChangeTaskBody, caller: Writer, if_match: IfMatch = None) -> Response:
    """Change a task, or give it its next status; when it ends, what is unfinished of its subtasks is cancelled."""
    given = {name: getattr(body, name) for name in body.model_fields_set - {"version"}}
    empty = sorted(name for name, value in given.items() if value is None)
    if empty:
        raise ValidationFailed.of(empty[0], "may be left out, but not be null")
    version = expected_version(if_match, body.version)
    return _task(deps.task_service().change(caller.user_id, task_id, given, version=version))


@router.delete("/tasks/{task_id}", status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_task(task_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete a task and its subtasks."""
    deps.task_service().delete(caller.user_id, task_id, version=expected_version(if_match))
    return no_content()


@router.post("/tasks/{task_id}/cancel", responses=answers(TaskData, errors=(404, 409)))
async def cancel_task(task_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Cancel a task and what is unfinished of its subtasks; a cancelled one stays as it is."""
    return _task(deps.task_service().cancel(caller.user_id, task_id, version=expected_version(if_match)))


@router.get("/tasks/{task_id}/subtasks", responses=answers(SubtaskListData, errors=(404,)))
async def list_subtasks(task_id: str, caller: Reader) -> Response:
    """List all subtasks of a task, in the order in which they were given."""
    from karma.tasks.service import subtask_view

    found = deps.task_service().subtasks(caller.user_id, task_id)
    return ok({"subtasks": [subtask_view(each) for each in found], "total": len(found)})


@router.patch("/tasks/{task_id}/subtasks/{subtask_id}", responses=answers(SubtaskData, errors=(404, 409)))
async def change_subtask(
    task_id: str, subtask_id: str, body: ChangeSubtaskBody, caller: Writer, if_match: IfMatch = None
) -> Response:
    """Give a subtask its next status: it starts when all that it depends on is completed, and its task with it."""
    from karma.tasks.service import subtask_view

    version = expected_version(if_match, body.version)
    found = deps.task_service().step(caller.user_id, task_id, subtask_id, body.status, version=version)
    return ok({"subtask": subtask_view(found)}, headers=etag(found.version))


def _task(task: Task) -> Response:
    from karma.tasks.service import task_view

    return ok({"task": task_view(task)}, headers=etag(task.version))

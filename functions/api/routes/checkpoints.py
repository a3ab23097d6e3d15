from __future__ import annotations

from typing import Annotated

from fastapi import Request

from api.services import agents, background
from karma.core.ids import RunId
from karma.core.paging import shown
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.runs.checkpoint_answers import (
    AgioCheckpoints,
    CheckpointData,
    CheckpointDetail,
    CheckpointDetailData,
    CheckpointListData,
    CheckpointView,
    ForkedData,
    RestoredData,
    checkpoint_detail,
    checkpoint_view,
    forked_view,
    restored_view,
)
from karma.runs.fork_schemas import ForkBody, RestoreBody
from karma.runs.schemas import CreateCheckpointBody

router = Router("checkpoints")
agio = Router("checkpoints", prefix="/api")

Reader = Annotated[Caller, permit("run:read")]
Starter = Annotated[Caller, permit("agent:run")]
Controller = Annotated[Caller, permit("run:control")]

_MAX_NAMED = 1_000
"""Checkpoints that Agio's list, which has no pages, names at the most."""


@router.get("/runs/{run_id}/checkpoints", responses=answers(errors=(400, 404)))
async def list_checkpoints(
    run_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[CheckpointListData]:
    """List the points of a run to which its owner can go back, in the order of the run.

    One stands behind each turn of the model and each store of results of tools, but not behind the run's last answer;
    those that were labelled by hand are listed beside them.
    """
    scope = scope_of("checkpoints", caller.user_id, run_id)
    after = position(cursor, scope)
    place = (int(after["n"]), str(after["label"])) if after else None
    # One more than is shown tells whether another page follows.
    found = agents.checkpoints().page(caller.user_id, RunId(run_id), limit=limit + 1, after=place)
    last = found[limit - 1].id if len(found) > limit else None
    data: CheckpointListData = {
        "run_id": run_id,
        "checkpoints": [checkpoint_view(point) for point in found[:limit]],
        "limit": limit,
        "next_cursor": next_cursor({"n": last.n, "label": last.label} if last else None, scope),
    }
    return ok(data)


@agio.get("/runs/{run_id}/checkpoints", operation_id="agio_list_checkpoints", responses=answers(errors=(404,)))
async def list_first_checkpoints(run_id: str, caller: Reader) -> Answer[AgioCheckpoints]:
    """List the points of a run as the Agio API does, without pages: the first 1,000."""
    found = agents.checkpoints().page(caller.user_id, RunId(run_id), limit=_MAX_NAMED)
    views = [checkpoint_view(point) for point in found]
    return ok({"run_id": run_id, "total": len(views), "checkpoints": views})


@router.post(
    "/runs/{run_id}/checkpoints", idempotent=True, status_code=201, responses=answers(status=201, errors=(404, 409))
)
async def create_checkpoint(
    run_id: str, request: Request, body: CreateCheckpointBody, caller: Controller
) -> Answer[CheckpointData]:
    """Label the latest durable point of a run: its newest checkpoint, or where it began or ended.

    Also of a run that is running. The same words at the same point are one label.
    """

    def create() -> Outcome[CheckpointData]:
        made = _label(run_id, request, body, caller)
        return Outcome(status=201, data={"checkpoint": made}, made_id=made["id"])

    return await once(request, caller, create, find=lambda made: agents.checkpoints().find(caller.user_id, made))


@agio.post(
    "/runs/{run_id}/checkpoints",
    operation_id="agio_create_checkpoint",
    idempotent=True,
    status_code=201,
    responses=answers(status=201, errors=(404, 409)),
)
async def create_bare_checkpoint(
    run_id: str, request: Request, body: CreateCheckpointBody, caller: Controller
) -> Answer[CheckpointView]:
    """Label the latest durable point of a run as the Agio API does."""

    def create() -> Outcome[CheckpointView]:
        made = _label(run_id, request, body, caller)
        return Outcome(status=201, data=made, made_id=made["id"])

    return await once(request, caller, create, find=lambda made: agents.checkpoints().find(caller.user_id, made))


@router.get("/checkpoints/{checkpoint_id}", responses=answers(errors=(400, 404, 409)))
async def get_checkpoint(
    checkpoint_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[CheckpointDetailData]:
    """Show a point of a run, with the last messages of its branch up to there and the run's configuration.

    `next_cursor` leads to the messages before those. 404 when the run, or its thread, was deleted.
    """
    return ok({"checkpoint": _detail(checkpoint_id, caller, limit, cursor)})


@agio.get("/checkpoints/{checkpoint_id}", operation_id="agio_get_checkpoint", responses=answers(errors=(400, 404, 409)))
async def get_bare_checkpoint(
    checkpoint_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[CheckpointDetail]:
    """Show a point of a run as the Agio API does; its messages are paged, since a history may have megabytes."""
    return ok(_detail(checkpoint_id, caller, limit, cursor))


@router.post(
    "/checkpoints/{checkpoint_id}/restore",
    limit="run",
    idempotent=True,
    responses=answers(also=(202,), errors=(402, 404, 409, 410)),
)
async def restore_checkpoint(
    checkpoint_id: str, request: Request, body: RestoreBody, caller: Starter
) -> Answer[RestoredData]:
    """Go back to a point: by a new run that goes on from there in the same thread (202), or as the thread itself (200).

    Nothing is deleted: what came later stays in a branch of its own. `effects` names the calls of tools after the
    point, which are not undone. 409 THREAD_BUSY while the thread has an active run.
    """
    return _restore(checkpoint_id, request, body, caller)


@agio.post(
    "/checkpoints/{checkpoint_id}/restore",
    operation_id="agio_restore_checkpoint",
    limit="run",
    idempotent=True,
    responses=answers(also=(202,), errors=(402, 404, 409, 410)),
)
async def restore_bare_checkpoint(
    checkpoint_id: str, request: Request, body: RestoreBody, caller: Starter
) -> Answer[RestoredData]:
    """Go back to a point of a run as the Agio API does."""
    return _restore(checkpoint_id, request, body, caller)


@router.post(
    "/checkpoints/{checkpoint_id}/fork",
    limit="run",
    idempotent=True,
    status_code=202,
    responses=answers(status=202, errors=(402, 404, 409, 410)),
)
async def fork_checkpoint(checkpoint_id: str, request: Request, body: ForkBody, caller: Starter) -> Answer[ForkedData]:
    """Begin a run in a new thread that goes on from a point, with changes; the run before stays as it is.

    A change that is not possible is 422 by its field.
    """
    return _fork(checkpoint_id, request, body, caller)


@agio.post(
    "/checkpoints/{checkpoint_id}/fork",
    operation_id="agio_fork_checkpoint",
    limit="run",
    idempotent=True,
    status_code=202,
    responses=answers(status=202, errors=(402, 404, 409, 410)),
)
async def fork_bare_checkpoint(
    checkpoint_id: str, request: Request, body: ForkBody, caller: Starter
) -> Answer[ForkedData]:
    """Go on from a point of a run in a new thread as the Agio API does."""
    return _fork(checkpoint_id, request, body, caller)


def _restore(checkpoint_id: str, request: Request, body: RestoreBody, caller: Caller) -> Answer[RestoredData]:
    changes, key, forks = body.modifications.changes(), idempotency_key(request, caller), background.forks()
    restore = forks.restore_as_run if body.create_new_run else forks.in_place.restore
    restored = restore(caller, checkpoint_id, changes, key=key)
    return ok(restored_view(restored), 202 if restored.run else 200)


def _fork(checkpoint_id: str, request: Request, body: ForkBody, caller: Caller) -> Answer[ForkedData]:
    forked = background.forks().fork(
        caller,
        checkpoint_id,
        body.modifications.changes(),
        description=body.description,
        key=idempotency_key(request, caller),
    )
    return ok(forked_view(forked), 202)


def _label(run_id: str, request: Request, body: CreateCheckpointBody, caller: Caller) -> CheckpointView:
    made = agents.checkpoints().label(
        caller.user_id,
        RunId(run_id),
        description=body.description,
        tags=body.tags,
        idempotency_key=idempotency_key(request, caller),
    )
    return checkpoint_view(made)


def _detail(checkpoint_id: str, caller: Caller, limit: int, cursor: str | None) -> CheckpointDetail:
    from karma.runs.events import CURRENT  # local: both load what runs need
    from karma.runs.opening import shown as as_agui

    scope = scope_of("checkpoint", caller.user_id, checkpoint_id)
    before = position(cursor, scope, of=int).get("before")
    found = agents.checkpoints().find(caller.user_id, checkpoint_id)
    messages = found.messages[: before if before is not None else None]
    kept, views = shown(messages[: -limit - 1 : -1], lambda message: as_agui(message, CURRENT))
    left = len(messages) - len(kept)
    following = {"before": left} if left else None
    return checkpoint_detail(found, views[::-1], next_cursor=next_cursor(following, scope))

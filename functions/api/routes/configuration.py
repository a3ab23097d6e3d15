from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Query
from starlette.responses import Response

from api.access import permit
from api.deps import configuration
from api.locking import IfMatch, etag, expected_version
from api.openapi import answers
from api.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position
from api.presenters import bare, no_content, ok, style
from api.routing import Router
from karma.configuration.domain import MAX_VERSION, ComponentType
from karma.configuration.schemas import (
    AgioConfigChanged,
    AgioConfigHistory,
    ConfigBody,
    ConfigChangedData,
    ConfigData,
    ConfigHistoryData,
    ConfigListData,
    ConfigView,
    RollbackBody,
)
from karma.core.paging import shown
from karma.identity.domain import Caller

if TYPE_CHECKING:
    from karma.configuration.domain import Standing

router = Router("configuration")
agio = Router("configuration", prefix="/api")

Reader = Annotated[Caller, permit("config:read")]
Writer = Annotated[Caller, permit("config:write")]


@router.get("/config", responses=answers(ConfigListData))
@agio.get("/config", operation_id="agio_list_configs", responses=answers(ConfigListData, bare=True))
async def list_configs(_: Reader, type_: Annotated[ComponentType | None, Query(alias="type")] = None) -> Response:
    """List the models, agents and tools that can be configured, those that code brings at version 0."""
    from karma.configuration.service import listed_view

    found = configuration.service().components(type_)
    return ok({"total": len(found), "configs": [listed_view(each) for each in found]})


@router.get("/config/{component_name}", responses=answers(ConfigData, errors=(404,)))
@agio.get(
    "/config/{component_name}",
    operation_id="agio_get_config",
    responses=answers(ConfigView, errors=(404,), bare=True),
)
async def get_config(component_name: str, _: Reader) -> Response:
    """Show a component; the ETag is its version."""
    from karma.configuration.service import component_view

    found = configuration.service().get(component_name)
    view = component_view(found)
    return ok(view if style.get() == "agio" else {"config": view}, headers=etag(found.version))


@router.put("/config/{component_name}", responses=answers(ConfigChangedData, errors=(400, 404, 409)))
@agio.put(
    "/config/{component_name}",
    operation_id="agio_put_config",
    responses=answers(AgioConfigChanged, errors=(400, 404, 409), bare=True),
)
async def put_config(component_name: str, body: ConfigBody, caller: Writer, if_match: IfMatch = None) -> Response:
    """Change a component, or add a model or an agent's; what `config` leaves out stays as it is.

    New runs go by it within half a minute. A broken rule answers 400 INVALID_CONFIGURATION.
    """
    found = configuration.service().put(
        component_name,
        body.config,
        by=caller.user_id,
        version=expected_version(if_match, body.version),
        validate_only=body.validate_only,
    )
    return _changed(found, "Configuration is valid" if body.validate_only else "Configuration updated successfully")


@router.delete("/config/{component_name}", status_code=204, responses=answers(status=204, errors=(404, 409)))
@agio.delete(
    "/config/{component_name}",
    status_code=204,
    operation_id="agio_delete_config",
    responses=answers(status=204, errors=(404, 409)),
)
async def delete_config(component_name: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete what was written of a component; of one that is built in, what code brings stands again."""
    configuration.service().delete(component_name, by=caller.user_id, version=expected_version(if_match))
    return no_content()


@router.get("/config/{component_name}/history", responses=answers(ConfigHistoryData, errors=(400, 404)))
async def list_config_history(
    component_name: str,
    caller: Reader,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Response:
    """List the changes of a component, newest first; they outlive it."""
    from karma.configuration.service import change_view

    scope = f"config-history:{caller.user_id}:{component_name}"
    page = configuration.service().history(
        component_name, limit=limit, below=position(cursor, scope, of=int).get("below")
    )
    kept, written = shown(page.changes, change_view)
    below = page.next_below if len(kept) == len(page.changes) else kept[-1].version
    data = {
        "component_name": component_name,
        "history": written,
        "total": page.total,
        "limit": limit,
        "next_cursor": next_cursor({"below": below}, scope),
    }
    return ok(data)


@agio.get("/config/{component_name}/history", responses=answers(AgioConfigHistory, errors=(404,), bare=True))
async def list_config_history_by_number(
    component_name: str, _: Reader, limit: Limit = DEFAULT_SIZE, offset: Annotated[int, Query(ge=0, le=MAX_VERSION)] = 0
) -> Response:
    """List the changes of a component as the Agio API does, newest first; the next offset is `offset + limit`."""
    from karma.configuration.service import change_view

    page = configuration.service().history(component_name, limit=limit, offset=offset)
    kept, written = shown(page.changes, change_view)
    data = {
        "component_name": component_name,
        "history": written,
        "total": page.total,
        # So that whoever adds it to the offset misses nothing.
        "limit": limit if len(kept) == len(page.changes) else len(kept),
        "offset": offset,
    }
    return bare(data)


@router.post("/config/{component_name}/rollback", responses=answers(ConfigChangedData, errors=(400, 404, 409)))
@agio.post(
    "/config/{component_name}/rollback",
    operation_id="agio_rollback_config",
    responses=answers(AgioConfigChanged, errors=(400, 404, 409), bare=True),
)
async def rollback_config(
    component_name: str, body: RollbackBody, caller: Writer, if_match: IfMatch = None
) -> Response:
    """Make a component what it was after a change; a repeat changes nothing."""
    found = configuration.service().rollback(
        component_name, to=body.version, by=caller.user_id, version=expected_version(if_match)
    )
    return _changed(found, f"Configuration rolled back to version {body.version}")


def _changed(found: Standing, message: str) -> Response:
    from karma.configuration.service import component_view

    headers = etag(found.version)
    if style.get() == "agio":
        return bare({"success": True, "message": message}, headers=headers)
    return ok({"message": message, "config": component_view(found)}, headers=headers)

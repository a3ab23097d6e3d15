from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from api.services import configuration
from karma.configuration.answers import (
    AgioConfigChangedData,
    AgioConfigHistoryData,
    ConfigChangedData,
    ConfigData,
    ConfigHistoryData,
    ConfigListData,
    ConfigView,
    config_change_view,
    config_summary_view,
    config_view,
)
from karma.configuration.domain import MAX_VERSION, ComponentType, Standing
from karma.configuration.schemas import ConfigBody, ConfigRollbackBody
from karma.core.paging import shown
from karma.http.access import permit
from karma.http.locking import IfMatch, IfNoneMatch, etag, expected_existence, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("configuration")
agio = Router("configuration", prefix="/api")

Conditions = tuple[str | None, str | None]
"""If-Match and If-None-Match."""
Reader = Annotated[Caller, permit("config:read")]
Writer = Annotated[Caller, permit("config:write")]


@router.get("/config", responses=answers())
@agio.get("/config", operation_id="agio_list_configs", responses=answers())
async def list_configs(
    _: Reader, type_: Annotated[ComponentType | None, Query(alias="type")] = None
) -> Answer[ConfigListData]:
    """List the models, agents and tools that can be configured, those that code brings at version 0."""
    found = configuration.service().components(type_)
    return ok({"total": len(found), "configs": [config_summary_view(each) for each in found]})


@router.get("/config/{component_name}", responses=answers(etag=True, errors=(404,)))
async def get_config(component_name: str, _: Reader) -> Answer[ConfigData]:
    """Show a component; the ETag is its version."""
    found = configuration.service().get(component_name)
    return ok({"config": config_view(found)}, headers=etag(found.version))


@agio.get("/config/{component_name}", responses=answers(etag=True, errors=(404,)))
async def agio_get_config(component_name: str, _: Reader) -> Answer[ConfigView]:
    """Show a component; the ETag is its version."""
    found = configuration.service().get(component_name)
    return ok(config_view(found), headers=etag(found.version))


@router.put("/config/{component_name}", responses=answers(etag=True, errors=(400, 404, 409, 412)))
async def put_config(
    component_name: str, body: ConfigBody, caller: Writer, if_match: IfMatch = None, if_none_match: IfNoneMatch = None
) -> Answer[ConfigChangedData]:
    """Change a component, or add a model or an agent's; what `config` leaves out stays as it is.

    New runs go by it within half a minute. A broken rule answers 400 INVALID_CONFIGURATION. With `If-None-Match: *` it
    only adds, with `If-Match: *` it only changes, else 412.
    """
    return _enveloped(*_put(component_name, body, caller, (if_match, if_none_match)))


@agio.put("/config/{component_name}", responses=answers(etag=True, errors=(400, 404, 409, 412)))
async def agio_put_config(
    component_name: str, body: ConfigBody, caller: Writer, if_match: IfMatch = None, if_none_match: IfNoneMatch = None
) -> Answer[AgioConfigChangedData]:
    """Change a component, or add a model or an agent's; what `config` leaves out stays as it is.

    New runs go by it within half a minute. A broken rule answers 400 INVALID_CONFIGURATION. With `If-None-Match: *` it
    only adds, with `If-Match: *` it only changes, else 412.
    """
    return _bare(*_put(component_name, body, caller, (if_match, if_none_match)))


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


@router.get("/config/{component_name}/history", responses=answers(errors=(400, 404)))
async def list_config_history(
    component_name: str,
    caller: Reader,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[ConfigHistoryData]:
    """List the changes of a component, newest first; they outlive it."""
    scope = scope_of("config-history", caller.user_id, component_name)
    page = configuration.service().history(
        component_name, limit=limit, below=position(cursor, scope, of=int).get("below")
    )
    kept, written = shown(page.changes, config_change_view)
    below = page.next_below if len(kept) == len(page.changes) else kept[-1].version
    data: ConfigHistoryData = {
        "component_name": component_name,
        "history": written,
        "total": page.total,
        "limit": limit,
        "next_cursor": next_cursor({"below": below}, scope),
    }
    return ok(data)


@agio.get("/config/{component_name}/history", responses=answers(errors=(404,)))
async def list_config_history_by_number(
    component_name: str, _: Reader, limit: Limit = DEFAULT_SIZE, offset: Annotated[int, Query(ge=0, le=MAX_VERSION)] = 0
) -> Answer[AgioConfigHistoryData]:
    """List the changes of a component as the Agio API does, newest first; the next offset is `offset + limit`."""
    page = configuration.service().history(component_name, limit=limit, offset=offset)
    kept, written = shown(page.changes, config_change_view)
    data: AgioConfigHistoryData = {
        "component_name": component_name,
        "history": written,
        "total": page.total,
        # So that whoever adds it to the offset misses nothing.
        "limit": limit if len(kept) == len(page.changes) else len(kept),
        "offset": offset,
    }
    return ok(data)


@router.post("/config/{component_name}/rollback", responses=answers(etag=True, errors=(400, 404, 409, 412)))
async def rollback_config(
    component_name: str,
    body: ConfigRollbackBody,
    caller: Writer,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Answer[ConfigChangedData]:
    """Make a component what it was after a change; a repeat changes nothing."""
    return _enveloped(*_roll_back(component_name, body, caller, (if_match, if_none_match)))


@agio.post("/config/{component_name}/rollback", responses=answers(etag=True, errors=(400, 404, 409, 412)))
async def agio_rollback_config(
    component_name: str,
    body: ConfigRollbackBody,
    caller: Writer,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Answer[AgioConfigChangedData]:
    """Make a component what it was after a change; a repeat changes nothing."""
    return _bare(*_roll_back(component_name, body, caller, (if_match, if_none_match)))


def _put(component_name: str, body: ConfigBody, caller: Caller, given: Conditions) -> tuple[Standing, str]:
    found = configuration.service().put(
        component_name,
        body.config,
        by=caller.user_id,
        version=expected_version(given[0], body.version),
        exists=expected_existence(*given),
        validate_only=body.validate_only,
    )
    return found, "Configuration is valid" if body.validate_only else "Configuration updated successfully"


def _roll_back(
    component_name: str, body: ConfigRollbackBody, caller: Caller, given: Conditions
) -> tuple[Standing, str]:
    found = configuration.service().rollback(
        component_name,
        to=body.version,
        by=caller.user_id,
        version=expected_version(given[0]),
        exists=expected_existence(*given),
    )
    return found, f"Configuration rolled back to version {body.version}"


def _enveloped(found: Standing, message: str) -> Answer[ConfigChangedData]:
    return ok({"message": message, "config": config_view(found)}, headers=etag(found.version))


def _bare(found: Standing, message: str) -> Answer[AgioConfigChangedData]:
    return ok({"success": True, "message": message}, headers=etag(found.version))

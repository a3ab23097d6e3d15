from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from api.access import permit
from api.deps import agents
from api.idempotency import Outcome, once, request_token
from api.locking import IfMatch, etag, expected_version
from api.openapi import answers
from api.pages import Cursor, Limit, Offset, PageNumber, Place
from api.presenters import bare, no_content, ok, style
from api.routing import Router
from karma.agents.domain import MAX_TAG_CHARS, Agent
from karma.agents.schemas import AgentBody, AgentData, AgentListData, AgentView, AgioAgentPage, ReplaceAgentBody
from karma.identity.domain import Caller

router = Router("agents")
agio = Router("agents", prefix="/api")

Reader = Annotated[Caller, permit("agent:read")]
Writer = Annotated[Caller, permit("agent:write")]
Deleter = Annotated[Caller, permit("agent:delete")]
Tag = Annotated[str, Query(max_length=MAX_TAG_CHARS)]


@router.get("/agents", responses=answers(AgentListData, errors=(400,)))
async def list_agents(
    caller: Reader,
    tag: Tag = "",
    page: PageNumber | None = None,
    page_size: Limit | None = None,
    limit: Limit | None = None,
    offset: Offset | None = None,
    cursor: Cursor | None = None,
) -> Response:
    """List the catalogue, newest first behind the built-in agent: by page, by offset, or by the last `next_cursor`."""
    from karma.agents.service import summary_view

    place = Place.of(
        f"agents:{caller.user_id}:{tag}", page=page, page_size=page_size, limit=limit, offset=offset, cursor=cursor
    )
    found = agents.catalogue().list(limit=place.size, offset=place.offset, after=place.after_id, tag=tag)
    data = {
        "agents": [summary_view(agent) for agent in found.agents],
        "total": found.total,
        "total_capped": found.total_capped,
        **place.told({"id": found.next_after}),
    }
    return ok(data)


@agio.get("/agents", responses=answers(AgioAgentPage, errors=(400,), bare=True))
async def list_agents_by_number(_: Reader, tag: Tag = "", limit: Limit = 20, offset: Offset = 0) -> Response:
    """List the catalogue as the Agio API does."""
    from karma.agents.service import summary_view

    found = agents.catalogue().list(limit=limit, offset=offset, tag=tag)
    items = [summary_view(agent) for agent in found.agents]
    page = {"total": found.total, "items": items, "limit": limit, "offset": offset}
    return bare({**page, "has_more": offset + limit < found.total})


@router.post("/agents", status_code=201, responses=answers(AgentData, status=201, errors=(409,)))
@agio.post(
    "/agents",
    status_code=201,
    operation_id="agio_create_agent",
    responses=answers(AgentView, status=201, errors=(409,), bare=True),
)
async def create_agent(request: Request, body: AgentBody, caller: Writer) -> Response:
    """Create an agent; only `name`, `model` and `system_prompt` are required."""

    def create() -> Outcome:
        token = request_token(request, caller) or ""
        made = agents.catalogue().create(body.spec(), request_token=token)
        return Outcome(status=201, data=_data(made))

    return await once(request, caller, create)


@router.get("/agents/{agent_id}", responses=answers(AgentData, errors=(404,)))
@agio.get("/agents/{agent_id}", operation_id="agio_get_agent", responses=answers(AgentView, errors=(404,), bare=True))
async def get_agent(agent_id: str, _: Reader) -> Response:
    """Show an agent; the ETag is its version."""
    return _agent(agents.catalogue().get(agent_id))


@router.put("/agents/{agent_id}", responses=answers(AgentData, errors=(403, 404, 409)))
@agio.put(
    "/agents/{agent_id}",
    operation_id="agio_replace_agent",
    responses=answers(AgentView, errors=(403, 404, 409), bare=True),
)
async def replace_agent(
    agent_id: str,
    body: ReplaceAgentBody,
    _: Writer,
    if_match: IfMatch = None,
) -> Response:
    """Replace an agent's configuration; with `version` or If-Match only if nobody else has changed it since."""
    version = expected_version(if_match, body.version)
    return _agent(agents.catalogue().replace(agent_id, body.spec(), version=version))


@router.delete("/agents/{agent_id}", status_code=204, responses=answers(status=204, errors=(403, 404, 409)))
@agio.delete(
    "/agents/{agent_id}",
    status_code=204,
    operation_id="agio_delete_agent",
    responses=answers(status=204, errors=(403, 404, 409)),
)
async def delete_agent(agent_id: str, _: Deleter, if_match: IfMatch = None) -> Response:
    """Delete an agent; its name is free again, its runs stay."""
    agents.catalogue().delete(agent_id, version=expected_version(if_match))
    return no_content()


def _agent(agent: Agent) -> Response:
    return ok(_data(agent), headers=etag(agent.version))


def _data(agent: Agent) -> dict[str, object]:
    from karma.agents.service import agent_view

    view = agent_view(agent)
    return view if style.get() == "agio" else {"agent": view}

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from api.services import agents
from karma.agents.answers import AgentData, AgentListData, AgentView, AgioAgentPage, agent_view, summary_view
from karma.agents.domain import MAX_TAG_CHARS, Agent
from karma.agents.schemas import AgentBody, ReplaceAgentBody
from karma.core.schemas import COMPOSED
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import Cursor, Limit, Offset, PageNumber, Place
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("agents")
agio = Router("agents", prefix="/api")

Reader = Annotated[Caller, permit("agent:read")]
Writer = Annotated[Caller, permit("agent:write")]
Deleter = Annotated[Caller, permit("agent:delete")]
Tag = Annotated[str, Query(max_length=MAX_TAG_CHARS), COMPOSED]


@router.get("/agents", responses=answers(errors=(400,)))
async def list_agents(
    caller: Reader,
    tag: Tag = "",
    page: PageNumber | None = None,
    page_size: Limit | None = None,
    limit: Limit | None = None,
    offset: Offset | None = None,
    cursor: Cursor | None = None,
) -> Answer[AgentListData]:
    """List the catalogue, newest first behind the built-in agent: by page, by offset, or by the last `next_cursor`."""
    place = Place.of(
        f"agents:{caller.user_id}:{tag}", page=page, page_size=page_size, limit=limit, offset=offset, cursor=cursor
    )
    found = agents.catalogue().list(limit=place.size, offset=place.offset, after=place.after_id, tag=tag)
    data: AgentListData = {
        "agents": [summary_view(agent) for agent in found.agents],
        "total": found.total,
        "total_capped": found.total_capped,
        **place.told({"id": found.next_after}),
    }
    return ok(data)


@agio.get("/agents", responses=answers(errors=(400,)))
async def list_agents_by_number(
    _: Reader, tag: Tag = "", limit: Limit = 20, offset: Offset = 0
) -> Answer[AgioAgentPage]:
    """List the catalogue as the Agio API does."""
    found = agents.catalogue().list(limit=limit, offset=offset, tag=tag)
    return ok(
        {
            "total": found.total,
            "items": [summary_view(agent) for agent in found.agents],
            "limit": limit,
            "offset": offset,
            "has_more": offset + limit < found.total,
        }
    )


@router.post("/agents", idempotent=True, status_code=201, responses=answers(status=201, errors=(409,)))
async def create_agent(request: Request, body: AgentBody, caller: Writer) -> Answer[AgentData]:
    """Create an agent; only `name`, `model` and `system_prompt` are required."""

    def create() -> Outcome[AgentData]:
        made = _create(request, body, caller)
        return Outcome(status=201, data={"agent": agent_view(made)}, made_id=made.id)

    return await once(request, caller, create, find=agents.catalogue().get)


@agio.post("/agents", idempotent=True, status_code=201, responses=answers(status=201, errors=(409,)))
async def agio_create_agent(request: Request, body: AgentBody, caller: Writer) -> Answer[AgentView]:
    """Create an agent; only `name`, `model` and `system_prompt` are required."""

    def create() -> Outcome[AgentView]:
        made = _create(request, body, caller)
        return Outcome(status=201, data=agent_view(made), made_id=made.id)

    return await once(request, caller, create, find=agents.catalogue().get)


@router.get("/agents/{agent_id}", responses=answers(etag=True, errors=(404,)))
async def get_agent(agent_id: str, _: Reader) -> Answer[AgentData]:
    """Show an agent, by its id or name; the ETag is its version."""
    return _enveloped(agents.catalogue().find(agent_id))


@agio.get("/agents/{agent_id}", responses=answers(etag=True, errors=(404,)))
async def agio_get_agent(agent_id: str, _: Reader) -> Answer[AgentView]:
    """Show an agent, by its id or name; the ETag is its version."""
    return _bare(agents.catalogue().find(agent_id))


@router.put("/agents/{agent_id}", responses=answers(etag=True, errors=(403, 404, 409)))
async def replace_agent(
    agent_id: str, body: ReplaceAgentBody, _: Writer, if_match: IfMatch = None
) -> Answer[AgentData]:
    """Replace an agent's configuration; with `version` or If-Match only if nobody else has changed it since."""
    version = expected_version(if_match, body.version)
    return _enveloped(agents.catalogue().replace(agent_id, body.spec(), version=version))


@agio.put("/agents/{agent_id}", responses=answers(etag=True, errors=(403, 404, 409)))
async def agio_replace_agent(
    agent_id: str, body: ReplaceAgentBody, _: Writer, if_match: IfMatch = None
) -> Answer[AgentView]:
    """Replace what the Agio API has of an agent's configuration; `approvals` and the like stay unless they are given.

    With `version` or If-Match only if nobody else has changed it since.
    """
    stored = agents.catalogue().get(agent_id)
    version = expected_version(if_match, body.version) or stored.version
    return _bare(agents.catalogue().replace(agent_id, body.spec_over(stored.spec), version=version))


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


def _create(request: Request, body: AgentBody, caller: Caller) -> Agent:
    return agents.catalogue().create(body.spec(), idempotency_key=idempotency_key(request, caller))


def _enveloped(agent: Agent) -> Answer[AgentData]:
    return ok({"agent": agent_view(agent)}, headers=etag(agent.version))


def _bare(agent: Agent) -> Answer[AgentView]:
    return ok(agent_view(agent), headers=etag(agent.version))

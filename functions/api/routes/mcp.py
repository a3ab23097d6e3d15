from __future__ import annotations

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from api.services import mcp
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.mcp.answers import McpServerData, McpServerListData, server_details, server_view
from karma.mcp.domain import McpServer
from karma.mcp.schemas import ChangeMcpServerBody, CreateMcpServerBody

router = Router("mcp-servers")

Reader = Annotated[Caller, permit("mcp:read")]
Writer = Annotated[Caller, permit("mcp:write")]


@router.post(
    "/mcp-servers", idempotent=True, limit="outward", status_code=201, responses=answers(status=201, errors=(409,))
)
async def create_mcp_server(request: Request, body: CreateMcpServerBody, caller: Writer) -> Answer[McpServerData]:
    """Connect to an MCP server, and keep it with its tools; only `name` and `url` are required."""

    def create() -> Outcome[McpServerData]:
        key = idempotency_key(request, caller)
        made = mcp.service().create(caller.user_id, body.wanted(), idempotency_key=key)
        return Outcome(status=201, data={"server": server_details(made)}, made_id=made.id)

    return await once(request, caller, create, find=lambda made: mcp.service().get(caller.user_id, made))


@router.get("/mcp-servers")
async def list_mcp_servers(caller: Reader) -> Answer[McpServerListData]:
    """List all MCP servers of the caller, the oldest first."""
    return ok({"servers": [server_view(server) for server in mcp.service().all(caller.user_id)]})


@router.get("/mcp-servers/{server_id}", responses=answers(etag=True, errors=(404,)))
async def get_mcp_server(server_id: str, caller: Reader) -> Answer[McpServerData]:
    """Show an MCP server with its tools; it is asked for them again when they are old. The ETag is its version."""
    return _server(mcp.service().look(caller.user_id, server_id))


@router.post("/mcp-servers/{server_id}/refresh", limit="outward", responses=answers(etag=True, errors=(404,)))
async def refresh_mcp_server(server_id: str, caller: Writer) -> Answer[McpServerData]:
    """Ask an MCP server for its tools now, and show it; one that could not be asked keeps its tools, `health` says why.

    Runs that have begun keep the tools that they were offered.
    """
    return _server(mcp.service().refresh(caller.user_id, server_id))


@router.patch("/mcp-servers/{server_id}", limit="outward", responses=answers(etag=True, errors=(404, 409)))
async def change_mcp_server(
    server_id: str, body: ChangeMcpServerBody, caller: Writer, if_match: IfMatch = None
) -> Answer[McpServerData]:
    """Change an MCP server; with `version` or If-Match only if it has not changed since.

    With other headers it is connected to first, and nothing is stored when that fails.
    """
    version = expected_version(if_match, body.version)
    return _server(mcp.service().change(caller.user_id, server_id, body.changes(), version=version))


@router.delete("/mcp-servers/{server_id}", status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_mcp_server(server_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete an MCP server and its headers."""
    mcp.service().delete(caller.user_id, server_id, version=expected_version(if_match))
    return no_content()


def _server(server: McpServer) -> Answer[McpServerData]:
    return ok({"server": server_details(server)}, headers=etag(server.revision))

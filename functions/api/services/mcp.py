"""MCP servers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services import agents, waiting
from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.integrations.mcp_blocking import BlockingMcp
    from karma.mcp.offering import McpTools
    from karma.mcp.secrets import Endpoints
    from karma.mcp.service import McpServerService


@cache
def service() -> McpServerService:
    """Create, show and delete MCP servers."""
    from karma.mcp.repository import McpServerRepository
    from karma.mcp.service import LIST_S, McpServerService

    loopback = bool(settings().mcp_loopback)
    return McpServerService(
        McpServerRepository(),
        _client(),
        _endpoints(),
        clock(),
        agent_id_of=lambda ref: agents.catalogue().find(ref).id,
        held=lambda user_id: waiting.held(user_id, seconds=LIST_S),
        loopback=loopback,
    )


@cache
def tools() -> McpTools:
    """Return what offers tools of MCP servers to runs that begin without a client; they are called elsewhere."""
    from karma.mcp.offering import McpTools
    from karma.mcp.repository import McpServerRepository

    return McpTools(McpServerRepository(), lambda: _client().in_loops(), _endpoints, clock())


@cache
def _client() -> BlockingMcp:
    from karma.integrations.guard import is_public, is_public_or_loopback
    from karma.integrations.mcp_blocking import BlockingMcp

    return BlockingMcp(is_allowed=is_public_or_loopback if settings().mcp_loopback else is_public)


@cache
def _endpoints() -> Endpoints:
    from karma.integrations.kms import KmsSeal
    from karma.mcp.secrets import Endpoints

    return Endpoints(KmsSeal(settings().vault_key_arn))

"""Answers of the routes of MCP servers: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TypedDict

from karma.core.clock import iso
from karma.mcp.domain import McpServer, call_name
from karma.tools.answers import ApprovalView, approval_views


class ExposureView(TypedDict):
    """An agent that may use a server."""

    agent: str
    tools: list[str] | None
    approvals: list[ApprovalView]


class McpHealth(TypedDict):
    """Outcome of the latest attempt to list a server's tools."""

    status: str
    """`ok`, or the code of the failure."""
    message: str
    checked_at: str


class McpServerView(TypedDict):
    """An MCP server; its headers are named, not shown."""

    id: str
    name: str
    url: str
    header_names: list[str]
    timeout_s: int
    max_result_bytes: int
    protocol_version: str
    tool_count: int
    health: McpHealth
    created_at: str
    updated_at: str
    version: int
    """Number of changes by its owner."""


class McpToolView(TypedDict):
    """A tool of a server."""

    name: str
    call_name: str
    """Name by which models call it."""
    description: str
    input_schema: dict[str, object]
    repeatable: bool
    """By the server's word it may be called again when nobody knows whether a call took effect."""


class LeftOutView(TypedDict):
    """A tool of a server that models are not offered."""

    name: str
    reason: str


class McpServerDetails(McpServerView):
    """An MCP server with its tools."""

    agents: list[ExposureView]
    tools: list[McpToolView]
    left_out: list[LeftOutView]
    listed_at: str


def server_view(server: McpServer) -> McpServerView:
    """Shape a server for lists."""
    return {
        "id": server.id,
        "name": server.name,
        "url": server.url,
        "header_names": list(server.header_names),
        "timeout_s": server.timeout_s,
        "max_result_bytes": server.max_result_bytes,
        "protocol_version": server.listing.version,
        "tool_count": len(server.listing.tools),
        "health": {
            "status": server.health.error.value if server.health.error else "ok",
            "message": server.health.message,
            "checked_at": iso(server.health.checked_at),
        },
        "created_at": iso(server.created_at),
        "updated_at": iso(server.updated_at),
        "version": server.revision,
    }


def server_details(server: McpServer) -> McpServerDetails:
    """Shape a server with its tools."""
    return {
        **server_view(server),
        "agents": [
            {
                "agent": each.agent,
                "tools": None if each.tools is None else list(each.tools),
                "approvals": approval_views(each.approvals),
            }
            for each in server.exposures
        ],
        "tools": [
            {
                "name": tool.name,
                "call_name": call_name(server.name, tool.name),
                "description": tool.description,
                "input_schema": dict(tool.schema),
                "repeatable": tool.is_repeatable,
            }
            for tool in server.listing.tools
        ],
        "left_out": [{"name": each.name, "reason": each.reason} for each in server.listing.left_out],
        "listed_at": iso(server.listed_at),
    }


class McpServerData(TypedDict):
    """One MCP server with its tools."""

    server: McpServerDetails


class McpServerListData(TypedDict):
    """All MCP servers of an account."""

    servers: list[McpServerView]

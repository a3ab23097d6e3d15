"""Examples of the OpenAPI document for MCP servers: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SERVER = "01994b9c-4f70-7e6b-89a0-2b3c4d5e6f70"
_BODIES = ("CreateMcpServerBody", "ChangeMcpServerBody")
_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

FIELDS: Mapping[str, Any] = {
    "server_id": _SERVER,
    **dict.fromkeys(("McpServerView.id", "McpServerDetails.id"), _SERVER),
    **dict.fromkeys(
        ("McpServerView.name", "McpServerDetails.name", "CreateMcpServerBody.name", "ChangeMcpServerBody.name"),
        "weather",
    ),
    **dict.fromkeys(
        ("McpServerView.url", "McpServerDetails.url", "CreateMcpServerBody.url"), "https://mcp.example.com/mcp"
    ),
    **{f"{body}.headers": {"Authorization": "Bearer <token>"} for body in _BODIES},
    "header_names": ["Authorization"],
    **dict.fromkeys(("ExposureBody.agent", "ExposureView.agent"), "karma"),
    **{name: ["forecast"] for name in ("ExposureBody.tools", "ExposureView.tools")},
    "RemoteApprovalBody.tool": "forecast",
    "ExposureBody.approvals": [{"tool": "forecast", "policy": "when", "when": "args.city == 'Bern'"}],
    "ExposureView.approvals": [
        {
            "tool": "forecast",
            "policy": "when",
            "when": "args.city == 'Bern'",
            "expires_in_s": 604_800,
            "on_expiry": "cancel",
        }
    ],
    "timeout_s": 30,
    "max_result_bytes": 1_048_576,
    "protocol_version": "2026-07-28",
    "tool_count": 1,
    "McpHealth.status": "ok",
    "McpHealth.message": "",
    "checked_at": "2026-11-26T12:00:00Z",
    "listed_at": "2026-11-26T12:00:00Z",
    "McpToolView.name": "forecast",
    "McpToolView.description": "Tell the weather of a city.",
    "call_name": "weather__forecast",
    "input_schema": _SCHEMA,
    "repeatable": True,
    "LeftOutView.name": "huge",
    "LeftOutView.reason": "its description must be at most 2000 characters",
}

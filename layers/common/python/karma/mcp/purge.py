"""The step of MCP servers in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import PurgeStep
from karma.mcp.repository import McpServerRepository


def purge() -> PurgeStep:
    """Return the step that deletes an account's MCP servers, their secrets among them."""
    return McpServerRepository()

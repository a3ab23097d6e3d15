"""Names of MCP servers in reads of other contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karma.mcp.repository import want_directory

if TYPE_CHECKING:
    from karma.core.dynamo.reads import Later, Reads
    from karma.core.ids import UserId


def want_any_server(reads: Reads, user_id: UserId) -> Later[bool]:
    """Ask with other items whether an account has MCP servers: one item more. Most have none, and need no Query."""
    directory = want_directory(reads, user_id)
    return lambda: bool(directory().ids)

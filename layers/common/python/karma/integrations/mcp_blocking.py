"""The client of MCP servers for functions without an event loop, such as the API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from karma.integrations.guard import is_public
from karma.integrations.mcp import McpClient
from karma.mcp.domain import Listing, McpEndpoint
from karma.mcp.ports import CallOutcome


class BlockingMcp:
    """Lists the tools of a server in a loop and a thread of its own, and closes its connections."""

    def __init__(self, *, is_allowed: Callable[[str], bool] = is_public) -> None:
        """`is_allowed` tells whether an address may be connected to."""
        self._is_allowed = is_allowed

    def list_tools(self, endpoint: McpEndpoint, *, server: str) -> Listing:
        """See karma.mcp.ports.Listers."""

        async def ask() -> Listing:
            client = McpClient(is_allowed=self._is_allowed)
            try:
                return await client.list_tools(endpoint, server=server)
            finally:
                await client.close()

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mcp") as thread:
            return thread.submit(_run, ask()).result()

    def in_loops(self) -> McpLists:
        """Return the same for code that runs in an event loop, whichever: no connection outlives a list."""
        return McpLists(self)


def _run(asking: Coroutine[Any, Any, Listing]) -> Listing:
    """Run a coroutine in a loop of its own, which does not wait for a resolver that nobody waits for any more.

    `asyncio.run` would, for minutes: a resolver cannot be interrupted.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asking)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class McpLists:
    """Lists tools in a thread, and calls none: functions without a loop that lasts execute no run."""

    def __init__(self, lists: BlockingMcp) -> None:
        self._lists = lists

    async def list_tools(self, endpoint: McpEndpoint, *, server: str) -> Listing:
        """See karma.mcp.ports.McpClients."""
        return await asyncio.to_thread(self._lists.list_tools, endpoint, server=server)

    async def call(self, *_: Any, **__: Any) -> CallOutcome:
        """Refuse: tools are called where runs are executed.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("tools are offered here, not called")

"""CPU of a call of an MCP server by our client, beside the official SDK's client, of the same server in the same run.

The server is the official package's, in another process; what it takes is not counted.

    python -m benchmarks.mcp_clients      serves it: prints its address, until its input ends
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable

from benchmarks.report import Row
from benchmarks.world import World, helper

_CALLS, _ROUNDS = 50, 5
_TARGET = 0.6


def measure(world: World) -> list[Row]:  # noqa: ARG001  each area is given it
    """Return the row of MCP's clients."""
    with helper("benchmarks.mcp_clients") as url:
        own, official = asyncio.run(_both(url))
    ratio = own / official
    return [
        Row("mcp", "CPU of a call of a tool", f"the SDK's client {official:.0f} us", f"{own:.0f} us, {ratio:.2f}x",
            f"<= {_TARGET}x", ratio <= _TARGET)
    ]  # fmt: skip


async def _both(url: str) -> tuple[float, float]:
    """Return the least CPU of a call in microseconds, of our client and of the SDK's; rounds are interleaved."""
    from mcp import Client

    from karma.integrations.mcp import McpClient
    from karma.mcp.domain import McpEndpoint

    ours = McpClient(is_allowed=lambda _: True)
    endpoint = McpEndpoint(url=url, headers={}, timeout_s=10, max_result_bytes=1 << 20)
    listing = await ours.list_tools(endpoint, server="bench")
    (tool,) = listing.tools

    async def own_call() -> None:
        outcome = await ours.call(endpoint, tool, {"text": "x" * 100}, version=listing.version)
        if outcome.is_error:
            raise RuntimeError(str(outcome))

    try:
        async with Client(url) as client:

            async def official_call() -> None:
                result = await client.call_tool("echo", {"text": "x" * 100})
                if result.is_error:
                    raise RuntimeError(str(result))

            spent: dict[str, list[float]] = {"own": [], "official": []}
            for _ in range(_ROUNDS):
                spent["own"].append(await _cpu(own_call))
                spent["official"].append(await _cpu(official_call))
    finally:
        await ours.close()
    return min(spent["own"]), min(spent["official"])


async def _cpu(call: Callable[[], Awaitable[None]]) -> float:
    await call()
    started = time.process_time()
    for _ in range(_CALLS):
        await call()
    return (time.process_time() - started) / _CALLS * 1e6


async def _serve() -> None:
    import uvicorn
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("bench")

    @server.tool()
    def echo(text: str) -> str:
        """Return a text."""
        return text

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        app = server.streamable_http_app(stateless_http=True)
        served = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        serving = asyncio.create_task(served.serve(sockets=[listener]))
        await asyncio.to_thread(sys.stdin.read)
        served.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(_serve())

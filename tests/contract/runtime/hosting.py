"""Starts the local host in a test, on a free port, with few workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from local.streamhost.host import HostConfig, StreamHost
from local.streamhost.worker import FunctionSpec

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "runtime"
DEADLINE_S = 30.0


@asynccontextmanager
async def hosting_app(
    app: str, log_file: Path, *, prewarm: int = 1, max_workers: int = 2, timeout_s: float = 60
) -> AsyncIterator[tuple[StreamHost, httpx.AsyncClient]]:
    """Serve an app of `apps.py` through the real bootstrap."""
    function = FunctionSpec(
        function_dir=ROOT / "functions" / "agent_stream",
        python_path=(ROOT / "layers" / "common" / "python", ROOT),
        handler=f"tests.fixtures.runtime.apps:{app}",
        log_file=log_file,
        timeout_s=timeout_s,
    )
    async with _serving(HostConfig(function, prewarm=prewarm, max_workers=max_workers)) as served:
        yield served


@asynccontextmanager
async def hosting_replay(recorded: Path, log_file: Path) -> AsyncIterator[tuple[StreamHost, httpx.AsyncClient]]:
    """Serve a function that answers with recorded bytes."""
    function = FunctionSpec(FIXTURES / "replay", {"REPLAY_FILE": str(recorded)}, log_file=log_file)
    async with _serving(HostConfig(function, max_workers=1)) as served:
        yield served


@asynccontextmanager
async def _serving(config: HostConfig) -> AsyncIterator[tuple[StreamHost, httpx.AsyncClient]]:
    async with (
        StreamHost(config) as host,
        httpx.AsyncClient(base_url=host.url, timeout=DEADLINE_S, trust_env=False) as client,
    ):
        yield host, client


async def read_until_cut(response: httpx.Response) -> bytes:
    """Return what arrives before the connection is cut; a response that ends properly is a failure."""
    received = b""
    try:
        async for piece in response.aiter_raw():
            received += piece
    except httpx.RemoteProtocolError:
        return received
    raise AssertionError(f"the response ended properly after {received!r}")


async def eventually(condition: Callable[[], Any], what: str) -> None:
    """Wait until the condition holds, looking again at each turn of the loop's clock; else fail by naming it."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {DEADLINE_S:.0f} s") from None

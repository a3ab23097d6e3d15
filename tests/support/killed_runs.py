"""Runs of the deployed stream function whose processes are killed by SIGKILL, followed by our client to their ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from karma_agent.client import AgentClient
from karma_agent.stream import RunStream

QUESTION = "Tell me what you can do for me."
_A_USER = 5
"""Runs of one user at once; ten streams may be open."""


@dataclass
class KilledRun:
    """One run, as its client saw it."""

    token: str
    run_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    failure: Exception | None = None


class KilledRuns:
    """Follows runs in a thread, and kills the processes of all of them once each has said something."""

    def __init__(self, stream_url: str, host_pid: int, tokens: Sequence[str], *, count: int) -> None:
        self.runs: list[KilledRun] = []
        self.killed = 0
        """Processes that were killed."""
        self._stream_url = stream_url
        self._host = psutil.Process(host_pid)
        self._tokens = [tokens[at // _A_USER] for at in range(count)]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()), name="killed runs")
        self._killed = threading.Event()

    @staticmethod
    def users(count: int) -> int:
        """Return the number of users that so many runs need."""
        return -(-count // _A_USER)

    def start(self) -> None:
        """Start the runs, and return when their processes were killed."""
        self._thread.start()
        self._killed.wait()

    def join(self, *, timeout_s: float) -> None:
        """Wait for the ends of all runs."""
        self._thread.join(timeout_s)

    async def _follow(self) -> None:
        speaking = asyncio.Barrier(len(self._tokens) + 1)
        async with asyncio.TaskGroup() as group:
            for token in self._tokens:
                group.create_task(self._one(token, speaking))
            try:
                async with asyncio.timeout(60):
                    await speaking.wait()
                self._kill()
            finally:
                self._killed.set()

    async def _one(self, token: str, speaking: asyncio.Barrier) -> None:
        async with AgentClient(self._stream_url, token=token, patience=20) as client:
            stream = client.run(QUESTION)
            run = KilledRun(token, stream.run_id)
            self.runs.append(run)
            try:
                await self._read(stream, run, speaking)
            except Exception as exc:  # noqa: BLE001 - the test shows it
                run.failure = exc

    async def _read(self, stream: RunStream, run: KilledRun, speaking: asyncio.Barrier) -> None:
        said = False
        async for event in stream:
            run.events.append(dict(event))
            if event["type"] == "TEXT_MESSAGE_CONTENT" and not said:
                said = True
                await speaking.wait()

    def _kill(self) -> None:
        for process in self._host.children(recursive=True):
            if "agent_stream.app:app" in " ".join(process.cmdline()):
                process.kill()
                self.killed += 1

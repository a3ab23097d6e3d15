"""The stream of a run over connections that break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest

from karma_agent.stream import RunStream

ENDS = {
    "finished": '{"type":"RUN_FINISHED","threadId":"t","runId":"r"}',
    "failed": '{"type":"RUN_ERROR","message":"no"}',
    "paused": '{"type":"CUSTOM","name":"karma.run_paused","value":{}}',
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("id_line", ["id: 2\n", ""])
def test_one_that_breaks_behind_the_end_is_over(end: str, id_line: str) -> None:
    """Its process was killed between the last event and the end of the answer: the server would tell the end again."""
    asked: list[int | None] = []
    told = [f'data: {{"type":"RUN_STARTED","threadId":"t","runId":"r"}}\n\n{id_line}data: {ENDS[end]}\n\n']

    async def connect(position: int | None) -> AsyncGenerator[bytes]:
        asked.append(position)
        for each in told:
            yield each.encode()
        raise httpx.ReadError("cut")

    async def read() -> list[str]:
        stream = RunStream(connect, run_id="r", thread_id="t", position=None, patience=3)
        return [str(event["type"]) async for event in stream]

    assert asyncio.run(read())[1:] == [ENDS[end].split('"')[3]]
    assert asked == [None]

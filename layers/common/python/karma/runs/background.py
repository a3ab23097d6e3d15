"""Begins runs that nobody waits for: another process takes each from the queue of executions.

A run is recorded as the stream records its own (recording.py), but without a lease: to whoever takes runs over it looks
like one whose process has just handed it over, and `take over` is how it begins (docs/adr/0049).

    1. the watchdog's message     finds nothing if the process dies here
    2. the transaction            from here the run is the thread's active one
    3. the execution's message    a process that dies before it leaves that to the watchdog, or to a repeat
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import orjson

from karma.core.errors import ValidationFailed
from karma.core.requests import IdempotencyKey
from karma.identity.domain import Caller
from karma.runs.asking import Beginning
from karma.runs.domain import NOBODYS
from karma.runs.ports import Also, Executions
from karma.runs.recording import RunRecorder
from karma.runs.requests import RunInput, parse_run_input

if TYPE_CHECKING:
    from karma.runs.schemas import StartRunBody

_NAMES: Final = {"threadId": "thread_id", "parentRunId": "parent_run_id"}


def run_input(body: StartRunBody, key: IdempotencyKey | None, *, taken: Container[str]) -> RunInput:
    """Read the body of `POST /runs` as the stream reads its own.

    Args:
        body: the body.
        key: name of the request, after which the run is called, and the thread that it begins.
        taken: names of the server's tools.

    Raises:
        ValidationFailed: fields are wrong; one entry each, by the names that this body has for them.
    """
    named = key.token[:32] if key is not None else None
    asked = {
        "threadId": body.thread_id or named,
        "runId": named,
        "parentRunId": body.parent_run_id,
        "protocolVersion": "1.0",
        "state": body.state,
        "messages": [{"role": "user", "content": body.message}] if body.message is not None else body.messages,
        "tools": body.tools,
        "context": body.context,
        "resume": body.resume,
        "forwardedProps": {
            "agent_id": body.agent_id,
            "multitask_strategy": body.multitask_strategy,
            "budget": body.budget.model_dump(exclude_none=True) if body.budget else None,
        },
    }
    try:
        read = parse_run_input(orjson.dumps(asked), taken=taken)
    except ValidationFailed as exc:
        raise exc.renamed(_NAMES) from None
    return replace(read, webhook=body.webhook or "", stands_alone=read.stands_alone or key is not None)


class BackgroundRuns:
    """Begins runs for callers who do not wait for their events."""

    def __init__(self, recorder: RunRecorder, executions: Executions) -> None:
        self._recorder = recorder
        self._executions = executions
        self.own_tools = recorder.own_tools

    async def begin(self, caller: Caller, asked: RunInput, *, also: Also | None = None) -> Beginning:
        """Store a run, make it its thread's active one, and ask for a process that executes it.

        One that has to wait for its turn is stored and waits. A repeat of the request returns the run that the first
        one began, as it is now. What `also` writes is written with the run.

        Raises:
            AppError: as `RunRecorder.record`, but for ModelNotConfigured: a run whose model has no key fails.
        """
        await asyncio.sleep(0)  # karma.http.gateway gives a loop to whoever waits
        begun = await self._recorder.record(caller, asked, lease=NOBODYS, also=also)
        if begun.execution is not None:
            await asyncio.to_thread(self._executions.request, begun.run.key)
        else:
            # The process of the first request may have died before it asked for an execution.
            await asyncio.to_thread(self._recorder.inspector.look, begun.run.key)
        return begun

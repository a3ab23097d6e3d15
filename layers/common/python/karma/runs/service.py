"""Starts runs, which the same process executes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from karma.conversations.domain import Message
from karma.core.clock import Clock
from karma.core.records import Record
from karma.identity.domain import Caller
from karma.runs.asking import Asking, Execution
from karma.runs.domain import Run, RunKey
from karma.runs.execution import Executor
from karma.runs.ports import Runs, Sink
from karma.runs.recording import Admission, RunRecorder
from karma.runs.repeats import redeliver
from karma.runs.requests import RunInput

_FOLLOW = timedelta(minutes=10)
"""Time for which a running run is followed for a repeated request, where the platform stops this process no earlier."""


class StartedRun(Record):
    """A run whose first segment is committed, newly or by an earlier equal request."""

    key: RunKey
    execute: Callable[[Sink], asyncio.Task[None]]
    """Starts to execute the run; the task ends when the run has ended, and raises nothing."""
    messages: Sequence[Message] = ()
    """Its conversation as it is by then; () where its events were stored before, since those show it."""


class RunService:
    """Starts runs for callers who wait for their events."""

    def __init__(self, recorder: RunRecorder, executor: Executor, *, store: Runs, clock: Clock) -> None:
        self._recorder = recorder
        self._executor = executor
        self.own_tools = recorder.own_tools
        self._store = store
        self._clock = clock

    async def start(
        self,
        caller: Caller,
        asked: RunInput,
        *,
        deadline: datetime | None = None,
        admission: Admission | None = None,
    ) -> StartedRun:
        """Store a run and make it its thread's active one, for this process to execute.

        Args:
            caller: owner of the run; its tools have the caller's permissions.
            asked: the request.
            deadline: moment at which the platform stops this process; None: never.
            admission: as for `RunRecorder.record`.

        Raises:
            AppError: as `RunRecorder.record`.
        """
        begun = await self._recorder.record(caller, asked, deadline=deadline, admission=admission)
        if begun.execution is None:
            return self._repeat(begun.run, begun.asking)
        messages = begun.execution.plan.messages
        return StartedRun(begun.run.key, partial(self._execute, begun.asking, begun.execution), messages)

    def _execute(self, asking: Asking, execution: Execution, sink: Sink) -> asyncio.Task[None]:
        """Start to execute a stored run."""
        return self._executor.begin(
            execution.plan,
            sink=sink,
            first=execution.first,
            writer=execution.writer,
            toolbox=execution.toolbox,
            reserved=execution.reserved,
            max_tokens=execution.max_tokens,
            agent_id=asking.agent.id,
            warnings=len(asking.asked.warnings),
        )

    def _repeat(self, run: Run, asking: Asking) -> StartedRun:
        again = redeliver(
            run,
            asking.asked,
            store=self._store,
            link=self._recorder.link_of(asking.caller),
            inspector=self._recorder.inspector,
            clock=self._clock,
            until=self._followed_until(asking.deadline),
            own=self.own_tools,
        )
        return StartedRun(run.key, again)

    def _followed_until(self, deadline: datetime | None) -> datetime:
        """Return the moment at which a stream that follows a run ends, before the platform stops its process."""
        margin = timedelta(seconds=self._executor.limits.reserve_s)
        return self._clock.now() + _FOLLOW if deadline is None else deadline - margin

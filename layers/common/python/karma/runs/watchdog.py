"""Notices runs whose process is dead.

Before a run takes its lease, a delayed message about it is sent; its consumer inspects the log:

    no log             the run never started                  -> nothing
    terminal segment   it ended                               -> nothing
    lease valid        it is alive                            -> inspect again when the lease may be over
    lease over         its process is dead                    -> ask for a process that goes on (execution.py), and
                                                                 inspect again
    over for long      no process could go on                 -> end it: RUN_ERROR OWNER_LOST, the thread is free

Messages may come late or twice: the log decides, by one conditional write.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

import orjson

from karma.core.clock import Clock
from karma.core.errors import ValidationFailed
from karma.core.ids import RunId, UserId
from karma.core.observability import logger
from karma.runs.domain import (
    ENGINE_SCHEMA,
    LEASE,
    OwnershipLost,
    RunKey,
    Segment,
)
from karma.runs.ending import end_lost
from karma.runs.ports import Executions, Runs, Watchdog

FIRST_LOOK = LEASE + timedelta(seconds=15)
GIVE_UP_AFTER = timedelta(minutes=15)
"""Time after the end of a lease at which a run is ended that no process has gone on with."""
_MARGIN = timedelta(seconds=5)
_UNREADABLE_FOR = timedelta(days=1)
"""Time for which a run of a newer release is looked at again: a release is under way, or was taken back."""
_MAX_DELAY_S = 900
"""Seconds by which SQS delays a message at the most."""


class DelayQueue(Protocol):
    """The part of karma.integrations.sqs.SqsQueue that is used here."""

    def send(self, body: str, *, delay_s: int) -> None:
        """Enqueue a body that becomes visible after the delay."""
        ...


class QueueWatchdog:
    """Watchdog that sends a delayed message to the runs queue."""

    def __init__(self, queue: DelayQueue) -> None:
        self._queue = queue

    def arm(self, key: RunKey, *, delay: timedelta) -> None:
        """Let the run be inspected after the delay, as `ports.Watchdog.arm`."""
        seconds = min(_MAX_DELAY_S, max(0, round(delay.total_seconds())))
        self._queue.send(_message(key), delay_s=seconds)


class QueuedExecutions:
    """Executions as messages of the queue of executions."""

    def __init__(self, queue: DelayQueue) -> None:
        self._queue = queue

    def request(self, key: RunKey) -> None:
        """Let a process take the run over, as `ports.Executions.request`."""
        self._queue.send(_message(key), delay_s=0)


def _message(key: RunKey) -> str:
    return orjson.dumps({"user_id": key.user_id, "run_id": key.run_id}).decode()


def read_message(body: str) -> RunKey:
    """Read a message that `QueueWatchdog.arm` or `QueuedExecutions.request` sent.

    Raises:
        ValidationFailed: the body is not such a message.
    """
    try:
        data = orjson.loads(body)
        user_id, run_id = data["user_id"], data["run_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ValidationFailed.of("body", "does not name a run") from None
    if not (isinstance(user_id, str) and isinstance(run_id, str)):
        raise ValidationFailed.of("body", "does not name a run")
    return RunKey(UserId(user_id), RunId(run_id))


class Inspector:
    """Inspects runs, and lets another process go on with those whose process is dead."""

    def __init__(self, store: Runs, executions: Executions, clock: Clock) -> None:
        self._store = store
        self._executions = executions
        self._clock = clock

    def look(self, key: RunKey) -> timedelta | None:
        """Inspect one run; return the delay until the next inspection, None when it has ended or never started."""
        tail = self._store.tail(key)
        if tail is None or tail.terminal:
            return None
        now = self._clock.now()
        if not tail.is_expired(now):
            return tail.lease_until - now + _MARGIN
        if now - tail.lease_until < GIVE_UP_AFTER:
            self._executions.request(key)
            return LEASE + _MARGIN
        return None if self._end(tail, now) else LEASE + _MARGIN

    def has_ended(self, key: RunKey) -> bool:
        """Tell whether a run has ended; one whose process is lost has not, and another process is asked for."""
        return self.look(key) is None

    def is_over(self, key: RunKey) -> bool:
        """Tell whether a run is over, and end it if its process is lost: nobody waits for it any more."""
        tail = self._store.tail(key)
        if tail is None or tail.terminal:
            return True
        now = self._clock.now()
        return tail.is_expired(now) and self._end(tail, now)

    def _end(self, tail: Segment, now: datetime) -> bool:
        run = self._store.run(tail.key)
        if run is None:
            return True
        if run.engine_schema > ENGINE_SCHEMA:
            logger.error("run.unreadable", run_id=tail.key.run_id, engine_schema=run.engine_schema)
            return now - tail.lease_until > _UNREADABLE_FOR
        try:
            end_lost(self._store, tail, run, now)
        except OwnershipLost:
            return False  # its writer, or another process, wrote first
        return True


def attend(inspector: Inspector, watchdog: Watchdog, key: RunKey) -> None:
    """Inspect a run, and let it be inspected again if needed."""
    again_in = inspector.look(key)
    if again_in is not None:
        watchdog.arm(key, delay=again_in)

"""Notices runs whose process is dead.

Before a run takes its lease, a delayed message about it is sent; its consumer inspects the log:

    no log             the run never started                  -> nothing
    terminal segment   it ended                               -> nothing
    paused             nobody executes it, as was wished      -> nothing: who resumes it begins another chain
    lease valid        it is alive                            -> inspect again when the lease may be over
    lease over         its process is dead                    -> ask for a process that goes on (execution.py), and
                                                                 inspect again
    over for long      no process could go on                 -> end it: RUN_ERROR OWNER_LOST, the thread is free

Messages may come late or twice: the log decides, by one conditional write.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import orjson

from karma.core.clock import Clock
from karma.core.errors import ValidationFailed
from karma.core.ids import RunId, UserId
from karma.core.observability import logger
from karma.runs.domain import (
    ENGINE_SCHEMA,
    LEASE,
    MOVED_ON_REASON,
    OwnershipLost,
    RunKey,
    RunStatus,
    Segment,
)
from karma.runs.ending import cancel_lost, end_lost
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

    def arm(self, key: RunKey, *, delay: timedelta, chain: int = 0) -> None:
        """Let the run be inspected after the delay, as `ports.Watchdog.arm`."""
        seconds = min(_MAX_DELAY_S, max(0, round(delay.total_seconds())))
        self._queue.send(_message(key, chain=chain), delay_s=seconds)


class QueuedExecutions:
    """Executions as messages of the queue of executions."""

    def __init__(self, queue: DelayQueue) -> None:
        self._queue = queue

    def request(self, key: RunKey) -> None:
        """Let a process take the run over, as `ports.Executions.request`."""
        self._queue.send(_message(key), delay_s=0)


def _message(key: RunKey, **more: int) -> str:
    return orjson.dumps({"user_id": key.user_id, "run_id": key.run_id, **more}).decode()


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


class Watch(NamedTuple):
    """A message that `QueueWatchdog.arm` sent."""

    key: RunKey
    chain: int


def read_watch(body: str) -> Watch:
    """Read a message to the watchdog; one of before there were pauses is of the first chain.

    Raises:
        ValidationFailed: the body is not such a message.
    """
    key, chain = read_message(body), orjson.loads(body).get("chain", 0)
    if not isinstance(chain, int):
        raise ValidationFailed.of("body", "does not name a chain of inspections")
    return Watch(key, chain)


class Inspector:
    """Inspects runs, and lets another process go on with those whose process is dead."""

    def __init__(self, store: Runs, executions: Executions, clock: Clock) -> None:
        self._store = store
        self._executions = executions
        self._clock = clock

    def look(self, key: RunKey, *, chain: int | None = None) -> timedelta | None:
        """Inspect one run; return the delay until the next inspection.

        None when it has ended, never started, or is paused; with `chain` also when another chain of inspections than
        this one watches it.
        """
        tail = self._store.tail(key)
        if tail is None or tail.terminal:
            return None
        now = self._clock.now()
        is_expired = tail.is_expired(now)
        run = self._store.run(key) if is_expired or chain is not None else None
        if run is not None and (run.status is RunStatus.PAUSED or chain not in {None, run.resumed_epoch}):
            return None
        if not is_expired:
            return tail.lease_until - now + _MARGIN
        if now - tail.lease_until < GIVE_UP_AFTER:
            self._executions.request(key)
            return LEASE + _MARGIN
        return None if self._end(tail, now) else LEASE + _MARGIN

    def has_ended(self, key: RunKey) -> bool:
        """Tell whether a run has ended; one whose process is lost has not, and another process is asked for."""
        if self.look(key) is not None:
            return False
        run = self._store.run(key)
        return run is None or run.status is not RunStatus.PAUSED

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
            if run.status is RunStatus.PAUSED:
                cancel_lost(self._store, tail, run, now, reason=MOVED_ON_REASON)
            else:
                end_lost(self._store, tail, run, now)
        except OwnershipLost:
            return False  # its writer, or another process, wrote first
        return True


def attend(inspector: Inspector, watchdog: Watchdog, watch: Watch) -> None:
    """Inspect a run, and let it be inspected again if needed."""
    again_in = inspector.look(watch.key, chain=watch.chain)
    if again_in is not None:
        watchdog.arm(watch.key, delay=again_in, chain=watch.chain)

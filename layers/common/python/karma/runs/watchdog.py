"""Ends runs whose process is dead.

Before a run takes its lease, a delayed message about it is sent; its consumer inspects the log:

    no log             the run never started                          -> nothing
    terminal segment   it ended                                       -> nothing
    lease valid        it is alive                                    -> inspect again when the lease may have expired
    lease expired      its process is dead                            -> end it: OWNER(epoch+1), RUN_ERROR OWNER_LOST

Ending it frees the thread and gives clients that reattach a terminal event. Messages may come late or twice: the log
decides, by one conditional write. A run is not continued instead of ended yet.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

import orjson

from karma.conversations.domain import ThreadKey
from karma.core.clock import Clock
from karma.core.errors import ValidationFailed
from karma.core.ids import RunId, UserId, new_id
from karma.core.observability import count, logger
from karma.runs import events
from karma.runs.domain import (
    ENGINE_SCHEMA,
    ERROR_MESSAGES,
    LEASE,
    OwnershipLost,
    RunEnd,
    RunErrorCode,
    RunKey,
    RunStatus,
    Segment,
)
from karma.runs.ports import Runs, Watchdog

FIRST_LOOK = LEASE + timedelta(seconds=15)
_MARGIN = timedelta(seconds=5)
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
        body = orjson.dumps({"user_id": key.user_id, "run_id": key.run_id}).decode()
        seconds = min(_MAX_DELAY_S, max(0, round(delay.total_seconds())))
        self._queue.send(body, delay_s=seconds)


def read_message(body: str) -> RunKey:
    """Read a message that `QueueWatchdog.arm` sent.

    Raises:
        ValidationFailed: the body is not such a message.
    """
    try:
        data = orjson.loads(body)
        user_id, run_id = data["user_id"], data["run_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ValidationFailed.of("body", "is not a watchdog message") from None
    if not (isinstance(user_id, str) and isinstance(run_id, str)):
        raise ValidationFailed.of("body", "is not a watchdog message")
    return RunKey(UserId(user_id), RunId(run_id))


class Inspector:
    """Inspects runs and ends those whose process is dead."""

    def __init__(self, store: Runs, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def look(self, key: RunKey) -> timedelta | None:
        """Inspect one run; return the delay until the next inspection, None when it has ended or never started."""
        tail = self._store.tail(key)
        if tail is None or tail.terminal:
            return None
        now = self._clock.now()
        if not tail.is_expired(now):
            return tail.lease_until - now + _MARGIN
        try:
            self._end(tail, now)
        except OwnershipLost:
            # Its owner, or another inspector, wrote first.
            return LEASE + _MARGIN
        return None

    def _end(self, tail: Segment, now: datetime) -> None:
        run = self._store.run(tail.key)
        if run is None or run.engine_schema > ENGINE_SCHEMA:
            logger.error("run.unreadable", run_id=tail.key.run_id)
            return
        code = RunErrorCode.OWNER_LOST
        # The closing events need the whole log; it is read only here, for a dead run.
        log = [data for segment in read_log(self._store, tail.key) for data in segment.events]
        closing = [event.data for event in events.open_after(log).closing()]
        terminal = events.run_error(message=ERROR_MESSAGES[code], code=code)
        last = Segment(
            key=tail.key,
            n=tail.n + 1,
            writer=new_id(),
            epoch=tail.epoch + 1,
            lease_until=now,
            events=(*closing, terminal.data),
            terminal=True,
        )
        how = RunEnd(status=RunStatus.FAILED, at=now, error_code=code.value)
        self._store.finish(last, how, thread=ThreadKey(tail.key.user_id, run.thread_id))
        logger.warning("run.ended_by_watchdog", run_id=tail.key.run_id, epoch=last.epoch)
        count("RunOwnerLost")


def attend(store: Runs, clock: Clock, watchdog: Watchdog, key: RunKey) -> None:
    """Inspect a run, and let it be inspected again if needed."""
    again_in = Inspector(store, clock).look(key)
    if again_in is not None:
        watchdog.arm(key, delay=again_in)


def read_log(store: Runs, key: RunKey, *, after: int = 0) -> list[Segment]:
    """Read all segments above `after`."""
    segments: list[Segment] = []
    while True:
        page = store.segments(key, after=segments[-1].n if segments else after, limit=200)
        if not page:
            return segments
        segments.extend(page)

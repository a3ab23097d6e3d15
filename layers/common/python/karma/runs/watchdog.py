"""Notices runs whose process is dead.

Before a run takes its lease, a delayed message about it is sent; its consumer inspects the log:

    no log             the run never started                  -> nothing
    terminal segment   it ended                               -> free the place that its process may have left
    paused             nobody executes it, as was wished      -> as above: who resumes it begins another chain
    lease valid        it is alive                            -> inspect again when the lease may be over
    lease over         its process is dead                    -> ask for a process that goes on (execution.py), and
                                                                 inspect again
    not executed yet   its turn in the queue has not come     -> as above, ever more rarely
    queued             it waits for its turn                  -> ask for a process when that has come
    waits for a place  its account executes others     -> as above, ever more rarely, for as long as that is so
    over for long      no process could go on                 -> end it: RUN_ERROR OWNER_LOST, the thread is free

Messages may come late or twice: the log decides, by one conditional write.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import orjson

from karma.conversations.domain import ThreadKey
from karma.core.clock import Clock
from karma.core.errors import ValidationFailed
from karma.core.ids import RunId, UserId
from karma.core.observability import logger
from karma.runs.domain import ENGINE_SCHEMA, LEASE, NOT_EXECUTED, OwnershipLost, Run, RunKey, RunStatus, Segment
from karma.runs.ending import cancel_lost, end_lost
from karma.runs.holdings import free_place
from karma.runs.ports import Executions, Runs, Watchdog
from karma.runs.turns import MAX_QUEUED, QUEUE_EXPIRED_REASON, wait_of, wake_next
from karma.runs.wishes import MOVED_ON_REASON

FIRST_LOOK = LEASE + timedelta(seconds=15)
GIVE_UP_AFTER = timedelta(minutes=15)
"""Time after the end of a lease at which a run is ended that no process has gone on with."""
BEGIN_WITHIN = MAX_QUEUED + timedelta(hours=1)
"""Time within which a process must begin with a run that was stored without one; beyond, the run is ended."""
_MARGIN = timedelta(seconds=5)
_BEGUN_LOOKS = GIVE_UP_AFTER / 3
"""Longest time between two looks at a run that another process is to go on with: it may wait for a place."""
_UNREADABLE_FOR = timedelta(days=1)
"""Time for which a run of a newer release is looked at again: a release is under way, or was taken back."""
_MAX_DELAY_S = 900
"""Seconds by which SQS delays a message at the most."""
_FIRST_PUT_OFF_S = 15
"""Seconds after which a message comes again for the first time that was put back."""


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


class SharedQueue(Protocol):
    """The part of karma.integrations.sqs.SqsQueue that is used for what accounts share."""

    def send(self, body: str, *, delay_s: int, group: str) -> None:
        """Enqueue a body of an account, its group, that becomes visible after the delay."""
        ...


class QueuedExecutions:
    """Executions as messages of the queue of executions."""

    def __init__(self, queue: SharedQueue) -> None:
        self._queue = queue

    def request(self, key: RunKey) -> None:
        """Let a process take the run over, as `ports.Executions.request`."""
        self._queue.send(_message(key), delay_s=0, group=key.user_id)

    def wake(self, key: RunKey, waited_as: str) -> None:
        """Let a process execute a run that waited for a place, as `ports.Executions.wake`."""
        self._queue.send(_message(key, waited_as=waited_as), delay_s=0, group=key.user_id)


def put_back(queue: SharedQueue, body: str, user_id: UserId) -> None:
    """Let a message of the queue of short work come again, each time twice as late; it was not done."""
    message = orjson.loads(body)
    put_offs = message.get("put_offs", 0)
    again = orjson.dumps({**message, "put_offs": put_offs + 1}).decode()
    queue.send(again, delay_s=min(_MAX_DELAY_S, _FIRST_PUT_OFF_S << min(put_offs, 10)), group=user_id)


def send_on(queue: SharedQueue, body: str, user_id: UserId) -> None:
    """Send a message of the queue of executions on to another queue of them, where `was_sent_on` knows it."""
    queue.send(orjson.dumps({**orjson.loads(body), "sent_on": True}).decode(), delay_s=0, group=user_id)


def was_sent_on(body: str) -> bool:
    """Tell whether `send_on` has sent a message of the queue of executions."""
    return orjson.loads(body).get("sent_on") is True


def _message(key: RunKey, **more: int | str) -> str:
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


def read_waited_as(body: str) -> str:
    """Return the name under which the run of a message waited for a place; "": the message is no wake-up."""
    name = orjson.loads(body).get("waited_as", "")
    return name if isinstance(name, str) else ""


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
        now = self._clock.now()
        if tail is None or tail.terminal:
            if tail is not None and chain is not None:
                free_place(self._store, self._executions, tail, at=now)
            return None
        is_expired = tail.is_expired(now)
        run = self._store.run(key) if is_expired or chain is not None else None
        if run is not None and (run.status is RunStatus.PAUSED or chain not in {None, run.resumed_epoch}):
            if run.status is RunStatus.PAUSED and chain is not None:
                free_place(self._store, self._executions, tail, at=now)
            return None
        if run is not None and run.status is RunStatus.QUEUED:
            return self._look_at_waiting(run, tail, now)
        if not is_expired:
            return tail.lease_until - now + _MARGIN
        is_begun = tail.epoch != NOT_EXECUTED
        waited = now - tail.lease_until
        if run is not None and not is_begun:
            waited -= timedelta(
                milliseconds=run.paused_ms
            )  # in the queue of its thread, where no process was asked for
        if not self._is_lost(key, waited, now, within=GIVE_UP_AFTER if is_begun else BEGIN_WITHIN):
            self._executions.request(key)
            # A run that waits to begin stands in a queue that is long: requests for it must not make that longer.
            return max(LEASE + _MARGIN, min(waited / 4, _BEGUN_LOOKS) if is_begun else waited)
        if not self._end(tail, now):
            return LEASE + _MARGIN
        if run is not None:
            wake_next(self._store, self._executions, ThreadKey(key.user_id, run.thread_id))
        return None

    def _is_lost(self, key: RunKey, waited: timedelta, now: datetime, *, within: timedelta) -> bool:
        """Tell whether no process goes on with a run for too long, though its account had places for it."""
        if waited < within:
            return False
        refused_at = self._store.refused_at(key.user_id)
        return refused_at is None or now - refused_at >= within

    def _look_at_waiting(self, run: Run, tail: Segment, now: datetime) -> timedelta | None:
        wait = wait_of(self._store, run, now=now)
        if wait.held_until is not None and not run.schedule_id:
            # Whoever answers wakes it; it is looked at for what nobody tells of, such as that the question expired.
            return min(max(LEASE + _MARGIN, now - run.created_at), wait.held_until - now + _MARGIN)
        if now - wait.since < MAX_QUEUED:
            if wait.is_turn:
                self._executions.request(run.key)
            return LEASE + _MARGIN
        try:
            cancel_lost(self._store, tail, run, now, reason=QUEUE_EXPIRED_REASON)
        except OwnershipLost:
            return LEASE + _MARGIN  # its turn has come, or somebody has cancelled it
        return None

    def has_ended(self, key: RunKey) -> bool:
        """Tell whether a run has ended; one whose process is lost has not, and another process is asked for."""
        if self.look(key) is not None:
            return False
        run = self._store.run(key)
        return run is None or run.status is not RunStatus.PAUSED

    def is_over(self, key: RunKey, *, is_cancelled: bool = False) -> bool:
        """Tell whether a run is over, and end it if its process is lost: nobody waits for it any more.

        It ends as lost, or with `is_cancelled`, where another run is to take its place, as cancelled.
        """
        tail = self._store.tail(key)
        if tail is None or tail.terminal:
            return True
        now = self._clock.now()
        return tail.is_expired(now) and self._end(tail, now, is_moved_on=is_cancelled or tail.epoch == NOT_EXECUTED)

    def _end(self, tail: Segment, now: datetime, *, is_moved_on: bool = False) -> bool:
        run = self._store.run(tail.key)
        if run is None:
            return True
        if run.engine_schema > ENGINE_SCHEMA:
            logger.error("run.unreadable", run_id=tail.key.run_id, engine_schema=run.engine_schema)
            return now - tail.lease_until > _UNREADABLE_FOR
        try:
            if run.status is RunStatus.PAUSED or is_moved_on:
                cancel_lost(self._store, tail, run, now, reason=MOVED_ON_REASON)
            else:
                end_lost(self._store, tail, run, now)
        except OwnershipLost:
            return False  # its writer, or another process, wrote first
        free_place(self._store, self._executions, tail, at=now)
        return True


def attend(inspector: Inspector, watchdog: Watchdog, watch: Watch) -> None:
    """Inspect a run, and let it be inspected again if needed."""
    again_in = inspector.look(watch.key, chain=watch.chain)
    if again_in is not None:
        watchdog.arm(watch.key, delay=again_in, chain=watch.chain)

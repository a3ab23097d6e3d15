"""The sweep of schedules: sends the fires of the time ahead to the queue of fires, each to arrive when it is due.

Who has done a fire sends the next one of its schedule likewise, where that comes as soon: it may have been noted behind
the sweep that would have sent it. Where that process dies, or the queue refuses it, the next sweep does it.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final, Protocol

import orjson

from karma.core.clock import Clock, iso, parse_iso
from karma.core.errors import Upstream, ValidationFailed
from karma.core.ids import UserId, is_id
from karma.core.observability import count, logger
from karma.schedules.domain import Fired, FireKey, ScheduleId
from karma.schedules.ports import DueFire, Schedules

AHEAD: Final = timedelta(seconds=90)
"""Time for which a sweep looks ahead: a minute, until the next one, and half of one by which that may be late."""
LOOK_AGAIN: Final = timedelta(minutes=2)
"""Time after which a fire that is still waited for is sent again: its message, or its consumer, was lost."""
FIRES_A_SWEEP: Final = 500
"""Fires of each part of the index that a sweep sends at the most; the next one goes on with those due longest."""


class FireQueue(Protocol):
    """The queue of fires."""

    def send(self, body: str, *, delay_s: int = 0) -> None:
        """Enqueue one message, which arrives after `delay_s` seconds. Raises Upstream."""


def send_due(store: Schedules, queue: FireQueue, clock: Clock) -> int:
    """Send the fires that are due within `AHEAD`; return how many.

    One that cannot be sent is left for the next sweep. A fire may be sent twice: its consumer does it once.
    """
    from karma.core.sweeping import sweep_each  # local: those who do no sweep do without

    now = clock.now()

    def send(due: DueFire) -> int:
        return send_fire(store, queue, due, now=now)

    fires = store.due(now + AHEAD, limit=FIRES_A_SWEEP)
    return sweep_each("schedules", fires, send, name=lambda due: due.key.schedule_id, clock=clock)


def send_next(store: Schedules, queue: FireQueue, fired: Fired, *, now: datetime) -> bool:
    """Send the fire behind one that is over if it is due within `AHEAD`; False: it is not, or cannot be sent."""
    after = fired.applied()
    if after.next_fire_at is None or after.next_fire_at >= now + AHEAD:
        return False
    return send_fire(store, queue, DueFire(FireKey(after.user_id, after.id, after.next_fire_at)), now=now)


def send_fire(store: Schedules, queue: FireQueue, due: DueFire, *, now: datetime) -> bool:
    """Send a fire to arrive when it is due, and put it off for sweeps; False: it is left to the next one of these."""
    is_sent = False
    try:
        queue.send(fire_message(due.key), delay_s=_delay_s(due.key.due_at, now))
        is_sent = True
        store.put_off(due, until=max(now, due.key.due_at) + LOOK_AGAIN)
    except Upstream as exc:
        logger.warning("sweep.schedule_left", schedule_id=due.key.schedule_id, cause=type(exc).__name__)
        count("ScheduleSweepFailed")
    return is_sent


def _delay_s(due_at: datetime, now: datetime) -> int:
    return max(0, math.ceil((due_at - now).total_seconds()))


def fire_message(key: FireKey) -> str:
    """Write a fire as a message of the queue."""
    return orjson.dumps({"user_id": key.user_id, "schedule_id": key.schedule_id, "due_at": iso(key.due_at)}).decode()


def read_fire(body: str) -> FireKey:
    """Read a message that `fire_message` wrote.

    Raises:
        ValidationFailed: it is no such message.
    """
    try:
        given = orjson.loads(body)
        user_id, schedule_id, due_at = given["user_id"], given["schedule_id"], parse_iso(given["due_at"])
    except (ValueError, KeyError, TypeError) as exc:
        raise ValidationFailed.of("body", "must name a user, a schedule and a moment") from exc
    if not is_id(user_id) or not is_id(schedule_id):
        raise ValidationFailed.of("body", "must name a user and a schedule by their ids")
    return FireKey(UserId(user_id), ScheduleId(schedule_id), due_at)

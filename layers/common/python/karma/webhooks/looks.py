"""Messages that have a worker look at a lane, and the sweep that sends those that were lost or are due later."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final

from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.ids import UserId, is_id
from karma.core.observability import count, logger
from karma.webhooks.domain import DueLook, Lane, is_lane, webhook_of
from karma.webhooks.ports import Deliveries, LookQueue

MAX_DELAY: Final = timedelta(minutes=15)
"""SQS's limit; what is due later the sweep finds."""
GRACE: Final = timedelta(seconds=30)
"""Time for which the message that was sent may come before another one is."""
_POSTPONED: Final = timedelta(minutes=2)
_SWEEP_LIMIT: Final = 500


def look_message(user_id: UserId, lane: Lane) -> str:
    """Return the body of a message."""
    return f"{user_id} {lane}"


def read_look(body: str) -> tuple[UserId, Lane]:
    """Read what `look_message` wrote.

    Raises:
        ValueError: it is something else.
    """
    user_id, _, lane = body.partition(" ")
    if not (is_id(user_id) and is_lane(lane)):
        raise ValueError("names no webhook")
    return UserId(user_id), Lane(lane)


def send_look(queue: LookQueue, user_id: UserId, lane: Lane, *, at: datetime, now: datetime) -> None:
    """Have a worker look at a lane at a moment; a message that the queue does not take, the sweep sends."""
    delay = max(at - now, timedelta(0))
    if delay > MAX_DELAY:
        return
    try:
        queue.send(look_message(user_id, lane), delay_s=math.ceil(delay.total_seconds()))
    except Upstream as error:
        logger.warning("webhook.not_enqueued", webhook_id=webhook_of(lane), code=error.code)


def send_due_looks(store: Deliveries, queue: LookQueue, clock: Clock) -> int:
    """Enqueue lanes that were not looked at in time, up to 500, and return their number.

    The look moves before its message is sent: a crash in between delays it, and never sends many messages.
    """
    from karma.core.sweeping import sweep_each  # local: those who do no sweep do without

    now = clock.now()
    found: list[str] = []

    def move(look: DueLook) -> int:
        if store.postpone(look, until=now + _POSTPONED):
            found.append(look_message(look.user_id, look.lane))
        return 0

    due = store.to_look_at(now - GRACE, limit=_SWEEP_LIMIT)
    sweep_each("webhooks", due, move, name=lambda look: webhook_of(look.lane), clock=clock)
    queue.send_many(found)
    if found:
        count("WebhookLookSent", len(found))
    return len(found)

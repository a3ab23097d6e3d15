"""Wake-ups: delayed messages of the queue of device_ingest that have a device's queue of commands looked at later."""

from __future__ import annotations

import orjson

from karma.core.ids import DeviceId, UserId
from karma.core.records import Record
from karma.devices.ports import DelayedQueue


class WakeUp(Record):
    """A wake-up that was delivered."""

    id: str
    """Id of the delivery, reported back when it must come again."""
    user_id: UserId
    device_id: DeviceId
    again_ms: int = 0
    """Commands that were sent before this time and not acknowledged are sent again; 0: none."""
    repeated: bool = False
    """It was delivered before; that delivery may have died between a record and what it announced."""


class QueuedWakeUps:
    """Enqueues wake-ups in the ingest queue, to which only IoT's rules and our own functions may send."""

    def __init__(self, queue: DelayedQueue) -> None:
        self._queue = queue

    def leave(self, user_id: UserId, device_id: DeviceId, *, delay_s: int, again_ms: int = 0) -> None:
        """Enqueue a wake-up for `delay_s` seconds from now.

        Raises:
            QueueUnavailable: the queue does not answer; the wake-up may be enqueued.
        """
        body = {"wake_up": {"user_id": user_id, "device_id": device_id, "again_ms": again_ms}}
        self._queue.send(orjson.dumps(body).decode(), delay_s=delay_s)

"""Calls to look at a device's queue of commands later: delayed messages of the queue that device_ingest works off."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from karma.core.ids import DeviceId, UserId
from karma.devices.ports import DelayedQueue


@dataclass(frozen=True)
class WakeUp:
    """A call that has come."""

    id: str
    """Of the delivery; reported back when it must come again."""
    user_id: UserId
    device_id: DeviceId


class QueuedWakeUps:
    """Leaves calls in the ingest queue; only IoT's rules and our own functions may write there."""

    def __init__(self, queue: DelayedQueue) -> None:
        self._queue = queue

    def leave(self, user_id: UserId, device_id: DeviceId, *, delay_s: int) -> None:
        """Leave a call for `delay_s` seconds from now.

        Raises:
            QueueUnavailable: not known to be left.
        """
        body = {"wake_up": {"user_id": user_id, "device_id": device_id}}
        self._queue.send(orjson.dumps(body).decode(), delay_s=delay_s)

"""Messages that name a part of a bulk command, in the queue of device_ingest: hints, which may come twice or late."""

from __future__ import annotations

from typing import Any

import orjson

from karma.core.errors import Upstream
from karma.core.ids import BulkId, UserId, is_id
from karma.core.observability import count, logger
from karma.devices.bulk import BulkKey, PartKey
from karma.devices.ports import DelayedQueue


class QueuedBulkParts:
    """Enqueues parts in the ingest queue, to which only IoT's rules and our own functions may send."""

    def __init__(self, queue: DelayedQueue) -> None:
        self._queue = queue

    def leave(self, key: PartKey) -> bool:
        """Enqueue a part; return False when that failed: the sweep sends it again within minutes."""
        user_id, bulk_id = key.bulk
        body = {"bulk": {"user_id": user_id, "bulk_id": bulk_id, "part": key.number}}
        try:
            self._queue.send(orjson.dumps(body).decode())
        except Upstream as exc:
            logger.warning("bulk.part_left", bulk_id=bulk_id, cause=type(exc).__name__)
            count("BulkPartLeft")
            return False
        return True


def read_part(body: dict[str, Any]) -> PartKey:
    """Read what `leave` wrote below `bulk`.

    Raises:
        ValueError, KeyError, TypeError: the body is none of ours.
    """
    user_id, bulk_id, number = body["user_id"], body["bulk_id"], body["part"]
    if not (is_id(user_id) and is_id(bulk_id)):
        raise ValueError("user_id, bulk_id")
    if type(number) is not int or number < 0:
        raise TypeError("part")
    return PartKey(BulkKey(UserId(user_id), BulkId(bulk_id)), number)

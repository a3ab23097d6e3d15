"""Messages that could not be taken, kept for their device's owner for two weeks."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from karma.core.clock import from_epoch_ms, iso
from karma.core.dynamo.access import put, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import bind
from karma.core.ids import DeviceId
from karma.devices.domain import DEAD_LETTER_RETENTION_S
from karma.devices.repository.items import (
    DEAD_PREFIX,
    DeadLetterItem,
    DevicesItem,
    children_pk,
    dead_letter_key,
)

KEPT_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """One message; `payload` holds its first 4 KB."""

    id: str
    reason: str
    topic: str
    received_ms: int
    size: int
    payload: bytes

    def to_json(self) -> dict[str, Any]:
        """Return it for the API; the payload in base64, since it may be anything."""
        return {
            "id": self.id,
            "reason": self.reason,
            "topic": self.topic,
            "received_at": iso(from_epoch_ms(self.received_ms)),
            "size": self.size,
            "payload_base64": base64.b64encode(self.payload).decode(),
            "truncated": self.size > len(self.payload),
        }


class DeadLetterRepository:
    """Puts and reads of dead letters in one `devices` table."""

    def __init__(self, table_name: str) -> None:
        """Bind the table; no request is made."""
        bind(DevicesItem, table_name)

    def store(self, device_id: DeviceId, *, reason: str, topic: str, payload: bytes, received_ms: int) -> None:
        """Keep a message; the same message again changes nothing."""
        digest = hashlib.sha256(topic.encode() + b"\0" + payload).hexdigest()[:16]
        pk, sk = dead_letter_key(device_id, received_ms, digest)
        item = DeadLetterItem(
            pk,
            sk,
            reason=reason,
            topic=topic,
            received_ms=received_ms,
            size=len(payload),
            payload=payload[:KEPT_BYTES],
            expires_at=received_ms // 1000 + DEAD_LETTER_RETENTION_S,
        )
        try:
            put(item)
        except ConditionFailed:
            return

    def page(
        self, device_id: DeviceId, *, limit: int, after: str = "", now_s: float = 0
    ) -> tuple[list[DeadLetter], bool]:
        """Read a device's dead letters, newest first, and whether more follow; `after` is the last id seen."""
        start = {"pk": children_pk(device_id), "sk": f"{DEAD_PREFIX}{after}"} if after else None
        page = query(
            DeadLetterItem,
            children_pk(device_id),
            DeadLetterItem.sk.startswith(DEAD_PREFIX),
            limit=limit + 1,
            forward=False,
            start=start,
        )
        # TTL deletes late.
        alive = [item for item in page.items if (item.expires_at or 0) > now_s]
        return [_letter(item) for item in alive[:limit]], len(alive) > limit


def _letter(item: DeadLetterItem) -> DeadLetter:
    return DeadLetter(
        id=item.sk.removeprefix(DEAD_PREFIX),
        reason=item.reason,
        topic=item.topic,
        received_ms=int(item.received_ms),
        size=int(item.size),
        payload=item.payload,
    )

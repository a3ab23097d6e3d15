"""Dead letters: messages with parts that were refused, kept for the device's owner for two weeks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import cast

from karma.core.dynamo.access import get, put, query, upsert
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item
from karma.core.ids import DeviceId
from karma.core.records import Record
from karma.devices.domain import DEAD_LETTER_RETENTION_S
from karma.devices.payloads import Refused
from karma.devices.repository.hours import HOUR_S
from karma.devices.repository.items import (
    DEAD_PREFIX,
    DeadLetterItem,
    DeadPayloadItem,
    children_pk,
    dead_letter_key,
    dead_payload_key,
)

KEPT_BYTES = 4096
"""Bytes of a payload that are in the letter itself, which lists read; a longer one is also stored whole beside it."""
NAMED = 20
"""Largest number of refused parts that a letter names."""
TOO_MANY = Refused("", "TOO_MANY")
"""Refused part of the letter that counts the messages of an hour without a letter of their own."""
_SUM = "0" * 16
_ID = re.compile(r"([0-9]{13})-([0-9a-f]{16})")


class DeadLetter(Record, kw_only=True):
    """A message with refused parts; `payload` has its first 4 KB, or the whole when it was read by its id."""

    id: str
    refused: tuple[Refused, ...]
    """Refused parts, at most the first 20."""
    refused_count: int
    taken: bool
    """True: the rest of the message was stored."""
    topic: str
    received_ms: int
    size: int
    payload: bytes
    is_withheld: bool = False
    """True: the payload is empty, since it may tell of before the device was its owner's."""


class DeadLetterRepository:
    """Dead letters over DynamoDB, in the `devices` table."""

    def store(
        self,
        device_id: DeviceId,
        *,
        refused: Sequence[Refused],
        topic: str,
        payload: bytes,
        received_ms: int,
        taken: bool = False,
        is_withheld: bool = False,
    ) -> None:
        """Store a message with refused parts; the same message again changes nothing.

        The whole payload is written first, so that each letter that is read has it.
        """
        digest = hashlib.sha256(topic.encode() + b"\0" + payload).hexdigest()[:16]
        expires_at = received_ms // 1000 + DEAD_LETTER_RETENTION_S
        if len(payload) > KEPT_BYTES:
            pk, sk = dead_payload_key(device_id, received_ms, digest)
            _put_once(DeadPayloadItem(pk, sk, payload=payload, expires_at=expires_at))
        pk, sk = dead_letter_key(device_id, received_ms, digest)
        item = DeadLetterItem(
            pk,
            sk,
            reason=refused[0].reason,
            refused=[list(each) for each in refused[:NAMED]],
            refused_count=len(refused),
            taken=taken,
            topic=topic,
            received_ms=received_ms,
            size=len(payload),
            payload=payload[:KEPT_BYTES],
            is_withheld=is_withheld or None,
            expires_at=expires_at,
        )
        _put_once(item)

    def sum_up(self, device_id: DeviceId, *, hour: int, more: int) -> None:
        """Add to the one letter of an hour (counted from 1970) the number of its messages that have none of their own.

        It is listed before those: at the beginning of the hour. One write.
        """
        received_ms = hour * HOUR_S * 1_000
        item = DeadLetterItem
        upsert(
            item(*dead_letter_key(device_id, received_ms, _SUM)),
            [
                item.refused_count.add(more),
                item.reason.set(TOO_MANY.reason),
                item.refused.set([list(TOO_MANY)]),
                item.taken.set(False),
                item.topic.set(""),
                item.received_ms.set(received_ms),
                item.size.set(0),
                item.payload.set(b""),
                item.expires_at.set(received_ms // 1000 + DEAD_LETTER_RETENTION_S),
            ],
        )

    def get(self, device_id: DeviceId, letter_id: str, *, now_s: float = 0) -> DeadLetter | None:
        """Read one dead letter with its whole payload."""
        match = _ID.fullmatch(letter_id)
        if match is None:
            return None
        place = (device_id, int(match[1]), match[2])
        item = get(DeadLetterItem, dead_letter_key(*place))
        if item is None or (item.expires_at or 0) <= now_s:
            return None
        whole = get(DeadPayloadItem, dead_payload_key(*place)) if item.size > KEPT_BYTES else None
        return _letter(item, item.payload if whole is None else whole.payload)

    def page(
        self, device_id: DeviceId, *, limit: int, after: str = "", now_s: float = 0
    ) -> tuple[list[DeadLetter], bool]:
        """Read a device's dead letters, newest first, and whether more follow; `after` is the last id seen."""
        start = {"pk": children_pk(device_id), "sk": f"{DEAD_PREFIX}{after.replace('-', '#')}"} if after else None
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
        return [_letter(item, item.payload) for item in alive[:limit]], len(alive) > limit


def _put_once(item: Item) -> None:
    try:
        put(item)
    except ConditionFailed:
        return


def _letter(item: DeadLetterItem, payload: bytes) -> DeadLetter:
    # Letters of an earlier release name no field.
    refused = cast("list[list[str]]", item.refused or [["", item.reason]])
    return DeadLetter(
        id=item.sk.removeprefix(DEAD_PREFIX).replace("#", "-"),
        refused=tuple(Refused(*each) for each in refused),
        refused_count=int(item.refused_count),
        taken=item.taken,
        topic=item.topic,
        received_ms=int(item.received_ms),
        size=int(item.size),
        payload=payload,
        is_withheld=bool(item.is_withheld),
    )

"""Records of the objects that requests with an Idempotency-Key created; how a request comes here: karma.core.requests.

The record of a request is in the same partition as the object it created, or its owner's, and is written in the same
transaction: pk of the partition, sk `REQUEST#<token>`. A repeat within 25 hours finds it there, and creates nothing,
also after a crash that left the answer's record (karma.http.idempotency) unfinished.
"""

from __future__ import annotations

from pynamodb.attributes import UnicodeAttribute

from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.access import get
from karma.core.dynamo.items import Item, Key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists, AppError
from karma.core.requests import RETENTION, IdempotencyKeyReused, RepeatableRequest


class RequestAttributes:
    """Attributes of a record; mixed in: `class TaskRequestItem(RequestAttributes, TasksItem, discriminator="...")`."""

    made_id = UnicodeAttribute()
    request_hash = UnicodeAttribute(null=True)
    """Absent in records of before it was stored for every request: these are not compared."""


def request_key(pk: str, request: RepeatableRequest) -> Key:
    """Return the key of a request's record in a partition."""
    return Key(pk, f"REQUEST#{request.key.token}")


def note_request(
    tx: Transaction, record: Item, request: RepeatableRequest, made_id: str, *, repeated: AppError | None = None
) -> None:
    """Add the record of a request to its transaction, which fails when the request has one already.

    It fails with `repeated`, or else with AlreadyExists.
    """
    kind = type(record)
    assert issubclass(kind, RequestAttributes)  # noqa: S101  a wiring error, not an input
    now, asked_at = epoch_ms(request.asked_at) // 1000, iso(request.asked_at)
    tx.upsert(
        record,
        [
            kind.made_id.set(made_id),
            kind.request_hash.set(request.request_hash),
            kind.created_at.set(asked_at),
            kind.updated_at.set(asked_at),
            kind.expires_at.set(now + int(RETENTION.total_seconds())),
        ],
        # An expired record may still exist: TTL deletes late.
        kind.pk.does_not_exist() | (kind.expires_at <= now),
        on_fail=repeated or AlreadyExists("This request was carried out before"),
    )


def noted(kind: type[Item], key: Key, request: RepeatableRequest) -> str | None:
    """Read the id of the object that a request created: one Get, consistent; None: it created none within 25 hours.

    Raises:
        IdempotencyKeyReused: the request that created it asked for something else.
    """
    assert issubclass(kind, RequestAttributes)  # noqa: S101  a wiring error, not an input
    item = get(kind, key, consistent=True)
    if item is None or (item.expires_at or 0) <= epoch_ms(request.asked_at) // 1000:
        return None
    if item.request_hash and item.request_hash != request.request_hash:
        raise IdempotencyKeyReused
    return str(item.made_id)

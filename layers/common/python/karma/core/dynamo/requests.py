"""Records of the objects that repeatable requests created, for when a crash left the idempotency record unfinished.

The record of a request is in the same partition as the object it created, and is written in the same transaction: pk
of the partition, sk `REQUEST#<token>`. A repeat within a day finds it there, and creates nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from pynamodb.attributes import UnicodeAttribute

from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.items import Item, Key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError

KEPT: Final = timedelta(hours=24)
"""Life of a record, the same as that of idempotency records."""


class RequestAttributes:
    """Attributes of a record; mixed in: `class TaskRequestItem(RequestAttributes, TasksItem, discriminator="...")`."""

    made_id = UnicodeAttribute()


def request_key(pk: str, token: str) -> Key:
    """Return the key of a request's record in a partition."""
    return Key(pk, f"REQUEST#{token}")


def note_request(tx: Transaction, record: Item, made_id: str, *, at: datetime, repeated: AppError) -> None:
    """Add the record of a request to its transaction, which fails with `repeated` when the request has one already."""
    kind = type(record)
    assert issubclass(kind, RequestAttributes)  # noqa: S101  a wiring error, not an input
    now, made_at = epoch_ms(at) // 1000, iso(at)
    tx.upsert(
        record,
        [
            kind.made_id.set(made_id),
            kind.created_at.set(made_at),
            kind.updated_at.set(made_at),
            kind.expires_at.set(now + int(KEPT.total_seconds())),
        ],
        # An expired record may still exist: TTL deletes late.
        kind.pk.does_not_exist() | (kind.expires_at <= now),
        on_fail=repeated,
    )

"""What repeatable requests made: the second line behind a request's idempotency record, which a crash may leave open.

The record of a request stands beside what it made, in its partition, and is written in the same transaction: pk of the
partition, sk `REQUEST#<token>`. A repeat within the day finds it there, and makes nothing.
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
"""As long as idempotency records are."""


class RequestAttributes:
    """Mixed into a table's item: `class TaskRequestItem(RequestAttributes, TasksItem, discriminator="...")`."""

    made_id = UnicodeAttribute()


def request_key(pk: str, token: str) -> Key:
    """Key of what a request made in a partition."""
    return Key(pk, f"REQUEST#{token}")


def note_request(tx: Transaction, record: Item, made_id: str, *, at: datetime, repeated: AppError) -> None:
    """Let the transaction fail with `repeated` when the request made something before, else say what it makes."""
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
        # One that is over may still lie there: TTL deletes late.
        kind.pk.does_not_exist() | (kind.expires_at <= now),
        on_fail=repeated,
    )

"""Token buckets that all processes share: one item a bucket, one conditional update a decision.

| item | pk | sk |
| --- | --- | --- |
| bucket | LIMIT#<limit>#<first half of the key's SHA-256> | BUCKET |

An item holds the moment at which its bucket is full again. Taking a request sets a full bucket to now + interval and
moves another one by an interval; DynamoDB has no `max`, so these are two updates with conditions that exclude each
other. Which of them is tried first is a guess, by what this process saw of the bucket last: a caller who asks rarely
needs one call, and so does one who asks one process often, or who is refused, because the failed condition returns the
item. No update depends on an earlier read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import botocore.exceptions

from karma.core import aws
from karma.core.clock import epoch_ms
from karma.core.dynamo.failures import storage_errors
from karma.core.dynamo.tables import deployed
from karma.core.errors import StorageThrottled
from karma.core.faults import code_of
from karma.core.ratelimit import Decision, Limit, latest_ms
from karma.core.records import Record

_ATTEMPTS = 3
_MOST_SEEN = 1000
"""Buckets that a process remembers at the most."""


class _Update(Record):
    expression: str
    condition: str
    names: Mapping[str, str]
    texts: Mapping[str, Any]


_FULL_AT = {"#full": "full_at_ms"}
_NAMES = {**_FULL_AT, "#type": "type", "#schema": "schema", "#expires": "expires_at"}
_TYPE = {":type": {"S": "bucket"}}
_ITEM = "#type = :type, #schema = :one, #expires = :expires"
_FULL = _Update(f"SET #full = :now + :interval, {_ITEM}", "attribute_not_exists(#full) OR #full <= :now", _NAMES, _TYPE)
_USED = _Update(f"SET #full = #full + :interval, {_ITEM}", "#full > :now AND #full <= :latest", _NAMES, _TYPE)
_BACK = _Update("SET #full = #full - :interval", "#full > :now", _FULL_AT, {})


class DynamoBuckets:
    """Buckets in the identity table. The clock is the caller's, so decisions are off by as much as clocks differ."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        """Moment at which a bucket is full again, by partition key, as this process saw it last."""

    def take(self, limit: Limit, key: str, *, now: datetime) -> Decision:
        """Take one request out of the bucket of `key`, or say why not, as `Buckets.take` does.

        Raises:
            StorageThrottled, StorageUnavailable: DynamoDB did not answer; nothing was decided.
        """
        now_ms = epoch_ms(now)
        latest = latest_ms(limit, now_ms)
        values = {
            ":now": now_ms,
            ":interval": limit.interval_ms,
            ":one": 1,
            ":expires": (now_ms + limit.size_ms) // 1000 + 1,
        }
        orders: tuple[tuple[_Update, Mapping[str, int]], ...] = ((_FULL, {}), (_USED, {":latest": latest}))
        if self._seen.get(_pk(limit, key), 0) > now_ms:
            orders = orders[::-1]
        for _ in range(_ATTEMPTS):
            for update, more in orders:
                done, full_at_ms = self._update(limit, key, update, {**values, **more})
                if done:
                    return Decision.of(limit, full_at_ms=full_at_ms, now_ms=now_ms, allowed=True)
                if full_at_ms > latest:
                    return Decision.of(limit, full_at_ms=full_at_ms, now_ms=now_ms, allowed=False)
        raise StorageThrottled("The database is busy; try again")  # the item was deleted between the updates, each time

    def give_back(self, limit: Limit, key: str, *, now: datetime) -> None:
        """Put one request back, as `Buckets.give_back` does.

        Raises:
            StorageThrottled, StorageUnavailable: DynamoDB did not answer; the request may not be back.
        """
        self._update(limit, key, _BACK, {":now": epoch_ms(now), ":interval": limit.interval_ms})

    def _update(self, limit: Limit, key: str, update: _Update, values: Mapping[str, int]) -> tuple[bool, int]:
        """Return whether the update was made, and the moment at which the bucket is full, after or without it."""
        pk = _pk(limit, key)
        numbers: dict[str, Any] = {name: {"N": str(number)} for name, number in values.items()}
        with storage_errors():
            try:
                answer: Any = aws.client("dynamodb").update_item(
                    TableName=deployed("identity"),
                    Key={"pk": {"S": pk}, "sk": {"S": "BUCKET"}},
                    UpdateExpression=update.expression,
                    ConditionExpression=update.condition,
                    ExpressionAttributeNames=dict(update.names),
                    ExpressionAttributeValues={**numbers, **update.texts},
                    ReturnValues="UPDATED_NEW",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
            except botocore.exceptions.ClientError as exc:
                if code_of(exc) != "ConditionalCheckFailedException":
                    raise
                there: Any = exc.response.get("Item") or {}
                return False, self._note(pk, there)
        return True, self._note(pk, answer["Attributes"])

    def _note(self, pk: str, item: Mapping[str, Any]) -> int:
        full_at_ms = int(item["full_at_ms"]["N"]) if "full_at_ms" in item else 0
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[pk] = full_at_ms
        return full_at_ms


def _pk(limit: Limit, key: str) -> str:
    return f"LIMIT#{limit.name}#{hashlib.sha256(key.encode()).hexdigest()[:32]}"

"""Leases that all processes share: one item a holder, an attribute for each place, one conditional update to take one.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| leases | LEASES#<pool>#<first half of the holder's SHA-256> | LEASES | place_<n> = <until, 13 digits of ms>#<token> |

A place is free when its attribute is absent or its time is past; texts compare as times, since the time comes
first and has 13 digits until the year 2286. The first place is tried at random, so a holder of few leases needs one
call; a refused update returns the item, which shows the free places. No update depends on an earlier read: of two
processes that try one place, the condition refuses one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import botocore.exceptions

from karma.core import aws
from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.dynamo.failures import storage_errors
from karma.core.dynamo.tables import deployed
from karma.core.errors import StorageThrottled
from karma.core.ids import new_id
from karma.core.leases import Lease, Pool, PoolIsFull

_TAKE = "SET #place = :mine, #type = :type, #schema = :one, #expires = :expires"
_NAMES = {"#type": "type", "#schema": "schema", "#expires": "expires_at"}


class DynamoLeases:
    """Leases in the identity table. The clock is the caller's, so decisions are off by as much as clocks differ."""

    def take(self, pool: Pool, holder: str, *, now: datetime, until: datetime) -> Lease:
        """Lease a free place to a holder, who may be any text, for no longer than the pool allows.

        Raises:
            PoolIsFull: the holder has no free place.
            StorageThrottled, StorageUnavailable: DynamoDB did not answer; a lease that was made all the same expires.
        """
        until = min(until, now + pool.longest)
        token = new_id()
        values = {
            ":mine": {"S": f"{epoch_ms(until):013d}#{token}"},
            ":now": {"S": f"{epoch_ms(now):013d}"},
            ":type": {"S": "leases"},
            ":one": {"N": "1"},
            # Not this lease's own end: another, longer one stands in the same item.
            ":expires": {"N": str(epoch_ms(now + pool.longest) // 1000 + 1)},
        }
        condition = "attribute_not_exists(#place) OR #place < :now"
        free = list(range(pool.places))
        for _ in range(2 * pool.places):  # each refusal shows a place that another took meanwhile
            place = random.choice(free)  # noqa: S311  spreads callers, decides nothing
            done, item = self._update(pool, holder, place, _TAKE, condition, values, _NAMES)
            if done:
                return Lease(pool, holder, place, until, token)
            ends = [_end_ms(item, each) for each in range(pool.places)]
            free = [each for each, end_ms in enumerate(ends) if end_ms < epoch_ms(now)]
            if not free:
                raise PoolIsFull(from_epoch_ms(min(ends)))
        raise StorageThrottled("The database is busy; try again")

    def give_back(self, lease: Lease) -> None:
        """Free the place of a lease; one that has expired, or was given back before, stays as it is.

        Raises:
            StorageThrottled, StorageUnavailable: DynamoDB did not answer; the place may stay leased until it expires.
        """
        mine = {":mine": {"S": f"{epoch_ms(lease.until):013d}#{lease.token}"}}
        self._update(lease.pool, lease.holder, lease.place, "REMOVE #place", "#place = :mine", mine, {})

    def _update(
        self,
        pool: Pool,
        holder: str,
        place: int,
        expression: str,
        condition: str,
        values: Mapping[str, Any],
        names: Mapping[str, str],
    ) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the update was made, and, if it was not, the item as it is."""
        pk = f"LEASES#{pool.name}#{hashlib.sha256(holder.encode()).hexdigest()[:32]}"
        with storage_errors():
            try:
                aws.client("dynamodb").update_item(
                    TableName=deployed("identity"),
                    Key={"pk": {"S": pk}, "sk": {"S": "LEASES"}},
                    UpdateExpression=expression,
                    ConditionExpression=condition,
                    ExpressionAttributeNames={"#place": f"place_{place}", **names},
                    ExpressionAttributeValues=dict(values),
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
            except botocore.exceptions.ClientError as exc:
                if exc.response["Error"]["Code"] != "ConditionalCheckFailedException":
                    raise
                there: Any = exc.response
                return False, there.get("Item") or {}
        return True, {}


def _end_ms(item: Mapping[str, Any], place: int) -> int:
    """Return the moment at which a place's lease expires, in epoch milliseconds; 0 for a free place."""
    text: str = item.get(f"place_{place}", {}).get("S", "0")
    return int(text.partition("#")[0])

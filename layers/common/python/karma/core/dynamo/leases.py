"""Leases that all processes share: one item a holder, an attribute for each place, one conditional update to take one.

| item | pk | sk | attributes |
| --- | --- | --- | --- |
| leases | LEASES#<pool>#<first half of the holder's SHA-256> | LEASES | place_<n> = <until, 13 digits of ms>#<token> |
| | | | waiting = {<claimant>, ...}, refused_at: where claimants wait |

A place is free when its attribute is absent or its time is past; texts compare as times, since the time comes
first and has 13 digits until the year 2286. The first place is tried at random, so a holder of few leases needs one
call; a refused update returns the item, which shows the free places. No update depends on an earlier read: of two
processes that try one place, the condition refuses one. The text of a claimant's place names it and its term, so it
has one place, however many processes take it at once or one after the other.

Claimants that got no place are noted beside the places, in order of their names: whoever gives a place back, or passes
over a claimant that wants none any more, is told whose turn it is. A note may be left behind, or missing where too many
wait: it wakes, and decides nothing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import botocore.exceptions

from karma.core import aws
from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.dynamo.failures import storage_errors
from karma.core.dynamo.tables import deployed
from karma.core.errors import StorageThrottled
from karma.core.ids import new_id
from karma.core.leases import Claimant, Lease, Pool, PoolIsFull, claimant_of

_PLACE: Final = "place_"
_TAKE = "SET #place = :mine, #type = :type, #schema = :one, #expires = :expires"
_FREE = "(attribute_not_exists(#place) OR #place < :now)"
_NAMES = {"#type": "type", "#schema": "schema", "#expires": "expires_at"}
MOST_NOTED: Final = 50
"""Claimants of one holder that are noted as waiting: each makes every write of the holder's leases 50 bytes dearer."""


class DynamoLeases:
    """Leases in one table. The clock is the caller's, so decisions are off by as much as clocks differ."""

    def __init__(self, table: str = "identity") -> None:
        """Build it; `table` is the name of the table in `karma.core.dynamo.tables`."""
        self._table = table

    def take(
        self,
        pool: Pool,
        holder: str,
        *,
        now: datetime,
        until: datetime,
        claimant: Claimant | None = None,
    ) -> Lease:
        """Lease a free place to a holder, who may be any text, for no longer than the pool allows.

        A claimant is not noted as waiting any more, and has the place again that it has already. One of an earlier
        term than has it is given a lease that is over: it is late, and nothing is written.

        Args:
            pool: the kind of lease, and how many the holder may have.
            holder: who holds it.
            now: the caller's time.
            until: when the lease expires.
            claimant: who has it among the holder's.

        Raises:
            PoolIsFull: the holder has no free place.
            StorageThrottled, StorageUnavailable: DynamoDB did not answer; a lease that was made all the same expires.
        """
        until = min(until, now + pool.longest)
        token = claimant.token if claimant is not None else new_id()
        taking, condition = _TAKE, _FREE
        names, values = dict(_NAMES), {":mine": {"S": f"{epoch_ms(until):013d}#{token}"}, **_marks(pool, now)}
        known, compared = dict[str, str](), dict[str, Any]({":now": {"S": f"{epoch_ms(now):013d}"}})
        if claimant is not None:
            taking, names["#waiting"] = f"{_TAKE} DELETE #waiting :me", "waiting"
            values[":me"], compared[":name"] = {"SS": [claimant.name]}, {"S": f"#{claimant.name}#"}
            known = {f"#p{each}": f"{_PLACE}{each}" for each in range(max(pool.places, pool.widest))}
            condition = f"{_FREE} AND NOT ({' OR '.join(f'contains({each}, :name)' for each in known)})"
        free = list(range(pool.places))
        for _ in range(2 * pool.places):  # each refusal shows a place that another took meanwhile
            place, given = random.choice(free), {**values, **compared}  # noqa: S311  spreads callers, decides nothing
            done, item = self._update(pool, holder, taking, condition, given, {**names, **known}, place=place)
            # A request whose answer was lost is sent again by the SDK, and is refused by the place that it has taken.
            done = done or _text(item, place) == values[":mine"]["S"]
            own = None if done or claimant is None else _place_of(item, claimant)
            if own is not None and claimant is not None:
                place, term = own
                if term > claimant.term:
                    return Lease(pool, holder, place, now, token)
                before = _text(item, place)
                given = {**values, ":old": {"S": before}}
                done, item = self._update(pool, holder, taking, "#place = :old", given, names, place=place)
                if done or _text(item, place) == values[":mine"]["S"]:
                    return Lease(pool, holder, place, until, token, before)
                continue  # another process of the claimant's has taken it meanwhile, or given it back
            if done:
                return Lease(pool, holder, place, until, token)
            free = _free(item, pool, now)
            if not free:
                raise PoolIsFull(from_epoch_ms(min(_end_ms(item, each) for each in range(pool.places))))
        raise StorageThrottled("The database is busy; try again")

    def renew(self, lease: Lease, *, now: datetime, until: datetime) -> Lease:
        """Put off the end of a lease that is no claimant's; one whose place another has by now is taken anew.

        One that has expired is still its holder's until another takes its place.

        Raises:
            PoolIsFull: another has its place, and the holder has no free one.
            StorageThrottled, StorageUnavailable: as for `take`.
        """
        end = min(until, now + lease.pool.longest)
        values = {":mine": {"S": f"{epoch_ms(end):013d}#{lease.token}"}, **_marks(lease.pool, now)}
        values[":token"] = {"S": lease.token}
        mine = "contains(#place, :token)"
        done, _ = self._update(lease.pool, lease.holder, _TAKE, mine, values, _NAMES, place=lease.place)
        if done:
            return Lease(lease.pool, lease.holder, lease.place, end, lease.token)
        return self.take(lease.pool, lease.holder, now=now, until=until)

    def wait(self, pool: Pool, holder: str, claimant: Claimant, *, now: datetime) -> bool:
        """Note that a claimant got no place; return whether one has become free since, which it may take.

        Raises:
            StorageThrottled, StorageUnavailable: DynamoDB did not answer.
        """
        values = {":now": {"N": str(epoch_ms(now))}, **_marks(pool, now)}
        refused = "SET #refused = :now, #type = :type, #schema = :one, #expires = :expires"
        names = {**_NAMES, "#refused": "refused_at"}
        done, item = self._update(
            pool,
            holder,
            f"{refused} ADD #waiting :me",
            "attribute_not_exists(#waiting) OR size(#waiting) < :most OR contains(#waiting, :name)",
            {**values, ":me": {"SS": [claimant.name]}, ":name": {"S": claimant.name}, ":most": {"N": str(MOST_NOTED)}},
            {**names, "#waiting": "waiting"},
        )
        if not done:
            _, item = self._update(pool, holder, refused, "attribute_exists(pk)", values, names)
        return bool(_free(item, pool, now))

    def refused_at(self, pool: Pool, holder: str) -> datetime | None:
        """Return when a claimant of the holder was last noted to have got no place; None: not lately.

        Raises:
            StorageThrottled, StorageUnavailable: DynamoDB did not answer.
        """
        told = self._item(pool, holder).get("refused_at")
        return from_epoch_ms(int(told["N"])) if told else None

    def give_back(self, lease: Lease) -> None:
        """Free the place of a lease; one that has expired, or was given back before, stays as it is.

        Raises:
            StorageThrottled, StorageUnavailable: DynamoDB did not answer; the place may stay leased until it expires.
        """
        self._freed(lease)

    def put_back(self, lease: Lease) -> None:
        """Let the process of the same claimant that had a place before have it again; nothing where it was free.

        It stays as it is where another has it by now.

        Raises:
            StorageThrottled, StorageUnavailable: DynamoDB did not answer; the claimant still has the place.
        """
        if lease.before:
            values = {":mine": {"S": f"{epoch_ms(lease.until):013d}#{lease.token}"}, ":before": {"S": lease.before}}
            restored, place = "SET #place = :before", lease.place
            self._update(lease.pool, lease.holder, restored, "#place = :mine", values, {}, place=place)

    def hand_on(self, lease: Lease, *, now: datetime) -> list[str]:
        """Give a place back, and return the names of the claimants whose turn it is: one for each free place.

        Raises:
            StorageThrottled, StorageUnavailable: as for `give_back`.
        """
        done, item = self._freed(lease)
        return _next(item, lease.pool, now) if done else []

    def pass_over(self, pool: Pool, holder: str, name: str, *, now: datetime) -> list[str]:
        """Note no more that a claimant waits, and return the names of those whose turn it is instead.

        Raises:
            StorageThrottled, StorageUnavailable: DynamoDB did not answer.
        """
        values = {":me": {"SS": [name]}, ":name": {"S": name}}
        gone = "DELETE #waiting :me"
        done, item = self._update(pool, holder, gone, "contains(#waiting, :name)", values, {"#waiting": "waiting"})
        return _next(item, pool, now) if done or item else []

    def end(self, pool: Pool, holder: str, is_meant: Callable[[str], bool], *, now: datetime) -> list[str]:
        """Give back for processes that are gone the leases whose tokens are meant; return names as `hand_on` does.

        One that is given back, expired or taken over meanwhile stays as it is.

        Raises:
            StorageThrottled, StorageUnavailable: DynamoDB did not answer.
        """
        item, names = self._item(pool, holder), list[str]()
        for attribute, value in item.items():
            until, _, token = value.get("S", "").partition("#")
            if not attribute.startswith(_PLACE) or not is_meant(token):
                continue
            place = int(attribute.removeprefix(_PLACE))
            of = Pool(pool.name, max(pool.places, place + 1), pool.longest)
            names = self.hand_on(Lease(of, holder, place, from_epoch_ms(int(until)), token), now=now) or names
        return names

    def _freed(self, lease: Lease) -> tuple[bool, Mapping[str, Any]]:
        mine = f"{epoch_ms(lease.until):013d}#{lease.token}"
        done, item = self._removed(lease, mine)
        text = _text(item, lease.place)
        if not done and text.partition("#")[2] == lease.token:  # another process of the same claimant's has taken it
            done, item = self._removed(lease, text)
        return done, item

    def _removed(self, lease: Lease, text: str) -> tuple[bool, Mapping[str, Any]]:
        values, removed = {":mine": {"S": text}}, "REMOVE #place"
        return self._update(lease.pool, lease.holder, removed, "#place = :mine", values, {}, place=lease.place)

    def _item(self, pool: Pool, holder: str) -> Mapping[str, Any]:
        with storage_errors():
            found = aws.client("dynamodb").get_item(
                TableName=deployed(self._table), Key=_key(pool, holder), ConsistentRead=True
            )
        return found.get("Item") or {}

    def _update(
        self,
        pool: Pool,
        holder: str,
        expression: str,
        condition: str,
        values: Mapping[str, Any],
        names: Mapping[str, str],
        *,
        place: int | None = None,
    ) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the update was made, and the item as it is now."""
        with storage_errors():
            try:
                done = aws.client("dynamodb").update_item(
                    TableName=deployed(self._table),
                    Key=_key(pool, holder),
                    UpdateExpression=expression,
                    ConditionExpression=condition,
                    ExpressionAttributeNames={**names, **({} if place is None else {"#place": f"{_PLACE}{place}"})},
                    ExpressionAttributeValues=dict(values),
                    ReturnValues="ALL_NEW",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
            except botocore.exceptions.ClientError as exc:
                if exc.response["Error"]["Code"] != "ConditionalCheckFailedException":
                    raise
                there: Any = exc.response
                return False, there.get("Item") or {}
        return True, done.get("Attributes") or {}


def _key(pool: Pool, holder: str) -> dict[str, Any]:
    pk = f"LEASES#{pool.name}#{hashlib.sha256(holder.encode()).hexdigest()[:32]}"
    return {"pk": {"S": pk}, "sk": {"S": "LEASES"}}


def _marks(pool: Pool, now: datetime) -> dict[str, Any]:
    """Return the values of each item; it ends not with one lease of it, since another, longer one stands in it."""
    end = {"N": str(epoch_ms(now + pool.longest) // 1000 + 1)}
    return {":type": {"S": "leases"}, ":one": {"N": "1"}, ":expires": end}


def _free(item: Mapping[str, Any], pool: Pool, now: datetime) -> list[int]:
    return [each for each in range(pool.places) if _end_ms(item, each) < epoch_ms(now)]


def _next(item: Mapping[str, Any], pool: Pool, now: datetime) -> list[str]:
    waiting: list[str] = item.get("waiting", {}).get("SS", [])
    return sorted(waiting)[: len(_free(item, pool, now))]


def _end_ms(item: Mapping[str, Any], place: int) -> int:
    """Return the moment at which a place's lease expires, in epoch milliseconds; 0 for a free place."""
    return int(_text(item, place).partition("#")[0] or 0)


def _text(item: Mapping[str, Any], place: int) -> str:
    text: str = item.get(f"{_PLACE}{place}", {}).get("S", "")
    return text


def _place_of(item: Mapping[str, Any], claimant: Claimant) -> tuple[int, int] | None:
    """Return the place that a claimant has, and in which of its terms."""
    for attribute, value in item.items():
        found = claimant_of(value.get("S", "").partition("#")[2]) if attribute.startswith(_PLACE) else None
        if found is not None and found.name == claimant.name:
            return int(attribute.removeprefix(_PLACE)), found.term
    return None

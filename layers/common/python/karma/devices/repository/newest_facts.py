"""Merges what a device said into its newest facts.

The item has two parts: `facts`, written whole under the version that was read, and beside them `fresh`, the newest
values since then. Plain telemetry goes into `fresh` by one conditional update without a read: it is later than all that
was heard, and newer than what `fresh` has of its metrics. Whatever else comes (a repeat, a late sample, an address, a
state of alarms) is merged with both, and written as `facts`. Who reads merges both, so it is the same wherever a value
stands.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import botocore.exceptions
import orjson

from karma.core import aws
from karma.core.clock import iso
from karma.core.dynamo.access import get, put
from karma.core.dynamo.failures import ConditionFailed, storage_errors
from karma.core.dynamo.items import Item, Key
from karma.core.dynamo.tables import deployed
from karma.core.dynamo.transaction import Transaction
from karma.core.faults import code_of
from karma.devices.domain import Latest, Reading
from karma.devices.ports import Stepped, Watch
from karma.devices.repository.device_mapping import latest_from, latest_json
from karma.devices.repository.items import LatestItem

_MAX_AT_ONCE: Final = 12
"""Metrics of messages that are updated without a read; more would make the item, and so each write, a unit larger."""
_MAX_FRESH: Final = 12
"""Metrics in `fresh` beyond which it is written into `facts`."""
_LATE_MS: Final = 60_000
"""Age of a sample beyond which a newer one is probably there: the update would fail, and cost what it costs."""


def merge_latest(key: Key, said: Latest, *, now: datetime, watch: Watch | None, tries: int) -> bool:
    """Merge facts into a device's newest; return False where the device is deleted.

    Raises:
        ConditionFailed: another write was quicker at each of `tries` attempts.
    """
    known: LatestItem | None = None
    if watch is None and _is_plain(said):
        done, known = _freshen(key, said, now)
        if done:
            return True
    for left in reversed(range(tries)):
        item, known = known or get(LatestItem, key, consistent=True), None
        if item is None:
            return False
        old, beside = latest_from(item), item.beside or {}
        new = old.merge(said)
        stepped = watch.step(beside, old, now=now) if watch is not None else Stepped(beside)
        if new == old and stepped.beside == beside:
            return True
        item.facts, item.beside = latest_json(new), stepped.beside or None
        item.fresh, item.seen_ms = {}, new.last_seen_ms
        item.updated_at = iso(now)
        try:
            _put_with(item, stepped)
        except ConditionFailed:
            if not left:
                raise
            continue
        return merge_latest(key, said, now=now, watch=watch, tries=tries) if stepped.more else True
    return False


def _is_plain(said: Latest) -> bool:
    """Tell whether a message has nothing but values, few of them, which are probably the newest."""
    readings = said.readings
    return (
        said == Latest(readings=readings, last_seen_ms=said.last_seen_ms)
        and len(readings) <= _MAX_AT_ONCE
        and all(each.ts >= said.last_seen_ms - _LATE_MS for each in readings.values())
    )


def _freshen(key: Key, said: Latest, now: datetime) -> tuple[bool, LatestItem | None]:
    """Update the item unless it knows of something later; return whether it was, and what is there instead."""
    names = {"#fresh": "fresh", "#seen": "seen_ms", "#version": "version", "#updated": "updated_at"}
    values: dict[str, Any] = {
        ":seen": {"N": str(said.last_seen_ms)},
        ":one": {"N": "1"},
        ":updated": {"S": iso(now)},
        ":most": {"N": str(_MAX_FRESH)},
    }
    sets = ["#seen = :seen", "#version = #version + :one", "#updated = :updated"]
    conditions = ["#seen < :seen", "size(#fresh) <= :most"]
    for number, (name, reading) in enumerate(said.readings.items()):
        metric, value, ts = f"#m{number}", f":v{number}", f":t{number}"
        names[metric] = name
        values[value], values[ts] = _stored(reading), {"N": str(reading.ts)}
        sets.append(f"#fresh.{metric} = {value}")
        conditions.append(f"(attribute_not_exists(#fresh.{metric}) OR #fresh.{metric}[1] < {ts})")
    with storage_errors():
        try:
            aws.client("dynamodb").update_item(
                TableName=deployed(LatestItem.Meta.logical),
                Key={"pk": {"S": key.pk}, "sk": {"S": key.sk}},
                UpdateExpression="SET " + ", ".join(sets),
                ConditionExpression=" AND ".join(conditions),
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except botocore.exceptions.ClientError as exc:
            if code_of(exc) != "ConditionalCheckFailedException":
                raise
            there: Any = exc.response.get("Item")
            found = Item.from_raw_data(dict(there)) if there else None
            return False, found if isinstance(found, LatestItem) else None
    return True, None


def _stored(reading: Reading) -> dict[str, Any]:
    # As text: a number of DynamoDB ends at 10^126, and would not tell 21 from 21.0.
    return {"L": [{"S": orjson.dumps(reading.value).decode()}, {"N": str(reading.ts)}]}


def _put_with(item: LatestItem, stepped: Stepped) -> None:
    if stepped.join is None:
        put(item)
        return
    tx = Transaction()
    tx.put(item)
    stepped.join(tx)
    tx.commit()

"""Merges what a device said into its newest facts.

The item has two parts: `facts`, written whole under the version that was read, and beside them `fresh`, the newest
values since then. Plain telemetry goes into `fresh` by one conditional update without a read: it is later than all that
was heard, and newer than what `fresh` has of its metrics. Whatever else comes (a repeat, a late sample, an address, a
state of alarms) is merged with both, and written as `facts`. Who reads merges both, so it is the same wherever a value
stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from karma.core.clock import iso
from karma.core.dynamo.access import get, put
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.statements import Statement, WriteOutcome, quoted, table_name, write_each, write_one
from karma.core.dynamo.transaction import Transaction
from karma.devices.domain import Latest, Reading
from karma.devices.ports import Stepped, Watch
from karma.devices.repository.device_mapping import latest_from, latest_json
from karma.devices.repository.items import LatestItem

_MAX_AT_ONCE: Final = 12
"""Metrics of messages that are updated without a read; more would make the item, and so each write, a unit larger.

Their names, thrice each, fit into a statement.
"""
_MAX_FRESH: Final = 12
"""Metrics in `fresh` beyond which it is written into `facts`."""
_LATE_MS: Final = 60_000
"""Age of a sample beyond which a newer one is probably there: the update would fail, and cost what it costs."""


def freshen_each(facts: Sequence[tuple[Key, Latest]], *, now: datetime) -> list[bool]:
    """Write those facts that are values alone, later than all that is known, in one call for every 25.

    False says of the others no more than that `merge_latest` is to merge them.
    """
    done = [False] * len(facts)
    plain = [place for place, (_, said) in enumerate(facts) if is_plain(said)]
    written = write_each([_freshening(*facts[place], now) for place in plain])
    for place, outcome in zip(plain, written, strict=True):
        done[place] = outcome is WriteOutcome.DONE
    return done


def merge_latest(
    key: Key, said: Latest, *, now: datetime, watch: Watch | None, tries: int, is_tried: bool = False
) -> bool:
    """Merge facts into a device's newest; return False where the device is deleted.

    Args:
        key: key of the device's item.
        said: facts of its messages.
        now: time of the write.
        watch: steps what is kept beside them.
        tries: times that it is tried anew when another write was quicker.
        is_tried: `freshen_each` has not written them.

    Raises:
        ConditionFailed: another write was quicker at each of `tries` attempts.
    """
    known: LatestItem | None = None
    if watch is None and not is_tried and is_plain(said):
        is_done, there = write_one(_freshening(key, said, now))
        if is_done:
            return True
        known = there if isinstance(there, LatestItem) else None
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


def is_plain(said: Latest) -> bool:
    """Tell whether a message has nothing but values, few of them, which are probably the newest."""
    readings = said.readings
    return (
        said == Latest(readings=readings, last_seen_ms=said.last_seen_ms)
        and len(readings) <= _MAX_AT_ONCE
        and all(each.ts >= said.last_seen_ms - _LATE_MS for each in readings.values())
    )


def _freshening(key: Key, said: Latest, now: datetime) -> Statement:
    """Return the update of an item that takes effect unless the item knows of something later."""
    seen = {"N": str(said.last_seen_ms)}
    sets = ['"seen_ms" = ?', '"version" = "version" + 1', '"updated_at" = ?']
    conditions = ['"pk" = ?', '"sk" = ?', '"seen_ms" < ?', 'size("fresh") <= ?']
    values: list[dict[str, Any]] = [seen, {"S": iso(now)}]
    required: list[dict[str, Any]] = [{"S": key.pk}, {"S": key.sk}, seen, {"N": str(_MAX_FRESH)}]
    for name, reading in said.readings.items():
        place = f'"fresh".{quoted(name)}'
        sets.append(f"{place} = ?")
        values.append(_stored(reading))
        # Without OR, among which the local engine does not find the key.
        conditions.append(f"NOT ({place} IS NOT MISSING AND {place}[1] >= ?)")
        required.append({"N": str(reading.ts)})
    text = f"UPDATE {table_name(LatestItem)} SET {' SET '.join(sets)} WHERE {' AND '.join(conditions)}"  # noqa: S608
    return Statement(text, [*values, *required])


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

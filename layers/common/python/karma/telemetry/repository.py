"""Rollups in the table `telemetry`; items.py has the keys, docs/adr/0060 the access patterns."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

import orjson
from pynamodb.expressions.update import Action

from karma.core.clock import iso
from karma.core.dynamo.access import delete, get, put, query, update, upsert
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.partitions import pages
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import query_work
from karma.core.errors import Conflict
from karma.core.ids import DeviceId, new_id
from karma.telemetry.domain import HOUR_MS, MAX_METRICS, MINUTE_MS, Level, Period, Rollup, Statistics
from karma.telemetry.items import (
    DIRECTORY,
    DIRTY_PREFIX,
    KEPT,
    DirectoryItem,
    DirtyItem,
    RollupItem,
    RollupsItem,
    device_pk,
    directory_key,
    dirty_key,
    due_partition,
    rollup_key,
    rollup_sk,
    shard_of,
)
from karma.telemetry.ports import DeviceClosed, DirtyPeriod, MetricDirectory, PeriodChanged
from karma.telemetry.sketch import Sketch

_METRICS_A_TRANSACTION: Final = 90
_NAMED: Final = 500
_PAGE: Final = 1_000
_TRIES: Final = 20
_PART_MS: Final = {Level.HOUR: MINUTE_MS, Level.DAY: HOUR_MS}
"""Length of a row of a rollup, in milliseconds."""


class _Closed(Conflict):
    """A condition of a transaction was false: the directory is closed."""


class RollupRepository:
    """Rollups over DynamoDB."""

    def mark(self, period: Period, *, due: datetime) -> None:
        """See Rollups; one Update, which is harmless to repeat."""
        upsert(DirtyItem(*dirty_key(period)), _marking(period, due))

    def dirty(self, period: Period) -> DirtyPeriod | None:
        """See Rollups; one Get."""
        item = get(DirtyItem, dirty_key(period), consistent=True)
        return None if item is None else _dirty(item)

    def due(self, shard: int, *, before: datetime, limit: int) -> Sequence[DirtyPeriod]:
        """See Rollups; one Query."""
        return query_work(DirtyItem, due_partition(shard), DirtyItem.gsi1sk < iso(before), _dirty, limit=limit).items

    def put_off(self, dirty: DirtyPeriod, *, until: datetime) -> None:
        """See Rollups; one Update."""
        with contextlib.suppress(ConditionFailed):
            update(
                DirtyItem(*dirty_key(dirty.period)),
                [DirtyItem.gsi1sk.set(_due_sk(dirty.period, until))],
                DirtyItem.token == dirty.token,
            )

    def directory(self, device_id: DeviceId, *, consistent: bool = False) -> MetricDirectory:
        """See Rollups."""
        within = RollupsItem.sk.between(DIRECTORY, f"{DIRTY_PREFIX}~")
        found = query(RollupsItem, device_pk(device_id), within, limit=_NAMED, consistent=consistent).items
        dirty = frozenset(_dirty(item).period for item in found if isinstance(item, DirtyItem))
        head = next((item for item in found if isinstance(item, DirectoryItem)), None)
        if head is None:
            return MetricDirectory(dirty=dirty)
        return MetricDirectory(tuple(str(name) for name in head.metrics), head.closed, dirty)

    def numbers(self, device_id: DeviceId, metrics: Collection[str]) -> Mapping[str, int]:
        """See Rollups; one Get, and where a metric is new one Put, again while somebody else was quicker."""
        for _ in range(_TRIES):
            item = get(DirectoryItem, directory_key(device_id), consistent=True)
            if item is None:
                item = DirectoryItem(*directory_key(device_id), metrics=[])
            if item.closed:
                raise DeviceClosed
            known: list[str] = list(item.metrics)
            new = sorted(set(metrics).difference(known))[: MAX_METRICS - len(known)]
            if new:
                item.metrics = [*known, *new]
                try:
                    put(item)
                except ConditionFailed:
                    continue
            return {name: number for number, name in enumerate([*known, *new]) if name in metrics}
        raise PeriodChanged

    def replace(self, dirty: DirtyPeriod, rollups: Mapping[int, Rollup], *, parent_due: datetime | None = None) -> None:
        """See Rollups; a transaction of the rollups and three items."""
        every = list(rollups.items())
        parts = [every[at : at + _METRICS_A_TRANSACTION] for at in range(0, len(every), _METRICS_A_TRANSACTION)]
        for part in parts[:-1]:
            tx = Transaction()
            tx.check(DirtyItem, dirty_key(dirty.period), DirtyItem.token == dirty.token)
            _write(tx, dirty.period, part)
            _commit(tx)
        tx = Transaction()
        tx.delete(DirtyItem(*dirty_key(dirty.period)), DirtyItem.token == dirty.token)
        if parts:
            _write(tx, dirty.period, parts[-1])
            if parent_due is not None:
                parent = _parent(dirty.period)
                tx.upsert(DirtyItem(*dirty_key(parent)), _marking(parent, parent_due))
        _commit(tx)

    def read(
        self, device_id: DeviceId, level: Level, metric: int, *, first: int, last: int, consistent: bool = False
    ) -> list[tuple[int, Rollup]]:
        """See Rollups."""
        found: list[tuple[int, Rollup]] = []
        within = RollupItem.sk.between(rollup_sk(level, metric, first), rollup_sk(level, metric, last))
        start = None
        while True:
            page = query(RollupItem, device_pk(device_id), within, limit=_PAGE, start=start, consistent=consistent)
            found += [_rollup(level, item) for item in page.items]
            start = page.last
            if start is None:
                return found

    def close(self, device_id: DeviceId, *, forget_at: datetime) -> None:
        """Close the directory of a deleted device; it is forgotten when no worker can know of the device any more."""
        upsert(
            DirectoryItem(*directory_key(device_id)),
            [
                DirectoryItem.closed.set(True),
                DirectoryItem.metrics.set([]),
                DirectoryItem.expires_at.set(int(forget_at.timestamp())),
            ],
        )

    def remove(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` items of a closed device but its directory; return how many: fewer if none is left."""
        removed = 0
        for keys in pages(RollupsItem, device_pk(device_id)):
            for key in keys:
                if removed == limit:
                    return removed
                if key.sk != DIRECTORY:
                    delete(RollupsItem(*key))
                    removed += 1
        return removed


def _parent(period: Period) -> Period:
    """Return what is to be made behind an hour, or a day."""
    if period.level is Level.HOUR:
        return Period(period.device_id, Level.DAY, period.number // 24)
    return Period(period.device_id, Level.ARCHIVE, period.number)


def _marking(period: Period, due: datetime) -> list[Action]:
    return [
        DirtyItem.device_id.set(period.device_id),
        DirtyItem.level.set(period.level.value),
        DirtyItem.number.set(period.number),
        DirtyItem.token.set(new_id()),
        DirtyItem.gsi1pk.set(due_partition(shard_of(period.device_id))),
        DirtyItem.gsi1sk.set(_due_sk(period, due)),
    ]


def _due_sk(period: Period, due: datetime) -> str:
    return f"{iso(due)}#{period.device_id}#{period.level}#{period.number}"


def _write(tx: Transaction, period: Period, rollups: Collection[tuple[int, Rollup]]) -> None:
    is_open = DirectoryItem.closed == False  # noqa: E712  an expression of DynamoDB's
    tx.check(DirectoryItem, directory_key(period.device_id), is_open, on_fail=_Closed("The device is deleted"))
    expires = period.end_ms // 1000 + int(KEPT[period.level].total_seconds())
    for metric, rollup in rollups:
        rows = [((row.ts - period.begin_ms) // _PART_MS[period.level], *row[1:]) for row in rollup.rows]
        # Unconditional by itself: the transaction's mark says that nothing newer was written.
        tx.upsert(
            RollupItem(*rollup_key(period, metric)),
            [
                RollupItem.rows.set(orjson.dumps(rows)),
                RollupItem.sketch.set(orjson.dumps(rollup.sketch.stored())),
                RollupItem.expires_at.set(expires),
            ],
        )


def _commit(tx: Transaction) -> None:
    try:
        tx.commit()
    except _Closed as exc:
        raise DeviceClosed from exc
    except ConditionFailed as exc:
        raise PeriodChanged from exc


def _dirty(item: DirtyItem) -> DirtyPeriod:
    return DirtyPeriod(Period(DeviceId(item.device_id), Level(item.level), int(item.number)), item.token)


def _rollup(level: Level, item: RollupItem) -> tuple[int, Rollup]:
    number = int(item.sk[-7:])
    period = Period(DeviceId(""), level, number)
    rows = tuple(
        Statistics(period.begin_ms + place * _PART_MS[level], *values) for place, *values in orjson.loads(item.rows)
    )
    return number, Rollup(rows, Sketch.read(orjson.loads(item.sketch)))

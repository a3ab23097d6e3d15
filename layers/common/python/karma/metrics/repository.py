"""Store of figures in the table `agents`; items.py has the access patterns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from datetime import datetime, timedelta

from pynamodb.expressions.update import Action

from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.access import batch_get, get, query
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.transaction import Transaction
from karma.core.purge import PurgeAttempt
from karma.identity.transactional import require_account
from karma.metrics.domain import BUCKETS_S, KEPT, Figures, Series, Stage, Totals
from karma.metrics.items import (
    MARK_KEPT,
    TOTAL_KEY,
    MetricHourItem,
    MetricsItem,
    MetricTotalItem,
    RunMarkItem,
    cell_key,
    mark_key,
    owned_pk,
    parse_hour,
    series_key,
)
from karma.metrics.ports import Count, MarksChanged
from karma.runs.domain import RunKey

_SUMS = tuple(each.name for each in fields(Figures) if each.name != "buckets")
_MOST = timedelta(milliseconds=1)


class MetricRepository:
    """Figures over DynamoDB."""

    name = "metrics"

    def marks(self, keys: Collection[RunKey]) -> Mapping[RunKey, Stage]:
        """See MetricStore; one BatchGet a hundred of them."""
        by_key = {mark_key(key): key for key in keys}
        found = batch_get(RunMarkItem, list(by_key), consistent=True)
        return {by_key[key]: Stage(item.stage) for key, item in found.items()}

    def count(self, count: Count) -> None:
        """See MetricStore; one transaction."""
        tx = Transaction()
        changed, now = MarksChanged(""), iso(count.at)
        kept_until = _epoch_s(count.at + MARK_KEPT)
        for move in count.moves:
            item = RunMarkItem(*mark_key(move.key), stage=move.to.value, created_at=now, expires_at=kept_until)
            if move.was is None:
                tx.put(item, on_fail=changed)
            else:
                actions: list[Action] = [
                    RunMarkItem.stage.set(move.to.value),
                    RunMarkItem.expires_at.set(kept_until),
                ]
                named = RunMarkItem(*mark_key(move.key))
                tx.update(named, actions, RunMarkItem.stage == move.was.value, on_fail=changed)
        for owner in count.owners:
            require_account(tx, owner)
        for cell, figures in count.cells.items():
            ends = MetricHourItem.expires_at.set(_epoch_s(cell.hour + KEPT))
            tx.upsert(MetricHourItem(*cell_key(cell)), [*_added(MetricHourItem, figures), ends])
        sums = _added(MetricTotalItem, count.totals.ended)
        if count.totals.active:
            sums.append(MetricTotalItem.active.add(count.totals.active))
        if sums:
            tx.upsert(MetricTotalItem(*TOTAL_KEY), sums)
        tx.commit()

    def hours(self, series: Series, start: datetime, end: datetime) -> list[tuple[datetime, Figures]]:
        """See MetricStore; one Query a megabyte, which is some 3,000 hours."""
        key, until = series_key(series, iso(start)), series_key(series, iso(end - _MOST))
        found: list[tuple[datetime, Figures]] = []
        after: dict[str, str] | None = None
        while True:
            within = MetricsItem.sk.between(key.sk, until.sk)
            page = query(MetricsItem, key.pk, within, limit=2_500, start=after)
            found += [(parse_hour(item.sk), _figures(item)) for item in page.items if isinstance(item, MetricHourItem)]
            after = page.last
            if after is None:
                return found

    def totals(self) -> Totals:
        """See MetricStore; one Get."""
        item = get(MetricTotalItem, TOTAL_KEY)
        return Totals() if item is None else Totals(active=int(item.active), ended=_figures(item))

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Delete an account's figures; those of all accounts name nobody, and stay."""
        return empty(MetricsItem, owned_pk(purge.user_id), purge)


def _epoch_s(moment: datetime) -> int:
    return epoch_ms(moment) // 1000


def _added(kind: type[MetricHourItem | MetricTotalItem], figures: Figures) -> list[Action]:
    sums = {name: getattr(figures, name) for name in _SUMS}
    sums |= {f"bucket_{n}": found for n, found in enumerate(figures.buckets)}
    return [getattr(kind, name).add(value) for name, value in sums.items() if value]


def _figures(item: MetricHourItem | MetricTotalItem) -> Figures:
    sums = {name: int(getattr(item, name)) for name in _SUMS}
    return Figures(**sums, buckets=tuple(int(getattr(item, f"bucket_{n}")) for n in range(len(BUCKETS_S) + 1)))

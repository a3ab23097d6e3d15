"""Notes of archived days in the table `telemetry`; items.py has the keys, docs/adr/0060 the access patterns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from karma.core.dynamo.access import query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import Conflict
from karma.core.ids import DeviceId
from karma.telemetry.archives import ArchivedDay, PackedHour
from karma.telemetry.archiving import expires_s
from karma.telemetry.items import (
    ArchivedItem,
    DirectoryItem,
    DirtyItem,
    archived_key,
    archived_sk,
    device_pk,
    directory_key,
    dirty_key,
)
from karma.telemetry.ports import DeviceClosed, DirtyPeriod, MetricDirectory, PeriodChanged
from karma.telemetry.repository import RollupRepository

_PAGE: Final = 1_000


class _Closed(Conflict):
    """A condition of a transaction was false: the directory is closed."""


class ArchiveRepository:
    """Notes of archived days over DynamoDB."""

    def find(self, device_id: DeviceId, *, first: int, last: int, consistent: bool = False) -> Sequence[ArchivedDay]:
        """See Archives; one Query, a month is 30 KB at the most."""
        within = ArchivedItem.sk.between(archived_sk(first), archived_sk(last))
        found: list[ArchivedDay] = []
        start = None
        while True:
            page = query(ArchivedItem, device_pk(device_id), within, limit=_PAGE, start=start, consistent=consistent)
            found += [_day(device_id, item) for item in page.items]
            start = page.last
            if start is None:
                return found

    def directory(self, device_id: DeviceId) -> MetricDirectory:
        """See ArchiveNotes; one Query."""
        return RollupRepository().directory(device_id, consistent=True)

    def note(self, dirty: DirtyPeriod, day: ArchivedDay | None) -> None:
        """See ArchiveNotes; a transaction of up to three items."""
        tx = Transaction()
        key = directory_key(dirty.period.device_id)
        is_open = DirectoryItem.closed == False  # noqa: E712  an expression of DynamoDB's
        tx.check(DirectoryItem, key, is_open, on_fail=_Closed("The device is deleted"))
        tx.delete(DirtyItem(*dirty_key(dirty.period)), DirtyItem.token == dirty.token)
        if day is not None:
            # Unconditional by itself: the transaction's mark says that nothing newer was written.
            tx.upsert(
                ArchivedItem(*archived_key(day.device_id, day.number)),
                [
                    ArchivedItem.name.set(day.name),
                    ArchivedItem.hours.set([list(each) for each in day.hours]),
                    ArchivedItem.kept_days.set(day.kept_days),
                    ArchivedItem.replaced.set(day.replaced),
                    ArchivedItem.expires_at.set(expires_s(day)),
                ],
            )
        try:
            tx.commit()
        except _Closed as exc:
            raise DeviceClosed from exc
        except ConditionFailed as exc:
            raise PeriodChanged from exc


def _day(device_id: DeviceId, item: ArchivedItem) -> ArchivedDay:
    hours = cast("list[Any]", item.hours)
    return ArchivedDay(
        device_id=device_id,
        number=int(item.sk[-7:]),
        name=item.name,
        hours=tuple(PackedHour(*each) for each in hours),
        kept_days=int(item.kept_days),
        replaced=item.replaced or "",
    )

"""Computes the rollups of a dirty hour or day again: an hour from raw, a day from its hours.

read the mark   -> read what it is made of, consistently   -> write all of it and remove the mark, in one transaction

A change that comes in between replaces the mark's token, so the transaction fails and nothing is written; the mark
stands and is found again. The same holds when two compute one period at a time: the second finds the mark gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import orjson

from karma.core.clock import Clock, epoch_ms, from_epoch_ms
from karma.core.errors import ValidationFailed
from karma.core.ids import DeviceId, is_id
from karma.core.observability import count, logger
from karma.devices.domain import RAW_RETENTION_S, RAW_STORED_S
from karma.telemetry.archives import Archives
from karma.telemetry.archiving import Archiving
from karma.telemetry.domain import DAY_MS, Level, Period, Rollup, joined, rolled_up
from karma.telemetry.ports import Batches, DeviceClosed, DirtyPeriod, PeriodChanged, Rollups

DAY_SETTLING: Final = timedelta(minutes=10)
"""Time after a day's end, or after a change of one of its hours that came later, before it is computed."""
ARCHIVED_AFTER: Final = timedelta(seconds=RAW_RETENTION_S) + timedelta(days=1)
"""Time after a day's end at which it is archived: its samples are taken no more, and the last were a day under way."""
_RAW_PAGE: Final = 1_000


class Rebuilding:
    """Computes rollups again."""

    def __init__(
        self, rollups: Rollups, batches: Batches, clock: Clock, *, archives: Archives, archiving: Archiving
    ) -> None:
        """Build the service; `batches` reads archived days, too."""
        self._archives = archives
        self._archiving = archiving
        self._rollups = rollups
        self._batches = batches
        self._clock = clock

    def rebuild(self, period: Period) -> bool:
        """Compute the rollups of a period, if it is dirty; tell whether they were written.

        Raises:
            Upstream: the database did not answer.
        """
        dirty = self._rollups.dirty(period)
        if dirty is None:
            if period.level is Level.ARCHIVE:
                self._archiving.tidy(period.device_id, period.number)
            return False
        try:
            if period.level is Level.HOUR:
                self._rebuild_hour(dirty)
            elif period.level is Level.DAY:
                self._rebuild_day(dirty)
            else:
                self._archiving.archive(dirty)
        except PeriodChanged:
            # Its mark stands, and will be found again; or somebody else was quicker.
            return False
        except DeviceClosed:
            # Whoever deletes the device removes its marks.
            logger.info("rollup.device_closed", device_id=period.device_id)
            return False
        count("RollupRebuilt", level=period.level.value)
        return True

    def _rebuild_hour(self, dirty: DirtyPeriod) -> None:
        period, now = dirty.period, self._clock.now()
        if period.begin_ms < epoch_ms(now) - RAW_STORED_S * 1000 and not self._is_archived(period):
            # Raw may be deleted in part: what stands was made of more.
            self._rollups.replace(dirty, {})
            return
        batches = self._batches.batches(
            period.device_id, from_ms=period.begin_ms, to_ms=period.end_ms, consistent=True, page=_RAW_PAGE
        )
        found = rolled_up(sample for batch in batches for sample in batch.samples)
        numbers = self._rollups.numbers(period.device_id, found.keys()) if found else {}
        if len(numbers) < len(found):
            count("RollupMetricsLeftOut", len(found) - len(numbers))
        day_over = from_epoch_ms(period.begin_ms - period.begin_ms % DAY_MS + DAY_MS)
        self._rollups.replace(
            dirty,
            {number: found[metric] for metric, number in numbers.items()},
            parent_due=max(now, day_over) + DAY_SETTLING,
        )

    def _is_archived(self, period: Period) -> bool:
        day = period.begin_ms // DAY_MS
        return bool(self._archives.find(period.device_id, first=day, last=day, consistent=True))

    def _rebuild_day(self, dirty: DirtyPeriod) -> None:
        period = dirty.period
        directory = self._rollups.directory(period.device_id, consistent=True)
        made: dict[int, Rollup] = {}
        for number in range(len(directory.metrics)):
            hours = self._rollups.read(
                period.device_id,
                Level.HOUR,
                number,
                first=period.number * 24,
                last=period.number * 24 + 23,
                consistent=True,
            )
            if hours:
                made[number] = joined(
                    (Period(period.device_id, Level.HOUR, hour).begin_ms, each) for hour, each in hours
                )
        over = from_epoch_ms(period.end_ms) + ARCHIVED_AFTER
        self._rollups.replace(dirty, made, parent_due=max(self._clock.now() + DAY_SETTLING, over))


def periods_message(periods: Sequence[Period]) -> str:
    """Write periods as a message of the queue."""
    return orjson.dumps({"rebuild": [[period.device_id, period.level, period.number] for period in periods]}).decode()


def read_periods(body: str) -> list[Period]:
    """Read a message that `periods_message` wrote.

    Raises:
        ValidationFailed: it is no such message.
    """
    try:
        found = [
            Period(DeviceId(device), Level(level), number) for device, level, number in orjson.loads(body)["rebuild"]
        ]
    except (ValueError, KeyError, TypeError) as exc:
        raise ValidationFailed.of("body", "must name hours and days of devices") from exc
    if not all(is_id(each.device_id) and type(each.number) is int for each in found):
        raise ValidationFailed.of("body", "must name devices by their ids, and hours by numbers")
    return found

"""Marks the hours to which samples were stored as dirty; called with what the stream of the table tells.

The stream brings each stored batch at least once, in any order, for a day. Marks are written behind what they are
about, so whoever reads a mark, and then the samples, reads those too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from karma.core.clock import Clock, epoch_ms, from_epoch_ms
from karma.core.ids import DeviceId
from karma.core.streams import StreamRecord
from karma.telemetry.domain import Level, Period
from karma.telemetry.ports import Rollups

SETTLING: Final = timedelta(minutes=2)
"""Time after an hour's end before its rollups are computed, in which what was under way to us arrives."""
_MAX_KNOWN: Final = 100_000


class Marking:
    """Marks dirty hours.

    An hour that is not over is computed by nobody, so its mark stands until then: a process writes it once. One that is
    over is marked again by each call, since its mark may have been removed meanwhile.
    """

    def __init__(
        self, rollups: Rollups, clock: Clock, *, hour_of: Callable[[str, str], tuple[DeviceId, int] | None]
    ) -> None:
        """Build the consumer.

        `hour_of` tells by the key of an item whose batch it is, and of which hour; None: it is none
        (devices.repository.telemetry.stored_hour).
        """
        self._hour_of = hour_of
        self._rollups = rollups
        self._clock = clock
        self._known: set[Period] = set()
        """Hours that this process has marked before they were over."""

    def take(self, records: Sequence[StreamRecord]) -> int:
        """See StreamConsumer: mark the hours of stored batches, and return how many marks were written."""
        written = 0
        found = (self._hour_of(*record.key) for record in records)
        for device_id, number in sorted({hour for hour in found if hour is not None}):
            period, now = Period(device_id, Level.HOUR, number), self._clock.now()
            is_open = period.end_ms > epoch_ms(now)
            if is_open and period in self._known:
                continue
            self._rollups.mark(period, due=max(now, from_epoch_ms(period.end_ms) + SETTLING))
            written += 1
            if is_open:
                self._remember(period, epoch_ms(now))
        return written

    def _remember(self, period: Period, now_ms: int) -> None:
        if len(self._known) >= _MAX_KNOWN:
            self._known = {each for each in self._known if each.end_ms > now_ms}
        if len(self._known) < _MAX_KNOWN:
            self._known.add(period)

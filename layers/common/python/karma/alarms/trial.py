"""Tries a rule on what its devices have sent, before anybody relies on it: which alarms it had raised, and when.

The machine of `engine.py` runs over stored samples in the order of their times, so it says what ingest had said, but
for samples that came later than its window takes. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from karma.alarms.domain import AlarmRule, Trigger
from karma.alarms.engine import NEVER, Episode, would_raise
from karma.core.clock import Clock, epoch_ms
from karma.core.errors import ValidationFailed
from karma.core.ids import DeviceId, UserId
from karma.core.records import Record
from karma.telemetry.domain import DAY_MS, Point, Resolution
from karma.telemetry.query import TelemetryPage, TelemetryQuery

if TYPE_CHECKING:
    from datetime import datetime

    from karma.devices.repository.devices import DeviceSlice

MAX_DEVICES: Final = 10
"""Devices with the tag of a rule on which it is tried, the newest ones."""
MAX_LOOKED_AT: Final = 100
"""Devices among which those with a tag are looked for."""
MAX_SAMPLES: Final = 100_000
"""Samples of a device that a trial reads: a day at 1 Hz, and 50 ms of a processor."""
MAX_SHOWN: Final = 100
"""Alarms of a device that an answer names; all are counted."""
MAX_DAYS: Final = 7
EVERY: Final = 100
"""Last samples of a device that are looked at for whether an alarm is open behind each of them."""
FEWEST: Final = 10
"""Samples of a device below which nothing is said about a rule."""


class TrialWarning(StrEnum):
    """Flaw of a rule that its trial has found."""

    EVERY_SAMPLE = "every_sample"
    """On a device an alarm was open behind each of its last samples, of which there were 10 to 100."""
    FLAPPING = "flapping"
    """On a device it had raised an alarm for more than every tenth sample: a margin, `for_s` or `keep_s` is missing."""


class DeviceTrial(Record, kw_only=True):
    """A rule on one device."""

    device_id: DeviceId
    samples: int
    """Samples that were read."""
    read_to_ms: int | None
    """Moment behind which nothing was read, since there are too many samples; None: all were."""
    raised: int
    """Alarms that it had raised."""
    alarms: Sequence[Episode]
    """The first of them."""
    is_absence: bool
    """True: no sample raised them."""
    warnings: frozenset[TrialWarning]


class SampleReader(Protocol):
    """Reads stored samples; implemented by telemetry.reading.TelemetryReader."""

    def read(self, user_id: UserId, query: TelemetryQuery) -> TelemetryPage:
        """Return a page of points."""


class OwnDevices(Protocol):
    """Devices of an account; implemented by devices.repository.devices.DeviceRepository."""

    def by_age(self, user_id: UserId, *, newest_first: bool, limit: int, after: DeviceId | None = None) -> DeviceSlice:
        """Read active devices by creation."""


class RuleTrial:
    """Tries rules."""

    def __init__(self, reader: SampleReader, devices: OwnDevices, clock: Clock) -> None:
        self._reader = reader
        self._devices = devices
        self._clock = clock

    def run(
        self, rule: AlarmRule, *, begins_at: datetime | None = None, ends_at: datetime | None = None
    ) -> list[DeviceTrial]:
        """Return what a rule had done in [begins_at, ends_at), the last day by default; one read a device.

        Raises:
            ValidationFailed: the range is empty or longer than MAX_DAYS; or the rule is about connections, of which no
                history is kept.
            NotFound: the rule names a device that the account does not have.
        """
        if rule.trigger is Trigger.OFFLINE:
            raise ValidationFailed.of("trigger", "must be one of samples: of connections no history is kept")
        end_ms = epoch_ms(ends_at) if ends_at is not None else epoch_ms(self._clock.now()) + 1
        begin_ms = epoch_ms(begins_at) if begins_at is not None else end_ms - DAY_MS
        if not 0 < end_ms - begin_ms <= MAX_DAYS * DAY_MS:
            field = "ends_at" if begins_at is None else "begins_at"
            raise ValidationFailed.of(field, f"must be before ends_at, by at most {MAX_DAYS} days")
        return [self._on(device_id, rule, begin_ms, end_ms) for device_id in self._concerned(rule)]

    def _concerned(self, rule: AlarmRule) -> list[DeviceId]:
        if rule.device_id is not None:
            return [rule.device_id]
        found = self._devices.by_age(rule.user_id, newest_first=True, limit=MAX_LOOKED_AT).devices
        return [each.device.id for each in found if rule.tag in each.device.tags][:MAX_DEVICES]

    def _on(self, device_id: DeviceId, rule: AlarmRule, begin_ms: int, end_ms: int) -> DeviceTrial:
        query = TelemetryQuery(
            devices=(device_id,),
            metrics=(rule.metric_name,) if rule.metric_name else (),
            from_ms=begin_ms,
            to_ms=end_ms,
            resolution=Resolution.RAW,
            limit=MAX_SAMPLES,
        )
        page = self._reader.read(rule.user_id, query)
        # Of two values at one moment the greater one counts, as in ingest; they come in that order.
        samples = {point.ts: point.value for point in page.points if isinstance(point, Point)}
        position = page.next_position
        read_to_ms = int(str(position["ts"])) if position is not None else None
        if rule.is_absence:
            alarms = _absences(rule, sorted(samples), read_to_ms or min(end_ms, epoch_ms(self._clock.now())))
        else:
            alarms = would_raise(rule.condition, samples)
        return DeviceTrial(
            device_id=device_id,
            samples=len(samples),
            read_to_ms=read_to_ms,
            raised=len(alarms),
            alarms=alarms[:MAX_SHOWN],
            is_absence=rule.is_absence,
            warnings=frozenset(_warnings(rule, sorted(samples), alarms)),
        )


def _absences(rule: AlarmRule, times: Sequence[int], end_ms: int) -> list[Episode]:
    """Return the alarms of silence behind each sample; before the first one nothing is known."""
    longest = rule.for_s * 1000
    return [
        Episode(ts, ts + longest, NEVER if later is None else later)
        for ts, later in zip(times, [*times[1:], None], strict=True)
        if (end_ms if later is None else later) - ts >= longest
    ]


def _warnings(rule: AlarmRule, times: Sequence[int], alarms: Sequence[Episode]) -> Iterator[TrialWarning]:
    last = times[-EVERY:]
    if len(last) < FEWEST:
        return
    if rule.is_absence:
        silent = {each.since for each in alarms}
        is_always = all(ts in silent for ts in last)
    else:
        is_always = any(each.raised <= last[0] and last[-1] < each.cleared for each in alarms)
    if is_always:
        yield TrialWarning.EVERY_SAMPLE
    elif len(alarms) * FEWEST > len(times):
        yield TrialWarning.FLAPPING

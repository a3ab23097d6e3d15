"""Rules of alarms and alarms: types, limits, and what needs no I/O."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NewType

from karma.alarms.engine import Comparison, SampleCondition
from karma.core.clock import from_epoch_ms
from karma.core.errors import AlreadyExists, StaleVersion
from karma.core.ids import ApiKeyId, DeviceId, RunId, UserId, derived_id
from karma.core.records import Record

AlarmRuleId = NewType("AlarmRuleId", str)
AlarmId = NewType("AlarmId", str)

MAX_RULES: Final = 50
"""Rules of one account; ingest reads all of them once in 30 s."""
MAX_NAME_CHARS: Final = 255
MAX_BOUND: Final = 10**12
"""Greatest bound of a metric, and least below zero."""
MAX_SILENCES: Final = 10
MAX_RUN_MESSAGE_CHARS: Final = 4_000
MAX_DURATION_S: Final = 7 * 24 * 3600
MIN_ABSENT_S: Final = 60
MAX_ABSENT_S: Final = 30 * 24 * 3600
RETENTION: Final = timedelta(days=90)
"""Time for which an alarm is kept after its end."""
STORM: Final = 20
"""Alarms of a rule in a minute that are told one by one; of those beyond, one notice tells."""
MAILS_AN_HOUR: Final = 20
"""Mails of alarms that an account gets in an hour, of all rules; what is beyond is in the list of alarms alone."""
MINUTES_A_DAY: Final = 24 * 60


class Trigger(StrEnum):
    """Condition that raises an alarm."""

    ABOVE = "above"
    BELOW = "below"
    OUTSIDE = "outside"
    RATE = "rate"
    NO_DATA = "no_data"
    """No sample of the metric, or no message at all, for a time."""
    OFFLINE = "offline"
    """No connection for a time."""


ABSENCES: Final = frozenset({Trigger.NO_DATA, Trigger.OFFLINE})


class AlarmSeverity(StrEnum):
    """Severity of an alarm."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class AlarmAction(StrEnum):
    """Way of telling an account of an alarm; its webhooks are told in any case."""

    NOTICE = "notice"
    MAIL = "mail"
    """A mail to the address of the account, when it is proven; MAILS_AN_HOUR of all its rules together."""
    RUN = "run"
    """A run of an agent, one an alarm; see AlarmRun."""


class AlarmState(StrEnum):
    """State of an alarm."""

    RAISED = "raised"
    ACKNOWLEDGED = "acknowledged"
    CLEARED = "cleared"
    SUPERSEDED = "superseded"
    """Its rule was changed, paused or deleted."""


OPEN: Final = frozenset({AlarmState.RAISED, AlarmState.ACKNOWLEDGED})


class AlarmRuleChanged(StaleVersion):
    """Another request changed the rule between our reading of it and our write: read again."""


class AlarmChanged(StaleVersion):
    """The alarm was changed between our reading of it and our write: read again."""


class TooManyAlarmRules(AlreadyExists):
    """The account has as many rules as one may have."""

    code = "TOO_MANY_OBJECTS"

    def __init__(self) -> None:
        """Build the error."""
        super().__init__(f"An account has at most {MAX_RULES} alarm rules; delete one")


class AlarmRun(Record, kw_only=True):
    """Run that a rule begins for each of its alarms."""

    agent_id: str
    message: str
    """Said to the agent, with the alarm's facts behind it."""
    api_key_id: ApiKeyId | None = None
    """API key that wrote it, whose rights of the time of the alarm hold; None: a person wrote it."""


class AlarmRunRefusal(Record):
    """Reason for which an alarm began no run."""

    code: str
    message: str


class Silence(Record, kw_only=True):
    """A time of the week in which nobody is told."""

    days: tuple[int, ...]
    """Days on which it begins, 1 for Monday to 7 for Sunday."""
    begins: int
    """Minutes after midnight."""
    ends: int
    """Minutes after midnight; not after `begins`: on the next day."""

    def ends_at(self, local: datetime) -> datetime | None:
        """Return when it ends, if a moment of the clocks on the wall lies in it."""
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        length = (self.ends - self.begins) % MINUTES_A_DAY or MINUTES_A_DAY
        for back in (0, 1):
            day = midnight - timedelta(days=back)
            start = day + timedelta(minutes=self.begins)
            if day.isoweekday() in self.days and start <= local < start + timedelta(minutes=length):
                return start + timedelta(minutes=length)
        return None


class AlarmRule(Record, kw_only=True):
    """A rule of an account; lengths and what goes together are checked by schemas.py."""

    id: AlarmRuleId
    user_id: UserId
    name: str
    device_id: DeviceId | None
    """None: it is for the devices that have `tag`."""
    tag: str | None
    trigger: Trigger
    metric: str | None
    """None: any message, of `no_data`; and of `offline`."""
    low: float | None = None
    high: float | None = None
    margin: float = 0.0
    for_s: int = 0
    """Seconds for which it must be so; of an absence, how long it is."""
    keep_s: int = 0
    """Seconds for which samples must be good before an alarm is cleared."""
    severity: AlarmSeverity = AlarmSeverity.WARNING
    actions: tuple[AlarmAction, ...] = (AlarmAction.NOTICE,)
    run: AlarmRun | None = None
    """Run of the action `run`."""
    silences: tuple[Silence, ...] = ()
    time_zone: str = "UTC"
    enabled: bool = True
    revision: int = 1
    """The version since which it judges as it does; alarms of an earlier one are superseded."""
    created_at: datetime
    updated_at: datetime
    revised_at: datetime
    """Moment of `revision`: samples before it raise nothing."""
    version: int

    @property
    def is_absence(self) -> bool:
        """Tell whether it is about what does not come, which no sample shows."""
        return self.trigger in ABSENCES

    @property
    def metric_name(self) -> str:
        """Return the name under which its metric is stored (karma.devices.samples); "": it has none."""
        return unicodedata.normalize("NFC", self.metric or "")

    @property
    def condition(self) -> SampleCondition:
        """Return what the machine judges samples by."""
        return SampleCondition(
            metric=self.metric_name,
            comparison=Comparison(self.trigger.value),
            low=self.low or 0.0,
            high=self.high or 0.0,
            margin=self.margin,
            for_ms=self.for_s * 1000,
            keep_ms=self.keep_s * 1000,
        )

    def concerns(self, device_id: DeviceId, tags: Sequence[str]) -> bool:
        """Tell whether it judges a device."""
        return self.enabled and (self.device_id == device_id if self.device_id else self.tag in tags)

    def silent_until(self, moment: datetime) -> datetime | None:
        """Return when the silence ends in which a moment lies; None: it lies in none."""
        if not self.silences:
            return None
        from zoneinfo import ZoneInfo

        zone = ZoneInfo(self.time_zone)
        until = None
        # One silence may begin where another ends; a week of them is one that never ends, and is looked at again.
        for _ in range(2 * 7 * MAX_SILENCES):
            local = (until or moment).astimezone(zone).replace(tzinfo=None)
            ends = [end for each in self.silences if (end := each.ends_at(local)) is not None]
            if not ends:
                break
            until = max(ends).replace(tzinfo=zone).astimezone(UTC)
        return until


_JUDGING: Final = (
    "device_id", "tag", "trigger", "metric", "low", "high", "margin", "for_s", "keep_s", "enabled",
)  # fmt: skip


def revised(old: AlarmRule, changes: Mapping[str, Any], *, at: datetime) -> AlarmRule:
    """Return the next version of a rule; where it judges otherwise than before, that is a new revision."""
    new = replace(old, **changes)
    if new == old:
        return old
    new = replace(new, updated_at=at, version=old.version + 1)
    if any(getattr(new, name) != getattr(old, name) for name in _JUDGING):
        new = replace(new, revision=new.version, revised_at=at)
    return new


class Alarm(Record, kw_only=True):
    """A rule's condition on one device, from begin to end."""

    id: AlarmId
    user_id: UserId
    device_id: DeviceId
    rule_id: AlarmRuleId
    rule_revision: int
    trigger: Trigger
    metric: str | None
    severity: AlarmSeverity
    state: AlarmState
    since_ms: int
    """Device's time of the first bad sample; of an absence, when it began by the broker's time."""
    raised_ms: int
    """Device's time of the sample that raised it."""
    value: float | None
    """Value that raised it."""
    recorded_at: datetime
    acknowledged_at: datetime | None = None
    acknowledged_by: UserId | None = None
    cleared_ms: int = 0
    """Device's time of the sample that cleared it; 0: none did."""
    ended_at: datetime | None = None
    """Moment at which its end was recorded."""
    released_at: datetime | None = None
    """Moment at which the silence was over in which it was raised, and it was still the case."""
    run_id: RunId | None = None
    """Run that it began."""
    run_refusal: AlarmRunRefusal | None = None
    """Reason for which it began none, though its rule says so."""

    @property
    def tell_at(self) -> datetime:
        """Return the moment of which its raising is told: when it was recorded, or behind a silence."""
        return self.released_at or self.recorded_at

    @property
    def is_open(self) -> bool:
        """Tell whether it is still the case."""
        return self.state in OPEN


def alarm_id(rule: AlarmRule, device_id: DeviceId, raised_ms: int) -> AlarmId:
    """Return the id of the alarm that a rule raises on a device at a moment.

    Not by the first bad sample: what comes late may show that two alarms lie behind the same one.
    """
    return AlarmId(derived_id(from_epoch_ms(raised_ms), "alarm", rule.id, str(rule.revision), device_id))


def raised_alarm(
    rule: AlarmRule,
    device_id: DeviceId,
    *,
    since_ms: int,
    raised_ms: int,
    value: float | None,
    cleared_ms: int = 0,
    now: datetime,
) -> Alarm:
    """Return an alarm as it is first recorded, which may be over by then."""
    return Alarm(
        id=alarm_id(rule, device_id, raised_ms),
        user_id=rule.user_id,
        device_id=device_id,
        rule_id=rule.id,
        rule_revision=rule.revision,
        trigger=rule.trigger,
        metric=rule.metric,
        severity=rule.severity,
        state=AlarmState.CLEARED if cleared_ms else AlarmState.RAISED,
        since_ms=since_ms,
        raised_ms=raised_ms,
        value=value,
        recorded_at=now,
        cleared_ms=cleared_ms,
        ended_at=now if cleared_ms else None,
    )

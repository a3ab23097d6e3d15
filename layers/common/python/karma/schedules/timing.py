"""Times at which schedules fire: cron expressions in time zones, and single moments.

The syntax and the meaning are those of Debian's cron, by the library cronsim: five fields (minute, hour, day of the
month, month, day of the week), lists, ranges, steps, names, `L` and `#`. Days of the month and of the week are
alternatives when both are named. Where clocks change, an expression that names hours and minutes fires once: at the
first minute that exists when its time is skipped, at the first of both when its time comes twice. One with `*` in
minutes or hours goes by the minutes that exist.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from karma.core.errors import ValidationFailed
from karma.core.records import Record

if TYPE_CHECKING:
    from cronsim import CronSim

MAX_CRON_CHARS: Final = 100
MAX_ZONE_CHARS: Final = 64
MAX_AHEAD: Final = timedelta(days=3660)
"""A single moment, and an end, are at most ten years ahead."""

_FORM: Final = re.compile(r"[0-9A-Za-z*/,#-]+(?: +[0-9A-Za-z*/,#-]+)*")
_ZONE: Final = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*")
_OF_A_MACHINE: Final = re.compile(r"localtime|posixrules|Factory|posix/.*|right/.*")
"""Files beside the zones that are no zones, or other forms of them: which are there depends on the machine."""
_LOOKED_AT: Final = 100
"""Fires among which the shortest time between two is looked for: four days of one an hour."""
_NO_TIME: Final = timedelta()
_HOUR: Final = timedelta(hours=1)
_FIELDS: Final = 5
_MONTH: Final = 3


class InvalidCron(ValidationFailed):
    """The cron expression cannot be read."""

    code = "INVALID_CRON"


class ScheduleTooFrequent(ValidationFailed):
    """The cron expression has a field for seconds: a schedule fires once a minute at the most."""

    code = "SCHEDULE_TOO_FREQUENT"


class UnknownTimeZone(ValidationFailed):
    """The time zone is none of the IANA database."""

    code = "UNKNOWN_TIME_ZONE"


class ScheduleNeverFires(ValidationFailed):
    """No fire is left: the moment has passed, or no day has the date of the expression, or the end comes first."""

    code = "SCHEDULE_NEVER_FIRES"


@lru_cache(maxsize=256)
def zone_of(name: str) -> tzinfo:
    """Return a time zone by its IANA name.

    Raises:
        UnknownTimeZone: there is none of this name.
    """
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # local: only requests about schedules need it

    try:
        if len(name) > MAX_ZONE_CHARS or not _ZONE.fullmatch(name) or _OF_A_MACHINE.fullmatch(name):
            raise ValueError(name)
        return ZoneInfo(name)
    # OSError: the name is that of a directory of the database, such as `America`. ZoneInfoNotFoundError is a KeyError.
    except (KeyError, ValueError, OSError):
        raise UnknownTimeZone.of(
            "time_zone", "must be a time zone of the IANA database, such as Europe/Berlin"
        ) from None


def require_cron(cron: str) -> None:
    """Check that a cron expression can be read, and that some day of some year has its date.

    Raises:
        InvalidCron: it cannot be read.
        ScheduleTooFrequent: it has a field for seconds.
        ScheduleNeverFires: no month has its day, as in `0 0 30 2 *`.
    """
    if len(cron) > MAX_CRON_CHARS or not _FORM.fullmatch(cron):
        raise InvalidCron.of("cron", f"must be five fields of at most {MAX_CRON_CHARS} characters, as in '0 9 * * 1-5'")
    fields = cron.split()
    if len(fields) == _FIELDS + 1:
        raise ScheduleTooFrequent.of("cron", "must have five fields, none for seconds: at most one fire a minute")
    if len(fields) != _FIELDS:
        raise InvalidCron.of("cron", "must have five fields: minute, hour, day of month, month, day of week")
    message = _problem(cron)
    if (
        message
        and not _problem(" ".join([*fields[:_MONTH], "*", fields[_MONTH + 1]]))
        and not _problem(" ".join(["*", "*", "*", fields[_MONTH], "*"]))
    ):
        raise ScheduleNeverFires.of("cron", "must name a day that one of its months has")
    if message:
        raise InvalidCron.of("cron", message)


def _problem(cron: str) -> str:
    from cronsim import CronSim, CronSimError

    try:
        CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError as exc:
        return f"cannot be read: {str(exc)[:64]}"
    except (AssertionError, TypeError, ValueError):  # what cronsim does not check: steps of `#` and `L`
        return "cannot be read"
    return ""


class Timing(Record, kw_only=True):
    """The times at which a schedule fires: by `cron` in `time_zone`, or once, at `at`."""

    cron: str | None = None
    time_zone: str = "UTC"
    at: datetime | None = None
    end_at: datetime | None = None
    """Moment after which it does not fire; None: it goes on."""

    def require(self, *, now: datetime) -> None:
        """Check that it can be read, and that it fires again.

        Raises:
            InvalidCron, ScheduleTooFrequent, UnknownTimeZone: it cannot be read.
            ValidationFailed: a moment is too far ahead.
            ScheduleNeverFires: it has no fire after `now`.
        """
        zone_of(self.time_zone)
        if self.cron is not None:
            require_cron(self.cron)
        for name, moment in (("at", self.at), ("end_at", self.end_at)):
            if moment is not None and moment > now + MAX_AHEAD:
                raise ValidationFailed.of(name, f"must be within the next {MAX_AHEAD.days} days")
        if self.after(now) is None:
            if self.end_at is not None and replace(self, end_at=None).after(now) is not None:
                raise ScheduleNeverFires.of("end_at", "must be behind the first fire, which is in the future")
            raise ScheduleNeverFires.of("at" if self.at else "cron", "must be in the future")

    def after(self, moment: datetime) -> datetime | None:
        """Return the first fire after a moment, in UTC; None: there is none, within fifty years."""
        found = self._next(moment) if self.at is None else self.at
        if found is None or found <= moment or (self.end_at is not None and found > self.end_at):
            return None
        return found

    def shortest_gap(self, moment: datetime, *, limit: timedelta) -> timedelta | None:
        """Return a time between two fires that is shorter than `limit`; None: the next hundred have none.

        It goes by the hours of UTC, so that a day on which clocks change makes no schedule too frequent.
        """
        plain = replace(self, time_zone="UTC", end_at=None)
        last = None if self.cron is None else plain.after(moment)
        for _ in range(_LOOKED_AT):
            following = plain.after(last) if last is not None else None
            if last is None or following is None:
                return None
            if following - last < limit:
                return following - last
            last = following
        return None

    def _next(self, moment: datetime) -> datetime | None:
        from cronsim import CronSim  # local: only requests about schedules need it

        # In the hour that comes twice cronsim may give its first pass again: only what is later counts.
        local = moment.astimezone(zone_of(self.time_zone))
        sim = CronSim(self.cron or "", local)
        for found in sim:
            at = found.astimezone(UTC)
            if at > moment:
                before = (moment - 2 * _HOUR).astimezone(local.tzinfo)
                shift = (found.utcoffset() or _NO_TIME) - (before.utcoffset() or _NO_TIME)
                return at if sim.fixup_tz or not shift % _HOUR else _first(sim, moment, at)
        return None


def _first(sim: CronSim, moment: datetime, found: datetime) -> datetime:
    """Return the first fire up to `found`, minute by minute.

    cronsim steps by whole hours, and so over minutes of a day on which clocks change by half an hour, as on Lord Howe.
    """
    at = max(moment, found - timedelta(days=1)).replace(second=0, microsecond=0) + timedelta(minutes=1)
    while at < found:
        local = at.astimezone(sim.dt.tzinfo)
        if (
            local.minute in sim.minutes
            and local.hour in sim.hours
            and local.month in sim.months
            and sim.match_day(local.date())
        ):
            return at
        at += timedelta(minutes=1)
    return found

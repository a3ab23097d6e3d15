"""Moments at which schedules fire: against the minutes that exist, one by one, in zones whose clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.core.errors import ValidationFailed
from karma.schedules.timing import (
    MAX_AHEAD,
    InvalidCron,
    ScheduleNeverFires,
    ScheduleTooFrequent,
    Timing,
    UnknownTimeZone,
    require_cron,
    zone_of,
)

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
# Moments about which the clocks change: by an hour, by half an hour, a day that does not exist, and none.
CHANGES = {
    "Europe/Berlin": (datetime(2027, 3, 28, 1, tzinfo=UTC), datetime(2027, 10, 31, 1, tzinfo=UTC)),
    "America/New_York": (datetime(2027, 3, 14, 7, tzinfo=UTC), datetime(2027, 11, 7, 6, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2027, 10, 2, 15, 30, tzinfo=UTC), datetime(2027, 4, 3, 15, tzinfo=UTC)),
    "Pacific/Apia": (datetime(2011, 12, 30, 10, tzinfo=UTC),),
    "Asia/Kolkata": (datetime(2027, 3, 28, 1, tzinfo=UTC),),
}
PLACES = [(zone, change) for zone, changes in CHANGES.items() for change in changes]


def wall(moment: datetime, zone: str) -> datetime:
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def first_existing(local: datetime, zone: str) -> datetime:
    """Return the first moment whose clock shows a time, or the first minute behind it that exists."""
    at = local
    while True:
        moment = at.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC)
        if wall(moment, zone) == at:
            return moment
        at += MINUTE


def minutes(around: datetime, *, hours: int) -> list[datetime]:
    return [around + n * MINUTE for n in range(-hours * 60, hours * 60)]


@settings(max_examples=200, deadline=None)
@given(
    place=st.sampled_from(PLACES),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    offset=st.integers(-20 * 3600, 20 * 3600),
)
def test_a_time_of_the_day_fires_once_a_day(place: tuple[str, datetime], hour: int, minute: int, offset: int) -> None:
    zone, change = place
    after = change + timedelta(seconds=offset)
    days = [wall(change, zone).date() + timedelta(days=n) for n in range(-3, 5)]
    wanted = {first_existing(datetime(d.year, d.month, d.day, hour, minute), zone) for d in days}
    found = Timing(cron=f"{minute} {hour} * * *", time_zone=zone).after(after)
    assert found == min(each for each in wanted if each > after)


@settings(max_examples=200, deadline=None)
@given(
    place=st.sampled_from(PLACES),
    step=st.sampled_from([1, 2, 5, 7, 15, 20, 30]),
    hours=st.sampled_from(["*", "1-3", "*/2", "2"]),
    offset=st.integers(-12 * 3600, 4 * 3600),
)
def test_a_wildcard_goes_by_the_minutes_that_exist(
    place: tuple[str, datetime], step: int, hours: str, offset: int
) -> None:
    zone, change = place
    after = change + timedelta(seconds=offset)
    among = {"*": range(24), "1-3": range(1, 4), "*/2": range(0, 24, 2), "2": [2]}[hours]
    wanted = [
        each
        for each in minutes(change, hours=48)
        if wall(each, zone).minute % step == 0 and wall(each, zone).hour in among and each > after
    ]
    assert Timing(cron=f"*/{step} {hours} * * *", time_zone=zone).after(after) == wanted[0]


@settings(max_examples=100, deadline=None)
@given(
    place=st.sampled_from(PLACES),
    cron=st.sampled_from(["30 2 * * *", "0,30 2 * * *", "30 1 * * *", "15 1-3 * * *", "*/20 * * * *", "0 0 1,L * *"]),
    offset=st.integers(-30 * 3600, 30 * 3600),
)
def test_fires_follow_each_other_and_none_is_between(place: tuple[str, datetime], cron: str, offset: int) -> None:
    zone, change = place
    timing, at = Timing(cron=cron, time_zone=zone), change + timedelta(seconds=offset)
    for _ in range(12):
        following = timing.after(at)
        assert following is not None
        assert following > at
        assert following.second == following.microsecond == 0
        assert timing.after(following - timedelta(seconds=1)) == following
        between = at + (following - at) / 2
        assert timing.after(between) == following
        at = following


def test_an_hour_that_is_skipped_and_one_that_comes_twice() -> None:
    daily = Timing(cron="30 2 * * *", time_zone="Europe/Berlin")
    assert daily.after(datetime(2027, 3, 28, tzinfo=UTC)) == datetime(2027, 3, 28, 1, tzinfo=UTC)  # at 03:00
    assert daily.after(datetime(2027, 10, 31, tzinfo=UTC)) == datetime(2027, 10, 31, 0, 30, tzinfo=UTC)
    assert daily.after(datetime(2027, 10, 31, 0, 30, tzinfo=UTC)) == datetime(2027, 11, 1, 1, 30, tzinfo=UTC)
    both = Timing(cron="*/30 2 * * *", time_zone="Europe/Berlin")
    assert both.after(datetime(2027, 10, 31, 0, 30, tzinfo=UTC)) == datetime(2027, 10, 31, 1, tzinfo=UTC)


WRONG: list[tuple[str, type[ValidationFailed]]] = [
    ("", InvalidCron),
    ("* * * *", InvalidCron),
    ("* * * * * *", ScheduleTooFrequent),
    ("0/5 * * * * *", ScheduleTooFrequent),
    ("* * * * * * *", InvalidCron),
    ("cron(0 9 * * ? *)", InvalidCron),
    ("0 9 * * ?", InvalidCron),
    ("rate(5 minutes)", InvalidCron),
    ("@daily", InvalidCron),
    ("60 * * * *", InvalidCron),
    ("0 24 * * *", InvalidCron),
    ("0 0 0 * *", InvalidCron),
    ("0 0 * 13 *", InvalidCron),
    ("0 0 * * 8", InvalidCron),
    ("*/0 * * * *", InvalidCron),
    ("5-1 * * * *", InvalidCron),
    (", * * * *", InvalidCron),
    ("- * * * *", InvalidCron),
    ("0 0 * * MONDAY", InvalidCron),
    ("0 0 * * 1#6", InvalidCron),
    ("0\t0 * * *", InvalidCron),
    ("٣ * * * *", InvalidCron),
    ("* " * 60, InvalidCron),
    ("0 0 30 2 *", ScheduleNeverFires),
    ("0 0 31 2,4,6 *", ScheduleNeverFires),
]


@pytest.mark.parametrize(("cron", "error"), WRONG)
def test_what_is_no_expression_or_no_date_is_refused_by_its_own_code(cron: str, error: type[ValidationFailed]) -> None:
    with pytest.raises(error) as refused:
        require_cron(cron)
    assert type(refused.value) is error
    assert refused.value.code == error.code != ValidationFailed.code


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="0123456789*/,-#LWMONJA ", max_size=24))
def test_whatever_is_sent_is_refused_or_fires(cron: str) -> None:
    try:
        Timing(cron=cron).require(now=NOW)
    except ValidationFailed:
        pass
    else:
        found = Timing(cron=cron).after(NOW)
        assert found is not None
        assert found == next(CronSim(cron, NOW))


@pytest.mark.parametrize(
    "name",
    ["", "Mars/Phobos", "America", "../../etc/passwd", "europe/../Berlin", "localtime", "right/UTC", "x" * 65, "é"],
)
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(UnknownTimeZone):
        zone_of(name)


def test_a_single_moment_fires_once() -> None:
    once = Timing(at=NOW + MINUTE)
    assert once.after(NOW) == NOW + MINUTE
    assert once.after(NOW + MINUTE) is None
    once.require(now=NOW)
    for late in (NOW + MINUTE, NOW + timedelta(days=1)):
        with pytest.raises(ScheduleNeverFires):
            once.require(now=late)


def test_nothing_fires_behind_its_end_nor_too_far_ahead() -> None:
    hourly = Timing(cron="0 * * * *", end_at=NOW + timedelta(hours=2))
    assert hourly.after(NOW + timedelta(hours=1)) == NOW + timedelta(hours=2)
    assert hourly.after(NOW + timedelta(hours=2)) is None
    with pytest.raises(ScheduleNeverFires):
        Timing(cron="0 * * * *", end_at=NOW + MINUTE).require(now=NOW)
    for far in (Timing(at=NOW + MAX_AHEAD + MINUTE), Timing(cron="0 * * * *", end_at=NOW + MAX_AHEAD + MINUTE)):
        with pytest.raises(ValidationFailed, match="Request validation failed"):
            far.require(now=NOW)

"""Times round trip between their forms, and ids are UUIDs of version 7."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karma.core.clock import SystemClock, epoch_ms, from_epoch_ms, iso, parse_iso
from karma.core.ids import is_id, new_id
from karma.devices.repository.items import day_of, days_between

MOMENTS = st.datetimes(
    min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31, 23, 59, 59, 999000), timezones=st.just(UTC)
).map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000))


@pytest.mark.req("R-A-04")
@given(MOMENTS)
def test_iso_and_epoch_round_trip_to_the_millisecond(moment: datetime) -> None:
    assert parse_iso(iso(moment)) == moment
    assert from_epoch_ms(epoch_ms(moment)) == moment


@given(st.lists(MOMENTS, min_size=2))
def test_iso_texts_sort_in_time_order(moments: list[datetime]) -> None:
    assert sorted(iso(moment) for moment in moments) == [iso(moment) for moment in sorted(moments)]


@pytest.mark.fault("F-10a")
@given(
    st.datetimes() | st.sampled_from([datetime.min, datetime.max]),
    st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)),
)
@example(datetime(9999, 12, 31, 23, 59, 59), timedelta(hours=-14))
@example(datetime.min, timedelta(hours=14))
def test_every_text_with_an_offset_is_a_moment_or_a_value_error(local: datetime, offset: timedelta) -> None:
    text = local.replace(tzinfo=timezone(offset)).isoformat()
    try:
        moment = parse_iso(text)
    except ValueError:
        assert local - datetime.min < abs(offset) or datetime.max - local < abs(offset)
        return
    assert moment.utcoffset() == timedelta()
    assert len(iso(moment)) == 24


@pytest.mark.fault("F-10a")
@given(st.integers(-62135596800000, 253402300799999), st.integers(0, 3))
@example(253402300799999, 0)
def test_the_days_of_a_range_end_with_the_calendar(from_ms: int, days: int) -> None:
    to_ms = min(from_ms + days * 86_400_000, 253402300799999)
    found = list(days_between(from_ms, to_ms))
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (day_of(from_ms), day_of(to_ms))


def test_other_offsets_become_utc() -> None:
    assert iso(datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == "2026-01-01T00:00:00.000Z"


def test_a_time_without_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="offset"):
        parse_iso("2026-01-01T00:00:00")


@pytest.mark.parametrize("milliseconds", [10**18, -(10**18)])
def test_milliseconds_outside_the_calendar_are_refused(milliseconds: int) -> None:
    with pytest.raises(ValueError, match="not a date"):
        from_epoch_ms(milliseconds)


@pytest.mark.req("R-K-09")
def test_ids_are_uuid_version_7_of_the_current_millisecond() -> None:
    before = epoch_ms(SystemClock().now())
    text = new_id()
    after = epoch_ms(SystemClock().now())
    assert is_id(text)
    assert text[14] == "7"
    assert text[19] in "89ab"
    assert before - 1 <= int(text[:8] + text[9:13], 16) <= after + 1


def test_ids_do_not_repeat() -> None:
    assert len({new_id() for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    "text", ["", "x", "0" * 36, "01A1FD42-4FD5-707F-BFC9-80B6D1961692", "01a1fd42-4fd5-707f-bfc9-80b6d1961692#"]
)
def test_what_is_not_an_id_is_recognised(text: str) -> None:
    assert not is_id(text)

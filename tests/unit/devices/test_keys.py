"""Keys of the devices and telemetry tables."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import DeviceId, UserId, new_id
from karma.devices.repository.items import (
    EXPIRY_SHARDS,
    day_of,
    days_between,
    device_key,
    expiry_partition,
    latest_key,
    presence_key,
    telemetry_sk,
)

times = st.integers(0, 4_000_000_000_000)
boots = st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True)
batches = st.tuples(times, boots, st.integers(0, 9_999_999_999))


@given(batches)
def test_the_key_of_a_batch_tells_its_time_boot_and_number(batch: tuple[int, str, int]) -> None:
    min_ts, boot, number = telemetry_sk(*batch).split("#")
    assert (int(min_ts), boot, int(number)) == batch


@given(batches, batches)
def test_batches_sort_by_time(a: tuple[int, str, int], b: tuple[int, str, int]) -> None:
    if a[0] < b[0]:
        assert telemetry_sk(*a) < telemetry_sk(*b)


@given(times, st.integers(0, 40 * 24 * 3_600_000))
def test_a_range_touches_the_days_of_its_ends(start: int, length: int) -> None:
    days = list(days_between(start, start + length))
    assert days == sorted(days)
    assert {day_of(start), day_of(start + length), day_of(start + length // 2)} <= set(days)


def test_a_devices_items_are_neighbours() -> None:
    user, first, second = UserId(new_id()), DeviceId(new_id()), DeviceId(new_id()[:-1] + "f")
    kinds = (device_key, latest_key, presence_key)
    keys = sorted(kind(user, device).sk for device in (first, second) for kind in kinds)
    assert [key.split("#")[1] for key in keys] in ([first] * 3 + [second] * 3, [second] * 3 + [first] * 3)


def test_unfinished_commands_are_spread_over_the_partitions_of_their_index() -> None:
    assert len({expiry_partition(DeviceId(new_id())) for _ in range(200)}) == EXPIRY_SHARDS

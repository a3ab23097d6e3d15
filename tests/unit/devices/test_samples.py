"""Telemetry sample by sample: what is taken, what is refused and named, and what a later delivery changes."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.devices.domain import MAX_FUTURE_S, RAW_RETENTION_S, Latest, Reading
from karma.devices.payloads import MAX_PAYLOAD_BYTES, Refused, Unreadable
from karma.devices.samples import MAX_HOURS, Telemetry, metric_name, read_telemetry

NOW = 1_795_250_000_000
HOUR = 3_600_000


def telemetry(**changes: Any) -> dict[str, Any]:
    return {"boot": "b1", "seq": 1, "samples": [{"ts": NOW, "m": {"temp_c": 41.2}}], **changes}


def sample(ts: Any = NOW, **values: Any) -> dict[str, Any]:
    return {"ts": ts, "m": values or {"temp_c": 1}}


def read(body: Any, *, at: int = NOW) -> Telemetry:
    return read_telemetry(json.dumps(body).encode(), received_ms=at)


def stored(found: Telemetry) -> list[list[Any]]:
    return [each for batch in found.batches for each in orjson.loads(batch.samples_json)]


def newest(found: Telemetry) -> Latest:
    latest = Latest()
    for batch in found.batches:
        latest = latest.merge(Latest(readings=batch.newest))
    return latest


def test_a_batch_is_sorted_and_knows_its_newest_values() -> None:
    [batch] = read(telemetry(samples=[sample(NOW, a=3), sample(NOW - 5, a=1, b=2.5), sample(NOW - 1, a=9)])).batches
    assert (batch.min_ts, batch.max_ts, batch.count) == (NOW - 5, NOW, 3)
    assert batch.newest == {"a": Reading(3, NOW), "b": Reading(2.5, NOW - 5)}
    assert orjson.loads(batch.samples_json) == [[NOW - 5, {"a": 1, "b": 2.5}], [NOW - 1, {"a": 9}], [NOW, {"a": 3}]]


def test_white_space_does_not_make_another_body() -> None:
    first, second = (
        read_telemetry(json.dumps(telemetry(), indent=indent).encode(), received_ms=NOW) for indent in (None, 2)
    )
    assert first.batches[0].digest == second.batches[0].digest


WHOLE: list[tuple[Any, str, str]] = [
    (b"", "", "NOT_JSON"),
    (b"{", "", "NOT_JSON"),
    (b"\xff\xfe", "", "NOT_JSON"),
    (b'{"boot": NaN}', "boot", "WRONG_VALUE"),
    (b"[" * 100_000, "", "TOO_DEEP"),
    (b'"' + b"x" * MAX_PAYLOAD_BYTES + b'"', "", "TOO_LARGE"),
    ([], "", "WRONG_SHAPE"),
    (None, "", "WRONG_SHAPE"),
    ({}, "boot", "WRONG_VALUE"),
    (telemetry(boot=""), "boot", "WRONG_VALUE"),
    (telemetry(boot="a#b"), "boot", "WRONG_VALUE"),
    (telemetry(boot="x" * 65), "boot", "WRONG_VALUE"),
    (telemetry(boot=1), "boot", "WRONG_VALUE"),
    (telemetry(seq=-1), "seq", "WRONG_VALUE"),
    (telemetry(seq=1.5), "seq", "WRONG_VALUE"),
    (telemetry(seq=True), "seq", "WRONG_VALUE"),
    (telemetry(seq=10**10), "seq", "WRONG_VALUE"),
    (b'{"boot": "b", "seq": 99999999999999999999999999, "samples": []}', "seq", "WRONG_VALUE"),
    (telemetry(samples=[]), "samples", "WRONG_SHAPE"),
    (telemetry(samples={}), "samples", "WRONG_SHAPE"),
    (telemetry(samples=[sample(a=1)] * 3_001), "samples", "WRONG_SHAPE"),
]


@pytest.mark.parametrize(("body", "field", "reason"), WHOLE, ids=range(len(WHOLE)))
def test_a_message_of_which_nothing_can_be_taken(body: Any, field: str, reason: str) -> None:
    payload = body if isinstance(body, bytes) else orjson.dumps(body)
    with pytest.raises(Unreadable) as failure:
        read_telemetry(payload, received_ms=NOW)
    assert (failure.value.field, failure.value.reason) == (field, reason)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


BAD_SAMPLES: list[tuple[Any, str, str]] = [
    (1, "", "WRONG_SHAPE"),
    (None, "", "WRONG_SHAPE"),
    ({"ts": NOW}, ".m", "WRONG_SHAPE"),
    ({"ts": NOW, "m": {}}, ".m", "WRONG_SHAPE"),
    ({"ts": NOW, "m": [1]}, ".m", "WRONG_SHAPE"),
    (sample(**{f"m{n}": 1 for n in range(65)}), ".m", "WRONG_SHAPE"),
    (sample(-1), ".ts", "WRONG_VALUE"),
    (sample("now"), ".ts", "WRONG_VALUE"),
    (sample(math.nan), ".ts", "WRONG_VALUE"),
    (sample(2**63), ".ts", "WRONG_VALUE"),
    (sample(10**30), ".ts", "WRONG_VALUE"),
    (sample(NOW - RAW_RETENTION_S * 1000 - HOUR), ".ts", "TOO_OLD"),
    (sample(0), ".ts", "TOO_OLD"),
    (sample(NOW + MAX_FUTURE_S * 1000 + 1), ".ts", "FUTURE"),
]
BAD_METRICS: list[tuple[str, Any, str]] = [
    ("a", "1", "WRONG_VALUE"),
    ("a", True, "WRONG_VALUE"),
    ("a", None, "WRONG_VALUE"),
    ("a", math.nan, "WRONG_VALUE"),
    ("a", -math.inf, "WRONG_VALUE"),
    ("a", 1e301, "WRONG_VALUE"),
    ("a", 10**400, "WRONG_VALUE"),
    ("a", [1], "WRONG_VALUE"),
    ("a", deep(65), "TOO_DEEP"),
    ("a", deep(2_000), "TOO_DEEP"),
    ("", 1, "WRONG_NAME"),
    ("x" * 65, 1, "WRONG_NAME"),
    (" a", 1, "WRONG_NAME"),
    ("a\n", 1, "WRONG_NAME"),
    ("a\x00b", 1, "WRONG_NAME"),
    ("\ud800", 1, "WRONG_NAME"),
]
good_values = st.floats(-1e300, 1e300) | st.integers(-(2**53), 2**53)
names = st.text(min_size=1, max_size=12).filter(metric_name).map(lambda name: metric_name(name) or "")


@pytest.mark.fault("F-12a")
@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.dictionaries(names, good_values, min_size=1, max_size=3), max_size=6),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(BAD_SAMPLES)), max_size=3),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(BAD_METRICS)), max_size=3, unique_by=lambda each: each[0]),
)
def test_what_is_bad_costs_itself_and_is_named(
    good: list[dict[str, float]],
    bad_samples: list[tuple[int, tuple[Any, str, str]]],
    bad_metrics: list[tuple[int, tuple[str, Any, str]]],
) -> None:
    """Good samples, some with one bad metric, and bad samples between them."""
    rows: list[tuple[Any, list[list[Any]], list[tuple[str, str]]]] = []
    hits = {place: bad for place, bad in bad_metrics if place < len(good) and bad[0] not in good[place]}
    for place, values in enumerate(good):
        name, value, reason = hits.get(place, ("", 0, ""))
        given_values = {name: value, **values} if reason else values
        named = [(f".m[{json.dumps(name[:80])}]", reason)] if reason else []
        rows.append(({"ts": NOW + place, "m": given_values}, [[NOW + place, values]], named))
    for place, (bad, field, reason) in bad_samples:
        rows.insert(place, (bad, [], [(field, reason)]))
    expected = [each for _, kept, _ in rows for each in kept]
    refused = [Refused(f"samples[{n}]{field}", reason) for n, row in enumerate(rows) for field, reason in row[2]]
    body = telemetry(samples=[row[0] for row in rows])
    if expected:
        found = read(body)
        assert stored(found) == orjson.loads(orjson.dumps(expected))
        assert sorted(found.refused) == sorted(refused)
    elif rows:
        with pytest.raises(Unreadable) as failure:
            read(body)
        assert sorted(failure.value.refused) == sorted(refused)


@pytest.mark.fault("F-12b")
@pytest.mark.parametrize(
    "name",
    ["3v3", "cpu temp", "env/temp", "temp\u00e9rature", "\u6e29\u5ea6", "\U0001f321", "fan #1", "a.b-c_d:e", "%"],
)
def test_a_metric_may_have_a_name_in_any_script_with_spaces_and_signs(name: str) -> None:
    assert stored(read(telemetry(samples=[sample(**{name: 1})]))) == [[NOW, {name: 1}]]
    assert metric_name(name) == name


@pytest.mark.fault("F-12b")
def test_one_name_written_in_two_ways_is_one_metric() -> None:
    composed, decomposed = "temp\u00e9", "tempe\u0301"
    assert metric_name(decomposed) == composed
    assert stored(read(telemetry(samples=[sample(**{decomposed: 1})]))) == [[NOW, {composed: 1}]]


@pytest.mark.fault("F-12i")
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["\u00e9", "e\u0301", "a\u00e9", "ae\u0301", "\u1e69", "s\u0323\u0307", "s\u0307\u0323", "t"]
            ),
            st.integers(0, 9) | st.none(),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda each: each[0],
    )
)
def test_a_metric_that_is_spelled_twice_is_named_and_the_last_value_counts(given_values: list[tuple[str, Any]]) -> None:
    """As for a member that JSON itself repeats: none is left out without a word."""
    last: dict[str, tuple[str, int]] = {}
    named: list[tuple[str, str]] = []
    for spelled, value in given_values:
        name = unicodedata.normalize("NFC", spelled)
        if value is None:
            named.append((spelled, "WRONG_VALUE"))
            continue
        if name in last:
            named.append((last[name][0], "REPEATED"))
        last[name] = spelled, value
    body = telemetry(samples=[sample(**dict(given_values)), sample(t=0)])
    found = read(body)
    expected = {name: value for name, (_, value) in last.items()}
    assert stored(found) == ([[NOW, expected]] if expected else []) + [[NOW, {"t": 0}]]
    assert sorted(found.refused) == sorted(
        Refused(f"samples[0].m[{json.dumps(spelled)}]", reason) for spelled, reason in named
    )


@pytest.mark.fault("F-12i")
def test_a_member_that_json_repeats_counts_as_the_last() -> None:
    body = f'{{"boot": "b", "seq": 1, "samples": [{{"ts": {NOW}, "m": {{"t": 1, "t": 2}}}}]}}'.encode()
    assert stored(read_telemetry(body, received_ms=NOW)) == [[NOW, {"t": 2}]]


@pytest.mark.fault("F-12c")
@given(st.lists(st.integers(-5, 20), min_size=1, max_size=6))
def test_a_clock_that_was_ahead_does_not_hide_what_comes_after(minutes_ahead: list[int]) -> None:
    latest, now = Latest(), NOW
    for ahead in minutes_ahead:
        now += 1_000
        body = telemetry(samples=[sample(now + ahead * 60_000, t=5), sample(now - HOUR, old=1)])
        found = read(body, at=now)
        is_beyond = ahead * 60 > MAX_FUTURE_S
        assert found.refused == ((Refused("samples[0].ts", "FUTURE"),) if is_beyond else ())
        latest = latest.merge(newest(found))
        assert all(reading.ts <= now for reading in latest.readings.values())
    latest = latest.merge(newest(read(telemetry(samples=[sample(now + 1_000, t=7)]), at=now + 1_000)))
    assert latest.readings["t"] == Reading(7, now + 1_000)


@pytest.mark.fault("F-12a", "F-12h")
@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(int.__add__, st.sampled_from([0, -RAW_RETENTION_S * 1000]), st.integers(-HOUR, HOUR)),
        min_size=2,
        max_size=12,
    ),
    st.lists(st.integers(0, 2 * HOUR), min_size=2, max_size=6),
)
def test_a_later_delivery_has_the_same_keys_and_doubles_nothing(offsets: list[int], delays: list[int]) -> None:
    """Samples too old or in the future depend on the time of arrival; a later delivery may refuse others."""
    body = telemetry(samples=[sample(NOW + offset, t=1) for offset in offsets])
    items: dict[int, tuple[str, list[Any]]] = {}
    for delay in sorted(delays):
        try:
            found = read(body, at=NOW + delay)
        except Unreadable:
            continue
        for batch in found.batches:
            kept = items.setdefault(batch.min_ts, (batch.digest, orjson.loads(batch.samples_json)))
            assert kept[0] == batch.digest, "a repeat is not taken for another body"
    times = [ts for _, samples in items.values() for ts, _ in samples]
    assert sorted(times) == sorted(NOW + offset for offset in offsets if NOW + offset in times)


def test_samples_of_many_hours_are_stored_by_the_hour_up_to_a_day() -> None:
    found = read(telemetry(samples=[sample(NOW - n * HOUR) for n in range(MAX_HOURS + 2)]))
    assert len(found.batches) == MAX_HOURS
    assert all(batch.min_ts // HOUR == batch.max_ts // HOUR for batch in found.batches)
    assert found.refused == tuple(Refused(f"samples[{n}].ts", "SPAN") for n in (MAX_HOURS, MAX_HOURS + 1))

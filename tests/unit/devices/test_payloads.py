"""What devices send: good payloads, and bad ones by the reason that their owner sees."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import new_id
from karma.devices.domain import RAW_RETENTION_S, Reading
from karma.devices.payloads import (
    MAX_PAYLOAD_BYTES,
    Unreadable,
    read_event,
    read_heartbeat,
    read_presence,
    read_ready,
    read_response,
    read_telemetry,
)

NOW = 1_795_250_000_000


def telemetry(**changes: Any) -> dict[str, Any]:
    return {"boot": "b1", "seq": 1, "samples": [{"ts": NOW, "m": {"temp_c": 41.2}}], **changes}


def sample(ts: Any = NOW, **values: Any) -> dict[str, Any]:
    return {"ts": ts, "m": values or {"temp_c": 1}}


def test_a_batch_is_sorted_and_knows_its_newest_values() -> None:
    body = telemetry(samples=[sample(NOW, a=3), sample(NOW - 5, a=1, b=2.5), sample(NOW - 1, a=9)])
    batch = read_telemetry(orjson.dumps(body), received_ms=NOW)
    assert (batch.min_ts, batch.max_ts, batch.count) == (NOW - 5, NOW, 3)
    assert batch.newest == {"a": Reading(3, NOW), "b": Reading(2.5, NOW - 5)}
    assert orjson.loads(batch.samples_json) == [[NOW - 5, {"a": 1, "b": 2.5}], [NOW - 1, {"a": 9}], [NOW, {"a": 3}]]


def test_white_space_does_not_make_another_body() -> None:
    first = read_telemetry(json.dumps(telemetry()).encode(), received_ms=NOW)
    second = read_telemetry(json.dumps(telemetry(), indent=2).encode(), received_ms=NOW)
    assert first.digest == second.digest


WRONG: list[tuple[Any, str]] = [
    (b"", "NOT_JSON"),
    (b"{", "NOT_JSON"),
    (b"\xff\xfe", "NOT_JSON"),
    (b'{"boot": NaN}', "NOT_JSON"),
    (b"[" * 100_000, "TOO_DEEP"),
    (b'"' + b"x" * MAX_PAYLOAD_BYTES + b'"', "TOO_LARGE"),
    ([], "WRONG_SHAPE"),
    (None, "WRONG_SHAPE"),
    ({}, "WRONG_VALUE"),
    (telemetry(boot=""), "WRONG_VALUE"),
    (telemetry(boot="a#b"), "WRONG_VALUE"),
    (telemetry(boot="x" * 65), "WRONG_VALUE"),
    (telemetry(boot=1), "WRONG_VALUE"),
    (telemetry(seq=-1), "WRONG_VALUE"),
    (telemetry(seq=1.5), "WRONG_VALUE"),
    (telemetry(seq=True), "WRONG_VALUE"),
    (telemetry(seq=10**10), "WRONG_VALUE"),
    (b'{"boot": "b", "seq": 99999999999999999999999999, "samples": []}', "WRONG_VALUE"),
    (telemetry(samples=[]), "WRONG_SHAPE"),
    (telemetry(samples={}), "WRONG_SHAPE"),
    (telemetry(samples=[1]), "WRONG_SHAPE"),
    (telemetry(samples=[sample(a=1)] * 3_001), "WRONG_SHAPE"),
    (telemetry(samples=[{"ts": NOW}]), "WRONG_SHAPE"),
    (telemetry(samples=[{"ts": NOW, "m": {}}]), "WRONG_SHAPE"),
    (telemetry(samples=[sample(**{f"m{n}": 1 for n in range(65)})]), "WRONG_SHAPE"),
    (telemetry(samples=[sample(-1)]), "WRONG_VALUE"),
    (telemetry(samples=[sample("now")]), "WRONG_VALUE"),
    (telemetry(samples=[sample(2**63)]), "WRONG_VALUE"),
    (telemetry(samples=[sample(a="1")]), "WRONG_VALUE"),
    (telemetry(samples=[sample(a=True)]), "WRONG_VALUE"),
    (telemetry(samples=[sample(a=None)]), "WRONG_VALUE"),
    (telemetry(samples=[sample(**{"a b": 1})]), "WRONG_VALUE"),
    (b'{"boot": "b", "seq": 1, "samples": [{"ts": %d, "m": {"a": 1e999}}]}' % NOW, "NOT_JSON"),
    (telemetry(samples=[sample(), sample(NOW - 3_600_001)]), "SPAN"),
    (telemetry(samples=[sample(NOW - RAW_RETENTION_S * 1000 - 1)]), "TOO_OLD"),
    (telemetry(samples=[sample(NOW + 600_001)]), "FUTURE"),
]


@pytest.mark.parametrize(("body", "reason"), WRONG, ids=range(len(WRONG)))
def test_bad_telemetry(body: Any, reason: str) -> None:
    payload = body if isinstance(body, bytes) else orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)
    with pytest.raises(Unreadable) as failure:
        read_telemetry(payload, received_ms=NOW)
    assert failure.value.reason == reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.binary(max_size=64)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"boot": st.text(max_size=4), "seq": json_values, "ts": json_values, "id": json_values},
        optional={"samples": json_values, "status": json_values, "eventType": json_values, "kind": json_values},
    ).map(lambda value: json.dumps(value).encode())
)
def test_nothing_but_unreadable_is_ever_raised(payload: bytes) -> None:
    readers: list[Any] = [
        lambda given: read_telemetry(given, received_ms=NOW),
        read_heartbeat,
        read_event,
        read_ready,
        read_response,
        read_presence,
    ]
    for read in readers:
        with contextlib.suppress(Unreadable):
            read(payload)


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (read_heartbeat, {"boot": "b", "seq": 1, "ts": 1, "ip": "999.1.1.1"}),
        (read_heartbeat, {"boot": "b", "seq": 1, "ts": 1, "ip": 7}),
        (read_heartbeat, {"boot": "b", "seq": 1, "ts": 1, "firmware_version": "x" * 51}),
        (read_heartbeat, {"boot": "b", "ts": 1}),
        (read_event, {"boot": "b", "ts": 1, "kind": "Nope!"}),
        (read_event, {"boot": "b", "ts": 1, "kind": "status", "data": {"status": "exploded"}}),
        (read_event, {"boot": "b", "ts": 1, "kind": "status"}),
        (read_event, {"boot": "b", "ts": 1, "kind": "x", "data": []}),
        (read_ready, {"boot": "b", "ts": -1}),
        (read_response, {"id": "x", "status": "succeeded", "ts": 1}),
        (read_response, {"id": new_id(), "status": "cancelled", "ts": 1}),
        (read_response, {"id": new_id(), "status": "succeeded", "ts": 1, "result": []}),
        (read_response, {"id": new_id(), "status": "failed", "ts": 1, "error": "x"}),
        (read_response, {"id": new_id(), "status": "succeeded", "ts": 1, "result": {"x": "y" * 33_000}}),
        (read_presence, {"eventType": "connected"}),
    ],
)
def test_other_bad_payloads(read: Any, body: Any) -> None:
    with pytest.raises(Unreadable):
        read(json.dumps(body).encode())


def test_good_payloads_of_later_firmware_are_read() -> None:
    assert (
        read_heartbeat(b'{"boot":"b","seq":1,"ts":1,"ip":"10.0.0.7","firmware_version":"2.1","new":1}').ip == "10.0.0.7"
    )
    assert read_event(b'{"boot":"b","ts":1,"kind":"status","data":{"status":"error"}}').condition == "error"
    assert read_event(b'{"boot":"b","ts":1,"kind":"door.opened"}').condition is None
    answer = read_response(json.dumps({"id": new_id(), "status": "failed", "error": {"code": "X"}, "ts": 1}).encode())
    assert answer.error == {"code": "X"}
    assert read_presence(b'{"eventType":"connect_failed","clientId":"x"}') is None


def test_reading_needs_no_pydantic() -> None:
    assert "pydantic" not in {name.partition(".")[0] for name in vars(sys.modules["karma.devices.payloads"])}

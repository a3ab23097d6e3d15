"""Payloads of devices: good ones, and bad ones by the reason that their owner sees."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.freeform import MAX_LEVELS
from karma.core.ids import new_id
from karma.devices.payloads import (
    Refused,
    Unreadable,
    read_event,
    read_heartbeat,
    read_presence,
    read_ready,
    read_response,
)
from karma.devices.samples import read_telemetry

NOW = 1_795_250_000_000


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
        (read_heartbeat, {"boot": "b", "ts": 1}),
        (read_event, {"boot": "b", "ts": 1, "kind": "Nope!"}),
        (read_event, {"boot": "b", "ts": 1, "kind": "status", "data": {"status": "exploded"}}),
        (read_event, {"boot": "b", "ts": 1, "kind": "status"}),
        (read_event, {"boot": "b", "ts": 1, "kind": "status", "data": ["ok"]}),
        (read_ready, {"boot": "b", "ts": -1}),
        (read_response, {"id": "x", "status": "succeeded", "ts": 1}),
        (read_response, {"id": new_id(), "status": "cancelled", "ts": 1}),
        (read_presence, {"eventType": "connected"}),
    ],
)
def test_a_bad_payload_is_refused_with_the_reason_that_its_owner_sees(read: Any, body: Any) -> None:
    with pytest.raises(Unreadable):
        read(json.dumps(body).encode())


@pytest.mark.fault("F-08a")
@pytest.mark.parametrize(
    ("read", "body", "field"),
    [
        (read_event, {"boot": "b", "ts": 1, "kind": "x"}, "data"),
        (read_response, {"id": new_id(), "status": "succeeded"}, "result"),
        (read_response, {"id": new_id(), "status": "failed"}, "error"),
    ],
)
@pytest.mark.parametrize("levels", [MAX_LEVELS, MAX_LEVELS + 1, 200])
def test_a_value_of_more_than_64_levels_is_named(read: Any, body: Any, field: str, levels: int) -> None:
    deep: dict[str, Any] = {}
    for _ in range(levels - 1):
        deep = {"a": deep}
    payload = json.dumps({**body, field: deep}).encode()

    said = read(payload)
    assert said.refused == (() if levels <= MAX_LEVELS else (Refused(field, "TOO_DEEP"),))
    if field != "data":
        assert getattr(said, field) == (deep if levels <= MAX_LEVELS else {"not_kept": "TOO_DEEP"})


def test_good_payloads_of_later_firmware_are_read() -> None:
    assert (
        read_heartbeat(b'{"boot":"b","seq":1,"ts":1,"ip":"10.0.0.7","firmware_version":"2.1","new":1}').ip == "10.0.0.7"
    )
    assert read_event(b'{"boot":"b","ts":1,"kind":"status","data":{"status":"error"}}').condition == "error"
    assert read_event(b'{"boot":"b","ts":1,"kind":"door.opened"}').condition is None
    answer = read_response(json.dumps({"id": new_id(), "status": "failed", "error": {"code": "X"}, "ts": 1}).encode())
    assert answer.error == {"code": "X"}
    assert read_response(json.dumps({"id": new_id(), "status": "failed", "error": "jammed"}).encode()).error == {
        "message": "jammed"
    }
    assert read_presence(b'{"eventType":"connect_failed","clientId":"x"}') is None


def test_reading_needs_no_pydantic() -> None:
    assert "pydantic" not in {name.partition(".")[0] for name in vars(sys.modules["karma.devices.payloads"])}

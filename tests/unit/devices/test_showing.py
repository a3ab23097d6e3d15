"""Dead letters of a device that changed hands show its receiver nothing that was written into them before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import new_id
from karma.devices.payloads import Refused, Unreadable, read_event, read_heartbeat, read_ready, read_response
from karma.devices.samples import read_telemetry
from karma.devices.showing import shown_to_owner

SINCE = 1_795_250_000_000
SECRET = "planted4711"
KINDS = ["telemetry", "heartbeat", "event", "ready", "response", "ask"]
TOPICS = {
    **{kind: f"dt/karma/T-1/{kind}" for kind in ("telemetry", "heartbeat", "event")},
    **{kind: f"cmd/karma/T-1/{kind}" for kind in ("ready", "response")},
    "ask": "file/karma/T-1/ask",
}
OLD = st.integers(0, SINCE - 1)
NEW = st.integers(SINCE, SINCE + 10**9)
PLANTED = st.one_of(
    st.just(f'"{SECRET}"'),
    OLD.map(lambda ts: f'{{"ts": {ts}, "{SECRET}": 1}}'),
    OLD.map(lambda ts: f'[{ts}, "{SECRET}", NaN]'),
    NEW.map(lambda ts: f'{{"ts": {ts}, "x": "{SECRET}"}}'),
)
"""Values that nothing dates, whatever they say themselves."""


def _object(members: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in members) + "}"


def _members(kind: str, ts: int) -> list[tuple[str, str]]:
    sample = _object([("ts", str(ts)), ("m", '{"a": 1, "b": "bad", "c": NaN}')])
    return {
        "telemetry": [("boot", '"b"'), ("seq", "1"), ("samples", f"[{sample}]")],
        "heartbeat": [("boot", '"b"'), ("seq", "1"), ("ts", str(ts)), ("ip", '"bad"'), ("firmware_version", "NaN")],
        "event": [("boot", '"b"'), ("ts", str(ts)), ("kind", '"status"'), ("data", '{"status": "bad"}')],
        "ready": [("boot", '"not a boot"'), ("ts", str(ts))],
        "response": [("id", f'"{new_id()}"'), ("status", '"failed"'), ("ts", str(ts)), ("error", '{"x": NaN}')],
        "ask": [("id", '"bad id"'), ("op", '"list"'), ("ts", str(ts))],
    }[kind]


@st.composite
def planted(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a message with something in it that is of before, or that nothing dates."""
    kind = draw(st.sampled_from(KINDS))
    members = _members(kind, draw(NEW))
    value, at = draw(PLANTED), draw(st.integers(0, len(members)))
    match draw(st.sampled_from(["unknown", "twice", "old", "undated", "inside", "name", "cut", "sample"])):
        case "unknown":
            members.insert(at, (draw(st.sampled_from([SECRET, "extra", "m", "summary", "samples2"])), value))
        case "twice":
            name = draw(st.sampled_from([name for name, _ in members]))
            members.insert(0, (name, value))
        case "old" | "undated" as age:
            stamp = str(draw(OLD)) if age == "old" else draw(st.sampled_from(["null", '"soon"', "1e400", "true"]))
            if kind == "telemetry":
                old = _object([("ts", stamp), ("m", f'{{"{SECRET}": 1}}')])
                members[2] = ("samples", draw(st.sampled_from([f"[{old}]", f"[{members[2][1][1:-1]}, {old}]"])))
            else:
                members = [(name, stamp if name == "ts" else said) for name, said in members]
                members[0] = (members[0][0], f'"{SECRET}"')
        case "inside":
            place = draw(st.integers(0, len(members) - 1))
            members[place] = (members[place][0], _object([("extra", value), ("status", value)]))
        case "name":
            members.append((SECRET, draw(st.sampled_from(["1", "NaN", "[]"]))))
        case "cut":
            return kind, (_object(members)[:-1] + f', "{SECRET}": ').encode()
        case "sample":
            twice = _object([("ts", str(draw(OLD))), ("ts", str(draw(NEW))), ("m", f'{{"{SECRET}": "bad"}}')])
            beside = _object(
                [("ts", str(draw(NEW))), (draw(st.sampled_from([SECRET, "extra", "m"])), value), ("m", "{}")]
            )
            members = [("samples", f"[{draw(st.sampled_from([twice, beside]))}]"), *members[:2], ("data", value)]
    return kind, _object(members).encode()


def _refused(kind: str, payload: bytes) -> tuple[Refused, ...]:
    """Return what the reader of such a message refuses of it."""
    readers: dict[str, Any] = {"heartbeat": read_heartbeat, "event": read_event, "response": read_response}
    try:
        if kind == "telemetry":
            return read_telemetry(payload, received_ms=SINCE + 10**9, since_ms=SINCE).refused
        if kind == "ready":
            read_ready(payload)
            return ()
        return tuple(readers[kind](payload).refused) if kind in readers else (Refused("id", "WRONG_VALUE"),)
    except Unreadable as exc:
        return exc.refused


@pytest.mark.fault("F-49a")
@given(planted())
def test_nothing_of_before_a_transfer_is_shown(message: tuple[str, bytes]) -> None:
    kind, payload = message
    shown = shown_to_owner(payload, _refused(kind, payload), topic=TOPICS[kind], since_ms=SINCE)
    assert SECRET not in shown.payload.decode()
    assert SECRET not in str(shown.refused)
    assert shown.is_withheld == (not shown.payload)


@pytest.mark.parametrize("kind", KINDS[:5])
@given(ts=NEW)
def test_what_is_all_of_since_then_is_shown_as_it_came(kind: str, ts: int) -> None:
    payload = _object(_members(kind, ts)).encode()
    refused = _refused(kind, payload)
    shown = shown_to_owner(payload, refused, topic=TOPICS[kind], since_ms=SINCE, is_own_answer=True)
    assert (shown.payload, shown.refused, shown.is_withheld) == (payload, refused, False)


@given(planted())
def test_a_device_of_its_first_owner_is_shown_as_it_came(message: tuple[str, bytes]) -> None:
    kind, payload = message
    assert shown_to_owner(payload, (), topic=TOPICS[kind], since_ms=0).payload == payload

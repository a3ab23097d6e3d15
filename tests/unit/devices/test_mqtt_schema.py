"""docs/mqtt.schema.json: what it accepts is taken, what it refuses is refused, and the page names every topic."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]

from karma.core.ids import CommandId, DeviceId, UserId, new_id
from karma.devices.dispatch import request_body
from karma.devices.domain import CommandStatus
from karma.devices.payloads import Unreadable, read_event, read_heartbeat, read_ready, read_response
from karma.devices.repository.commands import Pending
from karma.devices.samples import read_telemetry
from karma.devices.topics import read_topic, request_topic
from karma_device.messages import parse_request
from karma_device.settings import DeviceSettings
from karma_device_testing.cloud import wait_until

DOCS = Path(__file__).parents[3] / "docs"
SCHEMA: dict[str, Any] = json.loads((DOCS / "mqtt.schema.json").read_text())
NOW = 1_795_250_000_000


def accepts(name: str, body: Any) -> bool:
    validator = Draft202012Validator(
        {**SCHEMA, "$ref": f"#/$defs/{name}"}, format_checker=FormatChecker(["ipv4", "ipv6"])
    )
    return bool(validator.is_valid(body))


def wholly(read: Callable[[bytes], Any]) -> Callable[[bytes], object]:
    """Make a reader refuse a message of which something is refused."""

    def reader(payload: bytes) -> None:
        refused = read(payload).refused
        if refused:
            raise Unreadable(refused[0].reason, refused[0].field)

    return reader


READERS: dict[str, Callable[[bytes], object]] = {
    "telemetry": wholly(lambda payload: read_telemetry(payload, received_ms=NOW)),
    "heartbeat": wholly(read_heartbeat),
    "event": wholly(read_event),
    "ready": read_ready,
    "response": wholly(read_response),
}
GOOD: dict[str, dict[str, Any]] = {
    "telemetry": {"boot": "b1", "seq": 0, "samples": [{"ts": NOW, "m": {"temp_c": 41.2, "3v3": 3}}]},
    "heartbeat": {"boot": "b1", "seq": 1, "ts": NOW, "ip": "192.0.2.1", "firmware_version": "2.1"},
    "event": {"boot": "b1", "ts": NOW, "kind": "status", "data": {"status": "ok"}},
    "ready": {"boot": "b1", "ts": NOW},
    "response": {"id": new_id(), "status": "succeeded", "result": {"a": 1}, "error": None, "ts": NOW},
}
odd = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 1.5, 1e300, 1.1e300, 2**63, NOW, 9_999_999_999, 10**10, "", "b\n", [], {}]
    ),
    st.sampled_from(
        ["status", "door.opened", "failed", "cancelled", "::1", "10.0.0.7", "999.1.1.1", "x" * 64, "x" * 65]
    ),
    st.sampled_from(
        [{"status": "error"}, {"status": "burning"}, {"x": 1}, [1], [{"ts": NOW, "m": {"a": 1}}], "a b", "a#b"]
    ),
    st.dictionaries(st.text(max_size=66), st.sampled_from([1, 1.5, -1e300, True, None, "1"]), max_size=3),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every place in a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inner for place in places(each, (*at, key)))]


@st.composite
def bodies(draw: st.DrawFn, name: str) -> Any:
    """Draw a good body in which up to two places are dropped, replaced, or get a neighbour."""
    body = json.loads(json.dumps({"": GOOD[name]}))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        whole, *inner = places(body)[1:]
        *path, last = draw(st.sampled_from([whole, *5 * inner]))
        holder = body
        for key in path:
            holder = holder[key]
        what = draw(st.sampled_from(["drop", "replace", "add"]))
        if what == "drop" and path:
            del holder[last]
        elif what == "add" and isinstance(holder, dict) and path:
            holder[draw(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=4))] = json.loads(
                json.dumps(draw(odd))
            )
        else:
            holder[last] = json.loads(json.dumps(draw(odd)))
        if body[""] in (None, [], {}):
            break
    return body[""]


@pytest.mark.fault("F-14b")
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_schema_accepts_what_is_taken_and_nothing_else(name: str, data: st.DataObject) -> None:
    body = data.draw(bodies(name))
    try:
        READERS[name](json.dumps(body).encode())
        taken = True
    except Unreadable as exc:
        # Whether a time is too old or in the future is not the schema's to say.
        if exc.reason in ("TOO_OLD", "FUTURE"):
            return
        taken = False
    assert accepts(name, body) == taken


@pytest.mark.fault("F-14b")
@given(
    st.sampled_from(["move", "a.b:c-d"]),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=3), max_size=2),
    st.booleans(),
)
def test_what_is_sent_to_devices_is_in_the_schema_and_read_by_our_client(
    command: str, params: dict[str, Any], serial: bool
) -> None:
    pending = Pending(
        id=CommandId(new_id()),
        device_id=DeviceId(new_id()),
        user_id=UserId(new_id()),
        serial_number="EOS-1",
        command=command,
        params=params,
        serial=serial,
        issued_ms=NOW,
        expires_ms=NOW + 60_000,
        status=CommandStatus.QUEUED,
    )
    body = json.loads(json.dumps(request_body(pending)))
    assert accepts("request", body)
    assert not accepts("request", {**body, "more": 1})
    for field in body:
        assert not accepts("request", {name: value for name, value in body.items() if name != field})
    assert parse_request(json.dumps(body).encode()).id == pending.id


@pytest.mark.fault("F-14b")
@pytest.mark.parametrize("name", [*READERS, "request"])
def test_the_page_names_each_topic(name: str) -> None:
    root = "cmd" if name in ("ready", "request", "response") else "dt"
    topic = f"{root}/karma/EOS-1/{name}"
    assert f"`{root}/karma/<thing>/{name}`" in (DOCS / "mqtt.md").read_text()
    if name == "request":
        assert request_topic("EOS-1") == topic
    else:
        source = read_topic(topic)
        assert source is not None
        assert (source.kind, source.thing) == (name, "EOS-1")


def examples() -> list[tuple[str, str]]:
    """Return every payload that the page shows, with the topic that it is of."""
    page = (DOCS / "mqtt.md").read_text()
    shown = [line.split(None, 1) for line in page.splitlines() if line.startswith("    ") and line.endswith("}")]
    found = [("telemetry", " ".join(each)) if each[0].startswith("{") else (each[0], each[1]) for each in shown]
    return [(name, text.replace("01a1fd64-…", new_id())) for name, text in found]


SHADOW = frozenset({"get", "get/accepted", "update", "update/delta"})
"""Messages of the shadow, whose form is AWS's."""


def test_the_page_s_example_of_settings_is_what_our_client_does() -> None:
    shown = {name: json.loads(text) for name, text in examples() if name in SHADOW}
    sent: list[tuple[str, Any]] = []
    base = "$aws/things/EOS-1/shadow/name/settings/"
    device = DeviceSettings("EOS-1", send=lambda topic, body: sent.append((topic[len(base) :], json.loads(body))))
    applied = threading.Event()

    @device.on_change
    def apply(wanted: dict[str, Any]) -> None:
        assert wanted == shown["update/delta"]["state"]
        applied.set()

    device.connected()
    device.receive(f"{base}get/accepted", json.dumps(shown["get/accepted"]).encode())
    assert applied.wait(20)
    device.receive(f"{base}update/delta", json.dumps(shown["update/delta"]).encode())
    wait_until(lambda: len(sent) > 1)
    assert sent[:2] == [("get", shown["get"]), ("update", shown["update"])]
    device.close()


@pytest.mark.fault("F-14b")
def test_the_page_s_examples_are_what_they_say() -> None:
    shown = [each for each in examples() if each[0] not in SHADOW]
    assert {name for name, _ in shown} | {"ready"} == {*READERS, "request", "ask", "answer"}
    for name, text in shown:
        assert accepts(name, json.loads(text)), text
        if name in READERS:
            READERS[name](text.encode())

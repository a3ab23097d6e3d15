"""Optional members of device messages, present or not and whatever they hold, change no effect of the required ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]

from karma.core import freeform
from karma.core.clock import from_epoch_ms
from karma.core.ids import CommandId, DeviceId, UserId
from karma.devices.allowance import HourlyAllowance
from karma.devices.dispatch import Dispatcher
from karma.devices.domain import Command, CommandStatus, DeviceState, Latest
from karma.devices.hearing import DeviceMessage
from karma.devices.ingest import IngestService
from karma.devices.payloads import MAX_ANSWER_BYTES
from karma.devices.repository.device_mapping import SerialClaim
from tests.fakes.commands import MemoryCommands
from tests.fakes.devices import FakeClock, FakePublisher, FakeWakeUps

S = CommandStatus
DEVICE = DeviceId("01a1fd64-5851-7599-9816-cee19b83f0aa")
FIRST, SECOND = (CommandId(f"01a1fd64-5851-7599-9816-00000000000{n}") for n in (1, 2))
USER = UserId("01a1fd64-5851-7599-9816-cee19b83f05c")
CLAIM = SerialClaim(
    serial_number="EOS-1",
    user_id=USER,
    device_id=DEVICE,
    certificate_ids=frozenset({"c1"}),
    state=DeviceState.ACTIVE,
)
SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[3] / "docs/mqtt.schema.json").read_text())
REQUIRED: dict[str, dict[str, Any]] = {
    "telemetry": {"boot": "b", "seq": 1, "samples": [{"ts": 1_795_250_000_000, "m": {"t": 1}}]},
    "heartbeat": {"boot": "b", "seq": 1, "ts": 1},
    "event": {"boot": "b", "ts": 1, "kind": "door.opened"},
    "ready": {"boot": "b", "ts": 1},
    "response": {"id": FIRST, "status": "succeeded"},
}
OPTIONAL = {kind: sorted({*SCHEMA["$defs"][kind]["properties"]} - {*body}) for kind, body in REQUIRED.items()}
"""Optional members by the schema, so that a new member is tried here."""


class Scene:
    """A serial command on its way, another behind it, and the service that hears the device."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.commands = MemoryCommands()
        self.publisher = FakePublisher()
        self.latest = Latest()
        self.letters: list[dict[str, Any]] = []
        first = Command(
            id=FIRST,
            device_id=DEVICE,
            user_id=USER,
            serial_number="EOS-1",
            command="open",
            params={},
            status=S.SENT,
            serial=True,
            issued_ms=self.clock.ms,
            expires_ms=self.clock.ms + 60_000,
        )
        for command in (first, replace(first, id=SECOND, status=S.QUEUED)):
            self.commands.add(command, cast("Any", SimpleNamespace(id=DEVICE)), now=from_epoch_ms(self.clock.ms))
        self.ingest = IngestService(
            devices=cast("Any", SimpleNamespace(claim_of=lambda _, **__: CLAIM, merge_latest=self._merge)),
            telemetry=cast("Any", SimpleNamespace(store=lambda *_: True)),
            dead_letters=cast("Any", SimpleNamespace(store=lambda _, **letter: self.letters.append(letter))),
            allowance=HourlyAllowance(cast("Any", SimpleNamespace(take=lambda *_, **__: True))),
            dispatcher=Dispatcher(cast("Any", self.commands), self.publisher, FakeWakeUps(self.clock), self.clock),
            clock=self.clock,
        )

    def _merge(self, _claim: SerialClaim, said: Latest, **_: Any) -> Latest:
        self.latest = self.latest.merge(said)
        return self.latest

    def hear(self, kind: str, payload: bytes) -> None:
        root = "cmd" if kind in ("ready", "response") else "dt"
        assert self.ingest.take([DeviceMessage("m", f"{root}/karma/EOS-1/{kind}", "c1", payload, self.clock.ms)]) == []

    def effect(self) -> Any:
        """Return the state that the required members can change."""
        seen = replace(self.latest, ip=None, ip_ms=0, firmware_version=None, firmware_ms=0)
        return seen, {each.id: each.status for each in self.commands.commands.values()}, self.publisher.ids


trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["192.0.2.7", "::1", "", "192.0.2.8/24", "fe80::1%eth0", "2.1.0", "β", "x" * 51]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
deep = st.sampled_from([63, 64, 65, 300, 1_500]).map(lambda levels: "[" * levels + "]" * levels)
large = st.sampled_from(["x" * 40_000, {"log": ["é" * 20_000]}]).map(
    lambda value: json.dumps(value, ensure_ascii=False)
)
"""Values over the limit of answers alone; two of them are within that of payloads."""
written = (
    trees.map(json.dumps) | deep | large | st.sampled_from(["-nan(ind)", "1e999", r'{"a": "\ud83d"}', r'"\ud83d"'])
)


def is_kept(kind: str, member: str, text: str) -> bool:
    """Tell whether a member can be kept as it is: JSON as the schema has it, not too deep, not too large."""
    try:
        value = freeform.loads(text, levels=None, is_exact=False)
    except ValueError:
        return False
    if member in ("result", "error") and not isinstance(value, dict):
        value = {"value": value}
    if freeform.is_deeper(value) or (kind == "response" and len(text.encode()) > MAX_ANSWER_BYTES):
        return False
    if member == "ts" and isinstance(value, float):
        return False  # to a schema 1.0 is an integer; docs/mqtt.md wants it without a fraction
    schema = {**SCHEMA, **SCHEMA["$defs"][kind]["properties"][member]}
    validator = Draft202012Validator(schema, format_checker=FormatChecker(["ipv4", "ipv6"]))
    return bool(validator.is_valid(value))


@pytest.mark.fault("F-11d", "F-12g")
@pytest.mark.parametrize("kind", [kind for kind, members in OPTIONAL.items() if members])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_whatever_they_hold_the_rest_takes_effect_and_the_letter_names_them(kind: str, data: st.DataObject) -> None:
    known = st.fixed_dictionaries({}, optional=dict.fromkeys(OPTIONAL[kind], written))
    members = data.draw(known)
    body = [json.dumps(REQUIRED[kind])[1:-1], *(f"{json.dumps(name)}: {text}" for name, text in members.items())]
    plain, scene = Scene(), Scene()
    plain.hear(kind, json.dumps(REQUIRED[kind]).encode())
    scene.hear(kind, f"{{{', '.join(data.draw(st.permutations(body)))}}}".encode())
    assert plain.letters == []
    assert scene.effect() == plain.effect() != Scene().effect()
    named = {each.field.partition("[")[0] for letter in scene.letters for each in letter["refused"]}
    assert named == {name for name, text in members.items() if not is_kept(kind, name, text)}
    assert all(letter["taken"] for letter in scene.letters)


@pytest.mark.fault("F-11d")
@pytest.mark.parametrize(
    ("member", "said", "kept"),
    [
        *[("result", each, {"value": each}) for each in ("ok", [1, 2], True, False, 0, 42, 1.5, "")],
        *[("error", each, {"value": each}) for each in (["jam"], True, 7)],
        ("error", "jam", {"message": "jam"}),
        ("result", {}, {}),
        ("result", None, None),
    ],
)
def test_a_value_that_is_no_object_is_stored_within_one(member: str, said: Any, kept: Any) -> None:
    scene = Scene()
    scene.hear("response", json.dumps({**REQUIRED["response"], member: said}).encode())
    assert getattr(scene.commands.commands[FIRST], member) == kept
    assert scene.letters == []


@pytest.mark.fault("F-11d")
@given(result=st.integers(0, 60_000), error=st.integers(0, 60_000), other=st.integers(0, 7_000))
@settings(max_examples=60, deadline=None)
def test_of_a_value_that_is_too_large_the_beginning_is_stored(result: int, error: int, other: int) -> None:
    scene, said = Scene(), {"result": {"log": "r" * result}, "error": {"log": "e" * error}}
    scene.hear("response", json.dumps({**REQUIRED["response"], **said, "debug": "d" * other}).encode())
    command = scene.commands.commands[FIRST]
    kept = {"result": command.result, "error": command.error}
    marked = {name: value for name, value in kept.items() if value != said[name]}
    for name, value in marked.items():
        text = json.dumps(said[name], separators=(",", ":"))
        assert value == {"not_kept": "TOO_LARGE", "size": len(text), "begins": text[:1_000]}
    both = result + error + 2 * len('{"log":""}')
    assert bool(marked) == (both > MAX_ANSWER_BYTES), "what else an answer holds is not kept and takes no room"
    assert len(json.dumps(kept)) < MAX_ANSWER_BYTES + 2_500
    assert {each.field for letter in scene.letters for each in letter["refused"]} == {*marked}

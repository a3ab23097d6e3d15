"""Messages of a device that come after it changed hands: the receiver sees nothing of before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from karma.core.ids import DeviceId, new_id
from karma.devices.domain import CommandStatus
from karma.devices.repository.dead_letters import DeadLetter
from karma.devices.service import Created
from tests.support.devices import World
from tests.support.hands import Hands


@pytest.fixture
def hands(world: World) -> Hands:
    return Hands(world)


@pytest.mark.fault("F-45a")
def test_an_answer_right_after_a_transfer_counts_at_once_in_a_process_that_knew_the_giver(hands: Hands) -> None:
    world = hands.world
    world.connect(hands.made)
    hands.tell_sample(hands.made, 1.0, seq=1)
    world.clock.pass_time(seconds=1)
    device = hands.hand_over()
    mine = device.current.device.id
    sent = world.commands.send(hands.bob, mine, "unlock", ttl_s=60, serial_order=True)
    behind = world.commands.send(hands.bob, mine, "lock", ttl_s=60)
    assert (sent.status, behind.status) == (CommandStatus.SENT, CommandStatus.QUEUED)
    answer = world.message(device, "response", {"id": sent.id, "status": "succeeded", "ts": world.clock.ms})
    world.tell(answer, world.message(device, "telemetry", world.samples((0, 2.0), seq=2)))
    assert world.commands.get(hands.bob, mine, sent.id).status is CommandStatus.SUCCEEDED
    assert world.commands.get(hands.bob, mine, behind.id).status is CommandStatus.SENT
    assert hands.values(hands.bob, mine) == [2.0]


@pytest.mark.fault("F-45a")
def test_a_device_that_changes_hands_again_and_again_is_given_back(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = hands.world
    claim = world.repository.claim_of(hands.serial, consistent=True)
    assert claim is not None
    others = [replace(claim, device_id=DeviceId(new_id())) for _ in range(8)]
    reads = iter(others)
    monkeypatch.setattr(world.repository, "claim_of", lambda *_, **__: next(reads))
    monkeypatch.setattr(world.repository, "merge_latest", lambda *_, **__: False)
    message = world.message(hands.made, "telemetry", world.samples((0, 2.0), seq=2))
    assert world.ingest.take([message]) == [message.id]


SECRET = "4711"
"""Part of each message below that tells of before; no dead letter of the receiver's has it."""


def _metrics(*values: Any) -> dict[str, Any]:
    return {f"m{place}": value for place, value in enumerate(values)}


@pytest.mark.fault("F-45b")
@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([(-15_000, _metrics(4711, "x"))], id="one-metric-bad"),
        pytest.param([(-15_000, _metrics("4711 text"))], id="all-bad"),
        pytest.param([(-15_000, _metrics("4711")), (0, _metrics(1, "x"))], id="bad-before-good"),
        pytest.param([(-15_000, _metrics(4711)), (-15_000, "x")], id="no-metrics"),
        pytest.param([(-15_000, {"4711 ": 1}), (0, _metrics("x"))], id="bad-name"),
        pytest.param([(None, _metrics(4711)), (0, _metrics(1))], id="undated"),
        pytest.param([(-40 * 86_400_000, _metrics(4711)), (0, _metrics("x"))], id="too-old"),
    ],
)
def test_no_dead_letter_tells_the_receiver_what_was_measured_before(hands: Hands, samples: list[Any]) -> None:
    world = hands.world
    world.clock.pass_time(seconds=1)
    device = hands.hand_over()
    world.restart_ingest()
    world.clock.pass_time(seconds=10)
    said = [{"m": m} if at is None else {"ts": world.clock.ms + at, "m": m} for at, m in samples]
    world.tell(world.message(device, "telemetry", {"boot": "b", "seq": 1, "samples": said}))
    for letter in _letters(hands, device):
        assert letter.payload == b""
        assert SECRET not in str(letter.refused)


def _letters(hands: Hands, device: Created) -> list[DeadLetter]:
    mine, now_s = device.current.device.id, hands.world.clock.now().timestamp()
    return list(hands.world.dead_letters.page(mine, limit=9, now_s=now_s)[0])


@pytest.mark.fault("F-45b")
@pytest.mark.parametrize("kind", ["telemetry", "heartbeat", "event", "response"])
def test_what_cannot_be_dated_is_not_shown_to_the_receiver(hands: Hands, kind: str) -> None:
    world = hands.world
    world.clock.pass_time(seconds=1)
    device = hands.hand_over()
    world.restart_ingest()
    world.tell(world.message(device, kind, b'{"boot": "b", "seq": 7, "x": 4711'))
    [letter] = _letters(hands, device)
    assert (letter.payload, letter.refused[0].reason) == (b"", "NOT_JSON")


BAD = '{"ts": NOW, "m": {"a": "bad"}}'


@pytest.mark.fault("F-49a")
@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        pytest.param(
            "telemetry", f'{{"boot": "b", "seq": 1, "day": {{"4711": OLD}}, "samples": [{BAD}]}}', id="beside"
        ),
        pytest.param("telemetry", f'{{"boot": "b", "seq": 1, "samples": [{BAD[:-1]}, "4711": OLD}}]}}', id="in-sample"),
        pytest.param(
            "telemetry",
            f'{{"boot": "b", "seq": 1, "samples": [{{"ts": OLD, "m": {{"4711": 1}}}}], "samples": [{BAD}]}}',
            id="samples-twice",
        ),
        pytest.param(
            "telemetry",
            '{"boot": "b", "seq": 1, "samples": [{"ts": OLD, "ts": NOW, "m": {"4711": "bad"}}]}',
            id="ts-twice",
        ),
        pytest.param(
            "event",
            '{"boot": "b", "ts": NOW, "kind": "status", "data": {"status": "x", "log": [{"ts": OLD, "t": 4711}]}}',
            id="event",
        ),
        pytest.param(
            "event", '{"boot": "b", "ts": NOW, "kind": "door", "data": {"4711": NaN}}', id="data-named-by-the-device"
        ),
        pytest.param(
            "heartbeat",
            '{"boot": "b", "seq": 9, "ts": NOW, "ip": "bad", "was": {"ts": OLD, "ip": 4711}}',
            id="heartbeat",
        ),
    ],
)
def test_a_dead_letter_withholds_what_its_reader_passes_over(hands: Hands, kind: str, payload: str) -> None:
    world = hands.world
    then = world.clock.ms
    world.clock.pass_time(seconds=10)
    device = hands.hand_over()
    world.restart_ingest()
    world.clock.pass_time(seconds=1)
    said = payload.replace("OLD", str(then)).replace("NOW", str(world.clock.ms))
    world.tell(world.message(device, kind, said.encode()))
    [letter] = _letters(hands, device)
    assert (letter.payload, letter.is_withheld) == (b"", True)
    assert SECRET not in str(letter.refused)


@pytest.mark.fault("F-45b")
def test_what_is_of_after_a_transfer_is_shown_in_dead_letters(hands: Hands) -> None:
    world = hands.world
    world.connect(hands.made)
    world.clock.pass_time(seconds=1)
    device = hands.hand_over()
    world.restart_ingest()
    sent = world.commands.send(hands.bob, device.current.device.id, "read")
    answer = {"id": sent.id, "status": "succeeded", "result": {"all": "x" * 40_000}}
    world.tell(world.message(device, "telemetry", world.samples((0, float("nan")), (0, 1.0), seq=1)))
    world.tell(world.message(device, "response", answer))
    assert sorted(bool(letter.payload) for letter in _letters(hands, device)) == [True, True]


@pytest.mark.fault("F-45b")
def test_an_answer_to_the_giver_s_command_is_not_shown_to_the_receiver(hands: Hands) -> None:
    world = hands.world
    world.connect(hands.made)
    sent = world.commands.send(hands.ada, hands.device_id, "read")
    world.clock.pass_time(seconds=1)
    device = hands.hand_over()
    world.restart_ingest()
    answer = {"id": sent.id, "status": "succeeded", "result": {"all": "4711" * 10_000}, "ts": world.clock.ms}
    world.tell(world.message(device, "response", answer))
    [letter] = _letters(hands, device)
    assert letter.payload == b""


@pytest.mark.fault("F-45b")
def test_what_a_device_dates_before_a_transfer_changes_nothing_of_the_receiver_s(hands: Hands) -> None:
    world = hands.world
    then = world.clock.ms
    world.clock.pass_time(seconds=10)
    device = hands.hand_over()
    world.restart_ingest()
    world.tell(
        world.message(device, "event", {"boot": "b", "ts": then, "kind": "status", "data": {"status": "error"}}),
        world.message(
            device, "heartbeat", {"boot": "b", "seq": 1, "ts": then, "ip": "192.0.2.7", "firmware_version": "0.1"}
        ),
    )
    mine = device.current.device.id
    latest = world.devices.get(hands.bob, mine).latest
    assert (latest.condition, latest.ip, latest.firmware_version, latest.last_seen_ms) == (
        "",
        None,
        None,
        world.clock.ms,
    )
    world.tell(
        world.message(
            device, "event", {"boot": "b", "ts": world.clock.ms, "kind": "status", "data": {"status": "error"}}
        )
    )
    assert world.devices.get(hands.bob, mine).latest.condition == "error"

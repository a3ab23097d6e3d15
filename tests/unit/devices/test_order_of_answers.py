"""Several answers to one command, in whatever order the queue delivers them: the first to reach the broker counts."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.core.clock import from_epoch_ms
from karma.core.ids import CommandId, DeviceId, UserId
from karma.devices.allowance import HourlyAllowance
from karma.devices.dispatch import Dispatcher
from karma.devices.domain import Command, CommandStatus, DeviceState
from karma.devices.hearing import DeviceMessage
from karma.devices.ingest import IngestService
from karma.devices.repository.device_mapping import SerialClaim
from tests.fakes.commands import MemoryCommands
from tests.fakes.devices import FakeClock, FakePublisher, FakeWakeUps

S = CommandStatus
DEVICE = DeviceId("01a1fd64-5851-7599-9816-cee19b83f0aa")
COMMAND = CommandId("01a1fd64-5851-7599-9816-000000000001")
USER = UserId("01a1fd64-5851-7599-9816-cee19b83f05c")


class Scene:
    """A command that was sent, and the service that takes its answers."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.commands = MemoryCommands()
        command = Command(
            id=COMMAND,
            device_id=DEVICE,
            user_id=USER,
            serial_number="EOS-1",
            command="move",
            params={},
            status=S.SENT,
            serial=False,
            issued_ms=self.clock.ms,
            expires_ms=self.clock.ms + 60_000,
        )
        self.commands.add(command, cast("Any", SimpleNamespace(id=DEVICE)), now=from_epoch_ms(self.clock.ms))
        claim = SerialClaim(
            serial_number="EOS-1",
            user_id=USER,
            device_id=DEVICE,
            certificate_ids=frozenset({"c1"}),
            state=DeviceState.ACTIVE,
        )
        devices = SimpleNamespace(claim_of=lambda _, **__: claim, merge_latest=lambda *_, **__: claim)
        self.ingest = IngestService(
            devices=cast("Any", devices),
            telemetry=cast("Any", None),
            dead_letters=cast("Any", None),
            allowance=HourlyAllowance(cast("Any", SimpleNamespace(take=lambda *_, **__: True))),
            dispatcher=Dispatcher(cast("Any", self.commands), FakePublisher(), FakeWakeUps(self.clock), self.clock),
            clock=self.clock,
        )

    def answer(self, number: int, status: CommandStatus, *, at_ms: int, ts: int | None) -> DeviceMessage:
        body = {"id": COMMAND, "status": status, "result": {"n": number}} | ({} if ts is None else {"ts": ts})
        topic = "cmd/karma/EOS-1/response"
        return DeviceMessage(f"m{number}", topic, "c1", orjson.dumps(body), self.clock.ms + at_ms)

    def seen(self) -> tuple[CommandStatus, Any, Any]:
        found = self.commands.commands[COMMAND]
        late = found.late_result
        return found.status, found.result, late and (late.status, late.result)


statuses = st.sampled_from([S.ACKNOWLEDGED, S.SUCCEEDED, S.FAILED, S.REJECTED])


@pytest.mark.fault("F-11c")
@settings(max_examples=12, deadline=None)
@given(said=st.lists(statuses, min_size=2, max_size=3), gap_ms=st.integers(0, 2))
def test_a_batch_ends_alike_in_whatever_order_it_comes(said: list[CommandStatus], gap_ms: int) -> None:
    ends = set()
    for order in itertools.permutations(range(len(said))):
        scene = Scene()
        # Within one millisecond of the broker the device's own time decides.
        sent = [
            scene.answer(number, status, at_ms=number * gap_ms, ts=None if gap_ms else 1_000 + number)
            for number, status in enumerate(said)
        ]
        assert scene.ingest.take([sent[each] for each in order]) == []
        ends.add(repr(scene.seen()))
        final = [number for number, status in enumerate(said) if status is not S.ACKNOWLEDGED]
        if final:
            assert scene.seen()[:2] == (said[final[0]], {"n": final[0]})
            later = final[1:]
            assert scene.seen()[2] == ((said[later[0]], {"n": later[0]}) if later else None)
    assert len(ends) == 1


@pytest.mark.fault("F-11a")
def test_what_another_batch_recorded_stays_and_what_was_earlier_is_told() -> None:
    scene = Scene()
    first, second = (scene.answer(n, status, at_ms=n, ts=n) for n, status in enumerate((S.SUCCEEDED, S.FAILED)))
    scene.ingest.take([second])
    scene.ingest.take([first])
    assert scene.seen() == (S.FAILED, {"n": 1}, (S.SUCCEEDED, {"n": 0}))
    found = scene.commands.commands[COMMAND]
    assert found.late_result is not None
    assert found.late_result.received_ms == first.received_ms < second.received_ms

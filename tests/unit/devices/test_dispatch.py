"""Commands of a queue that may be sent at the same time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from karma.core.ids import CommandId, DeviceId, UserId, new_id
from karma.devices.dispatch import publishable
from karma.devices.domain import CommandStatus
from karma.devices.repository.commands import Pending


def entry(serial: bool) -> Pending:
    return Pending(
        id=CommandId(new_id()),
        device_id=DeviceId(""),
        user_id=UserId(""),
        serial_number="EOS-1",
        command="blink",
        params={},
        serial=serial,
        issued_ms=0,
        expires_ms=1,
        status=CommandStatus.QUEUED,
    )


def test_serial_commands_go_alone() -> None:
    free, serial = entry(False), entry(True)
    assert publishable([]) == []
    assert publishable([serial, free]) == [serial]
    assert publishable([free, free, serial, free]) == [free, free]
    assert publishable([serial, serial]) == [serial]


@given(st.lists(st.booleans(), max_size=8))
def test_a_queue_always_moves_and_never_mixes(kinds: list[bool]) -> None:
    queue = [entry(serial) for serial in kinds]
    head = publishable(queue)
    assert head == queue[: len(head)]
    assert bool(head) == bool(queue)
    assert len(head) == 1 or not any(one.serial for one in head)

"""A fire sends no command that is the device's owner's alone, and a schedule is not written for one."""

from __future__ import annotations

from typing import Any, cast

import pytest

from karma.core.errors import Forbidden
from karma.core.ids import DeviceId, UserId
from karma.devices.lookup import DeviceLookup, FoundDevice
from karma.schedules.commanding import ScheduledCommands, addressed

OWNER, MEMBER = UserId("owner"), UserId("member")


class Shown:
    """A device of the owner's that a project shows to a member."""

    def find(self, _: UserId, device_id: str) -> FoundDevice:
        return FoundDevice(OWNER, DeviceId(device_id))

    def resolve(self, _: UserId, ref: str) -> DeviceId:
        return DeviceId(ref)


SHOWN = cast("DeviceLookup", Shown())


@pytest.mark.fault("F-48e")
def test_a_member_s_schedule_is_refused_where_it_is_written_and_where_it_fires() -> None:
    with pytest.raises(Forbidden):
        addressed(SHOWN, MEMBER, "d", "certificate.request")
    assert addressed(SHOWN, MEMBER, "d", "ping") == "d"
    assert addressed(SHOWN, OWNER, "d", "certificate.request") == "d"

    class Schedule:
        user_id = MEMBER
        command = {"command": "certificate.request", "ttl_s": 60, "device_id": "d"}  # noqa: RUF012

    nothing: Any = None
    with pytest.raises(Forbidden):
        ScheduledCommands(nothing, SHOWN).begin(cast("Any", Schedule()), nothing, nothing, also=nothing)

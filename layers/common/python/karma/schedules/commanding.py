"""Commands of schedules: a fire makes a bulk command, to one device or to those that have a tag then.

The bulk command is stored in the transaction that moves the schedule on to its next fire, with an id that derives from
both, and from there on it is sent as any other (karma/devices/bulk.py): each device is sent its command once, and what
became of it is read there. So a fire has its bulk command, whole, or it has none and its schedule says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from karma.core.ids import BulkId, DeviceId, UserId
from karma.core.lines import composed
from karma.devices.bulk import BulkKey, BulkLimit
from karma.devices.bulk_commands import BulkCommandService, BulkOrder
from karma.devices.commands import require_of_members
from karma.devices.lookup import DeviceLookup
from karma.runs.ports import Also
from karma.schedules.domain import FireKey, Schedule

if TYPE_CHECKING:
    from karma.billing.plans import Plan


class ScheduledCommands:
    """Makes the bulk commands of schedules' fires."""

    def __init__(self, bulks: BulkCommandService, devices: DeviceLookup) -> None:
        self._bulks = bulks
        self._devices = devices

    def begin(self, schedule: Schedule, key: FireKey, plan: Plan, *, also: Also) -> bool:
        """See FireCommands; one read of a device, or its list by age, and one transaction.

        A device of another's is sent it while a project shows it to the schedule's owner in a role that may.
        """
        order = order_of(schedule.command or {})
        for device_id in order.device_ids:
            require_allowed(self._devices, schedule.user_id, device_id, order.command)
        limit = BulkLimit(plan.name.value, plan.limits.bulk_devices)
        bulk = BulkKey(key.user_id, key.bulk_id)
        return self._bulks.create_with(bulk, order, limit=limit, also=also, schedule_id=schedule.id)

    def is_at_work(self, user_id: UserId, bulk_id: BulkId | None) -> bool:
        """See FireCommands; one Get, and while it is not over one Query and a BatchGet a hundred devices."""
        return bulk_id is not None and self._bulks.is_at_work(BulkKey(user_id, bulk_id))


def require_allowed(devices: DeviceLookup, user_id: UserId, device_id: str, command: str) -> None:
    """Require that an account may send a device a command, which is shown to it by a project if it is another's.

    Raises:
        NotFound: the device does not exist, or is not shown to the account.
        Forbidden: the command is its owner's alone.
    """
    if devices.find(user_id, device_id).owner_id != user_id:
        require_of_members(command)


def addressed(devices: DeviceLookup, user_id: UserId, ref: str, command: str) -> DeviceId:
    """Return the id of a device, named by id or serial number, that is to be sent a command; raises likewise."""
    device_id = devices.resolve(user_id, ref)
    require_allowed(devices, user_id, device_id, command)
    return device_id


def order_of(command: Mapping[str, Any]) -> BulkOrder:
    """Read what a schedule keeps of its command."""
    device_id, tag = command.get("device_id"), command.get("tag")
    return BulkOrder(
        command=command["command"],
        params=command.get("params") or {},
        ttl_s=command["ttl_s"],
        serial=command.get("serial", False),
        tag=composed(tag) if tag is not None else None,
        device_ids=(device_id,) if device_id else (),
    )

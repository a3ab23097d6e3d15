"""Removal of the shares of a device that is gone, as sweeps and deletions make it: a crash test runs to its calls."""

from typing import Any

from karma.core.dynamo.tables import bind_names
from karma.core.ids import DeviceId
from karma.projects.removal import SharesOfDevices
from karma.projects.repository.devices import ProjectDeviceRepository


def run(event: dict[str, Any], context: object) -> dict[str, int]:
    """Remove all shares of the device that the event names."""
    bind_names(event["tables"])
    removal = SharesOfDevices(ProjectDeviceRepository())
    return {"removed": removal.remove(DeviceId(event["device_id"]), limit=100)}

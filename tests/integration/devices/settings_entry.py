"""A change of a device's settings, as the route makes it: a crash test runs to each of its calls."""

import os
from typing import Any

from karma.audit.domain import NOWHERE
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_names
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.settings_changes import SettingsChangeRepository
from karma.devices.settings import Asker, SettingsService
from karma.integrations.iot_shadows import IotShadows


def change(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Change the settings of the device that the event names."""
    bind_names(event["tables"])
    shadows = IotShadows(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    service = SettingsService(DeviceRepository(), SettingsChangeRepository(), shadows, SystemClock())
    by = Asker(user_id=event["user"], source=NOWHERE)
    seen = service.change(event["user"], event["device"], event["desired"], by=by, version=event["version"])
    return dict(seen.desired)

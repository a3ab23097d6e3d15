"""The orphan sweep over a short retention: each day of it is a call, and a crash test runs to each call."""

import os
from typing import Any

from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_names
from karma.devices.sweeps import sweep_orphans
from karma.integrations.iot import IotRegistry


def sweep(event: dict[str, Any], context: object) -> dict[str, int]:
    """Sweep the tables that the event names."""
    bind_names(event)
    changed = sweep_orphans(
        registry=IotRegistry(policy_name="", data_endpoint_url=os.environ["AWS_ENDPOINT_URL"]),
        clock=SystemClock(),
        retention_s=0,
    )
    return {"changed": changed}

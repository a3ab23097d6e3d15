"""An import with a key of its own, as the route makes it: a crash test runs to each of its calls."""

from typing import Any

from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_names
from karma.devices.device_csv import read_table
from karma.devices.importing import ImportService
from karma.devices.repository.devices import DeviceRepository
from tests.support.plans import allowance
from tests.support.requests import key


def run(event: dict[str, Any], context: object) -> dict[str, int]:
    """Import the list that the event names."""
    bind_names(event["tables"])
    service = ImportService(DeviceRepository(), SystemClock())
    make = service.import_all if event["whole"] else service.import_each
    report = make(
        event["user"], read_table(event["csv"]), allowance=allowance(event["user"]), idempotency_key=key(event["key"])
    )
    return {"created": len(report.created)}

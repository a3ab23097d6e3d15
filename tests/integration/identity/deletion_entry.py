"""The consumer of deletions over a short retention: each day of it is a call, and a crash test runs to each call."""

from functools import partial
from typing import Any

from background import deletion
from karma.devices.repository.deleted_devices import DeletedDeviceRepository

vars(deletion)["DeletedDeviceRepository"] = partial(DeletedDeviceRepository, retention_s=0)


def handle(event: dict[str, Any], context: Any) -> Any:
    return deletion.lambda_handler(event, context)

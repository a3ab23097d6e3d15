"""What the cloud sends to devices."""

from __future__ import annotations

from typing import Any, Protocol

from karma.devices.repository.commands import Pending


class CommandPublisher(Protocol):
    """Sends a request to one device; integrations.iot.IotPublisher is the real one."""

    def publish_command(self, thing: str, request: dict[str, object], *, command_id: str, expires_in_s: int) -> None:
        """Publish QoS 1; may reach the device more than once."""
        ...


def request_body(pending: Pending) -> dict[str, Any]:
    """Return the body of `cmd/karma/<thing>/request`."""
    return {
        "id": pending.id,
        "command": pending.command,
        "params": pending.params,
        "issued_at": pending.issued_ms,
        "expires_at": pending.expires_ms,
        "serial": pending.serial,
    }

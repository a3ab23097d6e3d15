"""What devices need of the world outside; integrations/iot.py is the real one, tests/fakes/devices.py the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from karma.core.ids import DeviceId, UserId
from karma.devices.credentials import Certificate, Endpoint


class Registry(Protocol):
    """What creating and deleting asks of IoT; each step may be repeated."""

    def endpoint(self) -> Endpoint:
        """Where devices connect."""
        ...

    def create_thing(self, thing: str, *, device_id: str) -> None:
        """Create or adopt a thing."""
        ...

    def create_certificate(self, *, csr: str = "") -> Certificate:
        """Make an inactive certificate."""
        ...

    def attach_certificate(self, thing: str, certificate: Certificate) -> None:
        """Bind to thing and policy, switch on."""
        ...

    def remove_certificate(self, certificate_arn: str, *, thing: str = "") -> None:
        """Switch off, unbind, delete."""
        ...

    def remove_certificates(self, thing: str) -> None:
        """Remove all certificates of a thing."""
        ...

    def unused_certificates(self, *, older_than_s: float, now_s: float, limit: int) -> Sequence[str]:
        """Find inactive certificates of no thing."""
        ...

    def remove_thing(self, thing: str) -> None:
        """Remove a thing with its certificates."""
        ...


class Leftovers(Protocol):
    """What another context keeps for a device; files.removal.FileLeftovers is one."""

    def remove(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` things of a deleted device; fewer than that were removed when nothing is left."""
        ...


class WakeUps(Protocol):
    """Calls the ingest function about one device later; devices.wake_ups.QueuedWakeUps is the real one."""

    def leave(self, user_id: UserId, device_id: DeviceId, *, delay_s: int) -> None:
        """Leave a call for `delay_s` seconds from now, at most 900; it may come later, and more than once.

        Raises:
            Upstream: not known to be left.
        """
        ...


class DelayedQueue(Protocol):
    """Delivers a text later; integrations.sqs.SqsQueue is the real one."""

    def send(self, body: str, *, delay_s: int = 0) -> None:
        """Enqueue one body.

        Raises:
            Upstream: not known to be enqueued.
        """
        ...


class CommandPublisher(Protocol):
    """Sends a request to one device; integrations.iot.IotPublisher is the real one."""

    def publish_command(self, thing: str, request: dict[str, object], *, command_id: str, expires_in_s: int) -> None:
        """Publish QoS 1; may reach the device more than once."""
        ...

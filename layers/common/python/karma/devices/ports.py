"""Ports of devices; implemented by integrations/iot.py and tests/fakes/devices.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from karma.core.ids import DeviceId, UserId
from karma.devices.credentials import Certificate, Endpoint

if TYPE_CHECKING:
    from karma.core.dynamo.transaction import Transaction
    from karma.devices.domain import Latest
    from karma.devices.samples import Batch
    from karma.devices.shadow import Json, Shadow
    from karma.identity.domain import Caller, User


Proof = Callable[["Caller", str | None], None]
"""Verifies that a caller is present, by the password if one is given; raises Forbidden, ValidationFailed otherwise."""
Join = Callable[["Transaction"], None]
"""Adds writes or conditions to a transaction of another one's."""


class Registry(Protocol):
    """The registry of IoT, for creating and deleting devices; each step may be repeated."""

    def endpoint(self) -> Endpoint:
        """Return the address at which devices connect."""
        ...

    def create_thing(self, thing: str, *, device_id: str) -> None:
        """Create a thing, or use the one that exists."""
        ...

    def create_certificate(self, *, csr: str = "") -> Certificate:
        """Create an inactive certificate; with `csr` for the device's own key."""
        ...

    def attach_certificate(self, thing: str, certificate: Certificate) -> None:
        """Attach a certificate to thing and policy, and activate it."""
        ...

    def permit_certificate(self, certificate: Certificate) -> None:
        """Attach a certificate that is of no thing to the policy, and activate it."""
        ...

    def remove_certificate(self, certificate_arn: str, *, thing: str = "") -> None:
        """Deactivate, detach and delete a certificate."""
        ...

    def remove_certificates(self, thing: str) -> None:
        """Remove all certificates of a thing."""
        ...

    def unused_certificates(self, *, older_than_s: float, now_s: float, limit: int) -> Sequence[str]:
        """List ARNs of certificates that were never active and are attached to no thing."""
        ...

    def remove_thing(self, thing: str) -> None:
        """Remove a thing with its certificates."""
        ...

    def discard_thing(self, thing: str, *, device_id: str) -> None:
        """Remove a thing without certificates, unless it is another device's by now."""
        ...


class Shadows(Protocol):
    """Settings of things at the broker; implemented by integrations.iot_shadows.IotShadows."""

    def read(self, thing: str) -> Shadow:
        """Read a thing's settings; version 0: it has none."""
        ...

    def update(self, thing: str, *, desired: Json, reported: Json, version: int, token: str) -> int | None:
        """Merge patches into a thing's settings and return the new version; None: they have another `version`."""
        ...

    def delete(self, thing: str) -> None:
        """Delete a thing's settings; none are fine."""
        ...


class DataOfDevices(Protocol):
    """Data that another context keeps for a device; one implementation is files.removal.FilesOfDevices."""

    def remove(self, device_id: DeviceId, *, limit: int) -> int:
        """Remove up to `limit` items of a deleted device and return how many; fewer than `limit`: none is left."""
        ...


class Accounts(Protocol):
    """Accounts that give and take devices; implemented by karma.identity.accounts.repository.users.UserRepository."""

    def find_by_email(self, email: str) -> User | None:
        """Find the owner of a normalised address."""
        ...

    def read_user(self, user_id: UserId) -> User | None:
        """Read an account, strongly consistent; None: it does not exist."""
        ...


class WakeUps(Protocol):
    """Wakes the ingest function for one device later; implemented by devices.wake_ups.QueuedWakeUps."""

    def leave(self, user_id: UserId, device_id: DeviceId, *, delay_s: int, again_ms: int = 0) -> None:
        """Enqueue a wake-up for `delay_s` seconds from now, at most 900; it may come later, and more than once.

        `again_ms`: commands that were sent before this time and not acknowledged are sent again; 0: none.

        Raises:
            Upstream: the queue does not answer; the wake-up may be enqueued.
        """
        ...


class DelayedQueue(Protocol):
    """A queue with delayed delivery; implemented by integrations.sqs.SqsQueue."""

    def send(self, body: str, *, delay_s: int = 0) -> None:
        """Enqueue one body.

        Raises:
            Upstream: the queue does not answer; the body may be enqueued.
        """
        ...


class CommandPublisher(Protocol):
    """Sends requests to devices; implemented by integrations.iot.IotPublisher."""

    def publish_command(self, thing: str, request: dict[str, object], *, command_id: str, expires_in_s: int) -> None:
        """Publish a request with QoS 1; it may reach the device more than once."""
        ...


class Stepped(NamedTuple):
    """New state beside a device's newest facts."""

    beside: Mapping[str, Any]
    join: Join | None = None
    """Writes what belongs to the change, with it; None: nothing does."""
    more: bool = False
    """True: one transaction does not hold all of it; the rest is asked for again."""


class Watch(Protocol):
    """Looks at samples of one device as its newest facts are written; implemented by karma.alarms.watching."""

    def step(self, beside: Mapping[str, Any], before: Latest, *, now: datetime) -> Stepped:
        """Return what becomes of `beside`, where `before` was the newest; asked again when another write came first."""
        ...


class Watcher(Protocol):
    """Watches devices for another context, which keeps its state beside the newest facts of each."""

    def watch(self, user_id: UserId, device_id: DeviceId, batches: Sequence[Batch]) -> Watch | None:
        """Return what looks at samples that were stored; None: nobody wants to know of this device."""
        ...

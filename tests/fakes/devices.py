"""Fakes of AWS IoT that refuse what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from karma.core.clock import Clock
from karma.core.errors import ValidationFailed
from karma.core.ids import DeviceId, UserId, new_id
from karma.devices.credentials import Certificate, Endpoint
from karma.devices.wake_ups import WakeUp
from karma.integrations.iot import DeviceServiceUnavailable
from karma.integrations.sqs import QueueUnavailable


class FakeClock:
    """A clock that stands still until told otherwise."""

    def __init__(self, start: datetime = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)) -> None:
        self.moment = start

    def now(self) -> datetime:
        return self.moment

    @property
    def ms(self) -> int:
        return round(self.moment.timestamp() * 1000)

    def pass_time(self, **span: float) -> None:
        self.moment += timedelta(**span)


@dataclass
class FakeRegistry:
    """Things and certificates in memory. `fail_at` names the step that does not answer next."""

    things: dict[str, str] = field(default_factory=dict)
    certificates: dict[str, str] = field(default_factory=dict)
    """Certificate ARN -> ACTIVE or INACTIVE."""
    attached: dict[str, str] = field(default_factory=dict)
    """Certificate ARN -> thing."""
    fail_at: str = ""

    def endpoint(self) -> Endpoint:
        self._maybe_fail("endpoint")
        return Endpoint("mqtt.example.com", 8883, "-----BEGIN CERTIFICATE-----\n")

    def create_thing(self, thing: str, *, device_id: str) -> None:
        self._maybe_fail("create_thing")
        self.things[thing] = device_id

    def create_certificate(self, *, csr: str = "") -> Certificate:
        self._maybe_fail("create_certificate")
        if csr == "unreadable":
            raise ValidationFailed.of("csr", "not a certificate signing request that can be signed")
        certificate_id = new_id().replace("-", "") * 2
        arn = f"arn:aws:iot:us-east-1:000000000000:cert/{certificate_id}"
        self.certificates[arn] = "INACTIVE"
        return Certificate(certificate_id, arn, "pem", None if csr else "private")

    def attach_certificate(self, thing: str, certificate: Certificate) -> None:
        assert thing in self.things
        self.attached[certificate.arn] = thing
        self._maybe_fail("attach_certificate")
        self.certificates[certificate.arn] = "ACTIVE"

    def permit_certificate(self, certificate: Certificate) -> None:
        self._maybe_fail("permit_certificate")
        self.certificates[certificate.arn] = "ACTIVE"

    def discard_thing(self, thing: str, *, device_id: str) -> None:
        self._maybe_fail("discard_thing")
        if self.things.get(thing) == device_id:
            assert thing not in self.attached.values()
            del self.things[thing]

    def remove_certificate(self, certificate_arn: str, *, thing: str = "") -> None:
        self._maybe_fail("remove_certificate")
        self.certificates.pop(certificate_arn, None)
        self.attached.pop(certificate_arn, None)

    def remove_certificates(self, thing: str) -> None:
        for arn in [arn for arn, owner in self.attached.items() if owner == thing]:
            self.remove_certificate(arn, thing=thing)

    def remove_thing(self, thing: str) -> None:
        self.remove_certificates(thing)
        self._maybe_fail("remove_thing")
        self.things.pop(thing, None)

    def unused_certificates(self, *, older_than_s: float, now_s: float, limit: int) -> Sequence[str]:
        return [arn for arn, state in self.certificates.items() if state == "INACTIVE" and arn not in self.attached]

    def _maybe_fail(self, step: str) -> None:
        if self.fail_at == step:
            raise DeviceServiceUnavailable("The device service did not answer; try again")


@dataclass
class FakeWakeUps:
    """Wake-ups that were enqueued; `due` returns those whose time has come, as the queue would."""

    clock: Clock
    left: list[tuple[datetime, UserId, DeviceId, int]] = field(default_factory=list)
    fails: bool = False

    def leave(self, user_id: UserId, device_id: DeviceId, *, delay_s: int, again_ms: int = 0) -> None:
        if self.fails:
            raise QueueUnavailable("The queue did not answer; try again")
        assert 0 <= delay_s <= 900, "SQS refuses others"
        self.left.append((self.clock.now() + timedelta(seconds=delay_s), user_id, device_id, again_ms))

    def due(self) -> list[WakeUp]:
        now = self.clock.now()
        come = [each[1:] for each in self.left if each[0] <= now]
        self.left = [each for each in self.left if each[0] > now]
        return [WakeUp(new_id(), *each) for each in come]


@dataclass
class FakeIngestQueue:
    """Messages that we ourselves enqueue for ingest."""

    bodies: list[str] = field(default_factory=list)
    fails: bool = False

    def send(self, body: str, *, delay_s: int = 0) -> None:
        assert delay_s == 0
        if self.fails:
            raise QueueUnavailable("The queue did not answer; try again")
        self.bodies.append(body)


@dataclass
class FakePublisher:
    """Requests that were published."""

    sent: list[tuple[str, Mapping[str, object], int]] = field(default_factory=list)
    """Thing, request, and seconds until it expires, of each request."""
    fails: bool = False

    def publish_command(self, thing: str, request: Mapping[str, object], *, command_id: str, expires_in_s: int) -> None:
        if self.fails:
            raise DeviceServiceUnavailable("The device service did not answer; try again")
        assert request["id"] == command_id
        self.sent.append((thing, request, expires_in_s))

    @property
    def ids(self) -> list[object]:
        return [request["id"] for _, request, _ in self.sent]

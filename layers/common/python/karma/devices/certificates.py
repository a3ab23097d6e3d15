"""Rotating a device's certificate: a new one is made while the old one still connects, then the old one is removed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from karma.core.clock import Clock, epoch_ms
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyCreated, Conflict, InvalidTransition, NotFound, Upstream
from karma.core.ids import DeviceId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, RepeatableRequest, no_longer, repeatable
from karma.core.sweeping import sweep_each
from karma.devices.credentials import Certificate, Endpoint
from karma.devices.domain import CurrentDevice, Device, DeviceState
from karma.devices.ports import Registry
from karma.devices.repository.device_mapping import SerialClaim
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.rotations import RotationRepository
from karma.devices.rotation import (
    DEFAULT_OVERLAP_S,
    CertificateRotation,
    DeviceCertificate,
    RotationOutcome,
    RotationStage,
    certificates_of,
)

LOOKED_AFTER: Final = timedelta(minutes=2)
"""Time after which the sweep takes a rotation that is still being made for given up: above a request's time."""
ROTATIONS_A_SWEEP: Final = 20


class Rotated(Record):
    """A device with a second certificate, whose private key is shown only once."""

    current: CurrentDevice
    certificate: Certificate
    endpoint: Endpoint


class CertificateService:
    """Makes and removes certificates of devices that exist."""

    def __init__(
        self, devices: DeviceRepository, rotations: RotationRepository, registry: Registry, clock: Clock
    ) -> None:
        self._devices = devices
        self._rotations = rotations
        self._registry = registry
        self._clock = clock

    def list(self, user_id: UserId, device_id: str) -> list[DeviceCertificate]:
        """Return the certificates by which a device may connect.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
        """
        device, claim = self._claim(user_id, device_id)
        return certificates_of(claim.certificate_ids, device.overlap)

    def require(self, user_id: UserId, device_id: str, certificate_id: str) -> DeviceCertificate:
        """Return one of them.

        Raises:
            NotFound: device or certificate do not exist, or are somebody else's.
        """
        for each in self.list(user_id, device_id):
            if each.id == certificate_id:
                return each
        raise NotFound(f"Certificate {certificate_id} not found")

    def rotate(
        self,
        user_id: UserId,
        device_id: str,
        *,
        csr: str = "",
        overlap_s: int = DEFAULT_OVERLAP_S,
        idempotency_key: IdempotencyKey | None = None,
    ) -> Rotated:
        """Make another certificate for a device; the old one is removed once the new one connects, or at the end.

        A device that was imported has none: it is given its first one, and a thing.

        May be repeated after a crash at any point: what a request left half-made is taken over by the next, and the
        request that began it can no longer finish it. A failure removes what was made; what cannot be removed now is
        swept later.

        Args:
            user_id: owner.
            device_id: the device.
            csr: signing request of the device's own key; "": a key is made, and shown once.
            overlap_s: seconds for which both connect at the most.
            idempotency_key: a repeat makes no other certificate.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
            Conflict: it has two certificates already, or one is being removed; or another request took this one over.
            AlreadyCreated: this request made a certificate before, which is shown only once.
            Gone: that certificate does not connect any more.
            IdempotencyKeyReused: the first request with this key asked for something else.
            ValidationFailed: the signing request cannot be signed.
            Upstream: IoT or the database did not answer.
        """
        now = self._clock.now()
        request = repeatable(idempotency_key, device_id, csr, overlap_s, at=now)
        device, claim = self._claim(user_id, device_id)
        if request is not None:
            self._refuse_repeat(user_id, request, claim)
        if len(claim.certificate_ids) > 1:
            raise Conflict(
                "This device has two certificates already", code="ROTATION_UNDER_WAY", details={"id": device_id}
            )
        [old] = claim.certificate_ids or [""]
        rotation = CertificateRotation(
            device_id=device.id,
            user_id=user_id,
            serial_number=device.serial_number,
            attempt=new_id(),
            stage=RotationStage.ISSUING,
            began_ms=epoch_ms(now),
            ends_ms=epoch_ms(now) + overlap_s * 1000,
            old_certificate_id=old,
        )
        left = self._rotations.begin(rotation, due=now + LOOKED_AFTER)
        return self._issue(rotation, left, csr=csr, request=request)

    def _refuse_repeat(self, user_id: UserId, request: RepeatableRequest, claim: SerialClaim) -> None:
        made = self._rotations.made_by(user_id, request)
        if made is None:
            return
        if made not in claim.certificate_ids:
            raise no_longer(made)
        raise AlreadyCreated("This request made a certificate before; it was shown once", details={"id": made})

    def _issue(
        self,
        rotation: CertificateRotation,
        left: CertificateRotation | None,
        *,
        csr: str,
        request: RepeatableRequest | None,
    ) -> Rotated:
        certificate: Certificate | None = None
        is_open = fenced = False
        try:
            if left is not None and left.certificate_arn:
                self._registry.remove_certificate(left.certificate_arn, thing=left.serial_number)
            endpoint = self._registry.endpoint()
            if not rotation.old_certificate_id:
                self._registry.create_thing(rotation.serial_number, device_id=rotation.device_id)
            certificate = self._registry.create_certificate(csr=csr)
            self._rotations.note_certificate(rotation, certificate)
            self._registry.attach_certificate(rotation.serial_number, certificate)
            self._rotations.open(rotation, certificate, now=self._clock.now(), request=request)
            is_open = True
        except ConditionFailed as exc:
            fenced = True
            raise Conflict("This rotation was taken over by another request", code="ROTATION_UNDER_WAY") from exc
        finally:
            if not is_open:
                # Of a rotation that was taken over only the certificate is ours.
                self._undo(lambda: self._abandon(rotation, certificate, fenced=fenced), rotation)
        count("CertificateIssued")
        logger.info("device.certificate_issued", device_id=rotation.device_id)
        current = self._devices.current(rotation.user_id, rotation.device_id, consistent=True)
        if current is None:
            raise NotFound(f"Device {rotation.device_id} not found")
        return Rotated(current, certificate, endpoint)

    def _abandon(self, rotation: CertificateRotation, certificate: Certificate | None, *, fenced: bool) -> None:
        if certificate is not None:
            self._registry.remove_certificate(certificate.arn, thing=rotation.serial_number)
        if not fenced:
            # Last: while it stands, the sweep finds what could not be removed.
            self._rotations.discard(rotation)

    def _undo(self, undo: Callable[[], object], rotation: CertificateRotation) -> None:
        try:
            undo()
        except (Upstream, ConditionFailed) as exc:
            logger.warning("rotation.left_for_sweep", device_id=rotation.device_id, cause=type(exc).__name__)

    def remove(self, user_id: UserId, device_id: str, certificate_id: str) -> None:
        """Remove one of a device's two certificates: the old one before its time, or the new one.

        From now on nothing counts that the broker gets from it, and it is removed there at once, or by the sweep. A
        repeat, of a certificate that was removed last, does nothing.

        Raises:
            NotFound: device or certificate do not exist, or are somebody else's.
            InvalidTransition: the device has no other certificate.
            Conflict: its certificates were changed at this moment.
        """
        _, claim = self._claim(user_id, device_id)
        if certificate_id not in claim.certificate_ids:
            if certificate_id and certificate_id == claim.removed_certificate_id:
                return
            raise NotFound(f"Certificate {certificate_id} not found")
        if not claim.next_certificate_id:
            raise InvalidTransition("This device has no other certificate; make one first")
        is_new = certificate_id == claim.next_certificate_id
        outcome, now = RotationOutcome.WITHDRAWN if is_new else RotationOutcome.ENDED, self._clock.now()
        if not self._rotations.end(claim, removed=certificate_id, outcome=outcome, removed_ms=epoch_ms(now), now=now):
            raise Conflict("The new certificate has connected at this moment, or somebody else removes one; look again")
        rotation = self._rotations.get(claim.device_id)
        if rotation is not None:
            self._undo(lambda: self._finish(rotation), rotation)

    def _claim(self, user_id: UserId, device_id: str) -> tuple[Device, SerialClaim]:
        row = self._devices.row(user_id, DeviceId(device_id), consistent=True) if is_id(device_id) else None
        claim = None
        if row is not None and row.state is DeviceState.ACTIVE:
            claim = self._devices.claim_of(row.serial_number, consistent=True)
        if row is None or claim is None or claim.device_id != row.id:
            raise NotFound(f"Device {device_id} not found")
        return row, claim

    # For the sweep

    def go_on(self, rotation: CertificateRotation) -> bool:
        """Do the next step of a rotation whose time has come; return False when somebody else did.

        Raises:
            Upstream: IoT or the database did not answer.
        """
        row = self._devices.row(rotation.user_id, rotation.device_id, consistent=True)
        if rotation.stage is RotationStage.ISSUING or row is None or row.state is not DeviceState.ACTIVE:
            # Whoever began it has died, and nobody has its certificate. A deletion removes all certificates that AWS
            # IoT has tied to the thing by then; that of a renewal may have come behind it.
            if rotation.certificate_arn:
                self._registry.remove_certificate(rotation.certificate_arn, thing=rotation.serial_number)
            return self._rotations.discard(rotation)
        if rotation.stage is RotationStage.OVERLAP:
            return self._end_overlap(rotation)
        return self._finish(rotation)

    def _end_overlap(self, rotation: CertificateRotation) -> bool:
        claim, now = self._devices.claim_of(rotation.serial_number, consistent=True), self._clock.now()
        if claim is None or claim.next_certificate_id != rotation.certificate_id:
            return False
        ended = self._rotations.end(
            claim,
            removed=rotation.certificate_id if rotation.is_renewal else rotation.old_certificate_id,
            outcome=RotationOutcome.WITHDRAWN if rotation.is_renewal else RotationOutcome.ENDED,
            removed_ms=epoch_ms(now),
            now=now,
        )
        latest = self._rotations.get(rotation.device_id) if ended else None
        return latest is not None and self._finish(latest)

    def _finish(self, rotation: CertificateRotation) -> bool:
        if rotation.stage is not RotationStage.ENDING:
            return False
        self._registry.remove_certificate(rotation.removed_arn, thing=rotation.serial_number)
        if rotation.outcome is RotationOutcome.ENDED:
            count("CertificateOverlapEnded")
        return self._rotations.finish(rotation, now=self._clock.now())


def sweep_rotations(service: CertificateService, rotations: RotationRepository, clock: Clock) -> int:
    """Do the next step of rotations whose time has come; return of how many."""
    due = rotations.due(before=clock.now(), limit=ROTATIONS_A_SWEEP)
    return sweep_each("rotations", due, service.go_on, name=lambda each: each.device_id, clock=clock)

"""A device that asks for a new certificate by its own, near the end of that: the hook lets both connect for an hour.

AWS IoT asks the hook as for a device from the factory (karma.devices.admission), with the certificate by which the
device is connected in the place of a claim's. What it may ask for is its own serial number. The new one takes the place
of the old one with its first message, as in each rotation; where that does not come, the new one is removed and the old
one goes on, so a device that lost what it was given can ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from karma.core.clock import Clock, epoch_ms
from karma.core.dynamo.failures import ConditionFailed
from karma.core.ids import DeviceId, UserId, new_id
from karma.core.observability import count, logger
from karma.devices.domain import DeviceState
from karma.devices.provisioning import (
    AdmittedDevice,
    AskAgain,
    CertificateTaken,
    NotAdmitted,
    RefusalReason,
)
from karma.devices.rotation import RENEWAL_OVERLAP_S, RENEWED_EVERY_S, CertificateRotation, RotationStage
from karma.identity.transactional import AccountGone, is_disabled

if TYPE_CHECKING:
    from karma.devices.repository.device_mapping import SerialClaim
    from karma.devices.repository.devices import DeviceRepository
    from karma.devices.repository.rotations import RotationRepository

_MS: Final = 1000
_TRIES: Final = 3


def decided(decide: Callable[[], AdmittedDevice]) -> AdmittedDevice:
    """Return what is decided, anew by what stands then where another request was quicker, up to three times.

    Raises:
        NotAdmitted: the device is not to have a certificate.
        AskAgain: other requests were quicker each time.
    """
    taken = False
    for _ in range(_TRIES):
        try:
            return decide()
        except CertificateTaken:
            # Perhaps by this request, whose answer was lost: then it is found now.
            taken = True
        except ConditionFailed:
            taken = False
    raise NotAdmitted(RefusalReason.CERTIFICATE_TAKEN) if taken else AskAgain


def not_in_use(user_id: UserId) -> RefusalReason:
    """Return why nothing is done for an account: one read."""
    return RefusalReason.ACCOUNT_DISABLED if is_disabled(user_id) else RefusalReason.ACCOUNT_GONE


class RenewalService:
    """Begins the rotations that devices ask for."""

    def __init__(self, devices: DeviceRepository, rotations: RotationRepository, clock: Clock) -> None:
        self._devices = devices
        self._rotations = rotations
        self._clock = clock

    def renew(self, serial_number: str, *, by_certificate: str, certificate_arn: str) -> AdmittedDevice:
        """Let a new certificate speak for a device beside the one by which it asks.

        Raises:
            NotAdmitted: the certificate by which it asks is not its only one, or it had a new one within a day.
            AskAgain: it may ask again in a while.
            Upstream: the database did not answer; the device asks again.
        """
        return decided(lambda: self._decide(serial_number, by_certificate, certificate_arn))

    def _decide(self, serial_number: str, by_certificate: str, certificate_arn: str) -> AdmittedDevice:
        wanted = certificate_arn.rpartition("/")[2]
        holder = self._devices.claim_of(serial_number, consistent=True)
        if holder is None or holder.state is not DeviceState.ACTIVE or by_certificate not in holder.certificate_ids:
            raise NotAdmitted(RefusalReason.UNKNOWN_CLAIM)
        row = self._devices.row(holder.user_id, holder.device_id, consistent=True)
        if row is None:
            raise NotAdmitted(RefusalReason.UNKNOWN_CLAIM)
        if wanted not in holder.certificate_ids:
            self._begin(holder, by_certificate, certificate_arn, addressee=row.addressee)
        return AdmittedDevice(serial_number, row.addressee)

    def _begin(self, holder: SerialClaim, by_certificate: str, certificate_arn: str, *, addressee: DeviceId) -> None:
        now = self._clock.now()
        now_ms = epoch_ms(now)
        if holder.certificate_ids != {by_certificate}:
            raise NotAdmitted(RefusalReason.BUSY)
        before = self._rotations.get(holder.device_id)
        if before is not None:
            is_recent = before.is_renewal and now_ms < before.began_ms + RENEWED_EVERY_S * _MS
            if before.stage is not RotationStage.OVER or (is_recent and before.certificate_id == by_certificate):
                raise NotAdmitted(RefusalReason.BUSY)
        rotation = CertificateRotation(
            device_id=holder.device_id,
            user_id=holder.user_id,
            serial_number=holder.serial_number,
            attempt=new_id(),
            stage=RotationStage.OVERLAP,
            began_ms=now_ms,
            ends_ms=now_ms + RENEWAL_OVERLAP_S * _MS,
            old_certificate_id=by_certificate,
            certificate_id=certificate_arn.rpartition("/")[2],
            certificate_arn=certificate_arn,
            is_renewal=True,
        )
        try:
            self._rotations.renew(rotation, now=now, addressee=addressee)
        except AccountGone as exc:
            raise NotAdmitted(not_in_use(holder.user_id)) from exc
        count("CertificateRenewalBegun")
        logger.info("device.certificate_renewal_begun", device_id=holder.device_id)

"""The hook of fleet provisioning: decides whether a device that has only a claim's certificate gets one of its own.

AWS IoT asks it for each `RegisterThing` before it changes anything, waits for 5 seconds, and asks again when the device
does. What it allows it has written before it answers, so a lost answer is given again for the same certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from karma.billing.allowances import Allowance, Metric
from karma.core.clock import Clock, epoch_ms, iso
from karma.core.errors import QuotaExceeded
from karma.core.ids import DeviceId, UserId
from karma.core.lines import is_line
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.devices.domain import MAC, SERIAL, DeviceState
from karma.devices.provisioning import (
    MAX_REPLACED,
    AdmittedDevice,
    AskAgain,
    ClaimState,
    LastRefusal,
    NotAdmitted,
    ProvisionedSerial,
    ProvisioningClaim,
    RefusalReason,
)
from karma.devices.renewal import RenewalService, decided, not_in_use
from karma.devices.repository.admissions import AdmissionRepository, Prospect
from karma.devices.repository.provisioning_claims import ProvisioningClaimRepository
from karma.devices.service import NewDevice, provisioning
from karma.identity.transactional import AccountGone

_NOTED_EVERY_MS: Final = 60_000
_MAX_FIRMWARE_CHARS: Final = 50


class AdmissionRequest(Record, kw_only=True):
    """Request of a device for a certificate of its own, as AWS IoT tells of it."""

    claim_certificate_id: str
    certificate_arn: str
    """ARN of the certificate that it asks for; it connects by it only once this is allowed."""
    parameters: Mapping[str, str]
    """Parameters of the device: `SerialNumber`, `MacAddress`, and `FirmwareVersion` if it likes to."""

    @property
    def certificate_id(self) -> str:
        """Return the id of the certificate that it asks for."""
        return self.certificate_arn.rpartition("/")[2]


class AdmissionService:
    """Makes devices by claims."""

    def __init__(
        self,
        admissions: AdmissionRepository,
        claims: ProvisioningClaimRepository,
        renewals: RenewalService,
        allowance_of: Callable[[UserId], Allowance],
        clock: Clock,
    ) -> None:
        self._admissions = admissions
        self._claims = claims
        self._renewals = renewals
        self._allowance_of = allowance_of
        self._clock = clock

    def admit(self, request: AdmissionRequest) -> AdmittedDevice:
        """Make the device that asks, or find it, and let its certificate speak for it.

        Raises:
            NotAdmitted: it is not to have one; nothing is changed, but that the claim says so.
            AskAgain: it may ask again in a while.
            Upstream: the database did not answer; the device asks again.
        """
        serial = request.parameters.get("SerialNumber", "")
        is_serial = SERIAL.fullmatch(serial) is not None
        prospect: Prospect | None = None
        try:
            found = self._admissions.find(request.claim_certificate_id)
            if found is None:
                return self._renewed(request, serial if is_serial else "-")

            def decide() -> AdmittedDevice:
                nonlocal prospect
                prospect = self._admissions.look(*found, serial if is_serial else "-")
                if prospect is None:
                    raise NotAdmitted(RefusalReason.UNKNOWN_CLAIM)
                return self._decide(prospect, request, serial)

            admitted = decided(decide)
        except NotAdmitted as refused:
            count("ProvisioningRefused", reason=refused.reason)
            logger.info("provisioning.refused", reason=refused.reason, claim_id=prospect and prospect.claim.id)
            if prospect is not None:
                self._note(prospect.claim, refused.reason, serial if is_serial else "")
            raise
        logger.info("provisioning.admitted", claim_id=found[1], device_id=admitted.device_id)
        return admitted

    def _renewed(self, request: AdmissionRequest, serial: str) -> AdmittedDevice:
        by = request.claim_certificate_id
        return self._renewals.renew(serial, by_certificate=by, certificate_arn=request.certificate_arn)

    def _decide(self, prospect: Prospect, request: AdmissionRequest, serial: str) -> AdmittedDevice:
        claim, now_ms = prospect.claim, epoch_ms(self._clock.now())
        mac = request.parameters.get("MacAddress", "")
        if not SERIAL.fullmatch(serial) or not MAC.fullmatch(mac):
            raise NotAdmitted(RefusalReason.INVALID_PARAMETERS)
        if claim.state not in (ClaimState.ACTIVE, ClaimState.ENDED):
            raise NotAdmitted(RefusalReason.UNKNOWN_CLAIM)
        if now_ms >= claim.ends_ms:
            raise NotAdmitted(RefusalReason.EXPIRED)
        if not prospect.is_listed:
            raise NotAdmitted(RefusalReason.NOT_LISTED)
        try:
            if prospect.provisioned is not None:
                return self._again(prospect, prospect.provisioned, request)
            return self._first(prospect, request, serial)
        except QuotaExceeded as exc:
            raise NotAdmitted(RefusalReason.QUOTA_EXCEEDED) from exc
        except AccountGone as exc:
            raise NotAdmitted(not_in_use(claim.user_id)) from exc

    def _first(self, prospect: Prospect, request: AdmissionRequest, serial: str) -> AdmittedDevice:
        claim, holder, now = prospect.claim, prospect.holder, self._clock.now()
        if holder is not None:
            bare = holder.state is DeviceState.ACTIVE and not holder.certificate_ids
            if holder.user_id != claim.user_id or not bare:
                raise NotAdmitted(RefusalReason.SERIAL_TAKEN)
        if claim.used >= claim.max_devices:
            raise NotAdmitted(RefusalReason.EXHAUSTED)
        new = ProvisionedSerial(
            claim_id=claim.id,
            serial_number=serial,
            device_id=holder.device_id if holder is not None else DeviceId(""),
            certificate_arn=request.certificate_arn,
            provisioned_ms=epoch_ms(now),
        )
        if holder is not None:
            self._admissions.adopt(new, holder, now=now)
            count("CertificateIssued")
            return AdmittedDevice(serial, holder.device_id)
        made = provisioning(claim.user_id, _described(claim, request, serial), now=iso(now))
        device = replace(made, state=DeviceState.ACTIVE)
        reservation = self._allowance_of(claim.user_id).reserve(Metric.DEVICES)
        self._admissions.create(replace(new, device_id=device.id), device, reservation=reservation, now=now)
        count("DeviceCreated")
        return AdmittedDevice(serial, device.id)

    def _again(self, prospect: Prospect, before: ProvisionedSerial, request: AdmissionRequest) -> AdmittedDevice:
        holder = prospect.holder
        if holder is None or holder.device_id != before.device_id or holder.state is not DeviceState.ACTIVE:
            raise NotAdmitted(RefusalReason.ALREADY_PROVISIONED)
        if holder.certificate_ids != {before.certificate_id}:
            raise NotAdmitted(RefusalReason.ALREADY_PROVISIONED)
        if request.certificate_id == before.certificate_id:
            return AdmittedDevice(before.serial_number, before.device_id)
        from karma.devices.repository.transfers import TransferRepository  # local: few devices come twice

        stored = TransferRepository().stored(holder.user_id, before.device_id)
        if stored is None or stored.current.latest.last_seen_ms or stored.current.presence.events:
            raise NotAdmitted(RefusalReason.ALREADY_PROVISIONED)
        if len(before.replaced) >= MAX_REPLACED:
            raise AskAgain
        self._admissions.replace(before, request.certificate_arn, stored, now=self._clock.now())
        count("CertificateIssued")
        return AdmittedDevice(before.serial_number, before.device_id)

    def _note(self, claim: ProvisioningClaim, reason: RefusalReason, serial: str) -> None:
        now_ms = epoch_ms(self._clock.now())
        if claim.refusal is None or now_ms - claim.refusal.at_ms >= _NOTED_EVERY_MS:
            self._claims.note_refusal(claim, LastRefusal(reason=reason, serial_number=serial, at_ms=now_ms))


def _described(claim: ProvisioningClaim, request: AdmissionRequest, serial: str) -> NewDevice:
    firmware = request.parameters.get("FirmwareVersion", "")
    is_said = 0 < len(firmware) <= _MAX_FIRMWARE_CHARS and is_line(firmware)
    return NewDevice(
        name=serial,
        model=claim.model,
        mac=request.parameters["MacAddress"].upper().replace("-", ":"),
        serial_number=serial,
        firmware_version=firmware if is_said else None,
        capabilities={},
        hardware={},
        network={},
        tags=claim.tags,
    )

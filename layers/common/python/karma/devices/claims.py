"""Provisioning claims: made, shown, revoked; and what the sweep and the deletion of an account do about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from karma.core.clock import Clock, epoch_ms
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import Conflict, NotFound, Upstream, ValidationFailed
from karma.core.ids import UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.purge import PurgeAttempt
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, RepeatableRequest, refuse_shown_once, repeatable
from karma.core.sweeping import sweep_each
from karma.devices.credentials import Certificate, Endpoint
from karma.devices.domain import DeviceModel
from karma.devices.ports import Registry
from karma.devices.provisioning import (
    DEFAULT_LIFE,
    MAX_LIFE,
    ClaimState,
    ListedSerial,
    ProvisionedSerial,
    ProvisioningClaim,
    ProvisioningClaimId,
    RegisteredCertificate,
)
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.provisioning_claims import ProvisioningClaimRepository

if TYPE_CHECKING:
    from karma.audit.domain import AuditEntry, Source
    from karma.devices.repository.provisioning_items import DueWork

LOOKED_AFTER: Final = timedelta(minutes=2)
"""Time after which the sweep takes a claim that is still being made for given up: above a request's time."""
STEPS_A_SWEEP: Final = 50
ITEMS_A_STEP: Final = 200
_CLAIMS_A_LOOK: Final = 50


class NewClaim(Record, kw_only=True):
    """Content of a new claim; validated by schemas.CreateProvisioningClaimBody."""

    name: str
    model: DeviceModel
    tags: tuple[str, ...]
    serial_numbers: tuple[str, ...]
    max_devices: int | None
    expires_at: datetime | None


class MadeClaim(Record):
    """A new claim with its private key, which is shown only once."""

    claim: ProvisioningClaim
    certificate: Certificate
    endpoint: Endpoint


class SerialPage(Record):
    """A page of a claim's list; `more`: others follow the last one."""

    listed: Sequence[ListedSerial]
    more: bool
    total: int


class ProvisioningClaimService:
    """Makes and revokes claims."""

    def __init__(self, claims: ProvisioningClaimRepository, registry: Registry, clock: Clock) -> None:
        """Build the service; `registry` gives certificates the policy of claims, and that of devices to none."""
        self._claims = claims
        self._registry = registry
        self._clock = clock

    def create(
        self, user_id: UserId, new: NewClaim, *, source: Source, idempotency_key: IdempotencyKey | None = None
    ) -> MadeClaim:
        """Make a claim: row and list, certificate, policy; then devices may be made by it.

        A death in between leaves a claim that nobody sees, which the sweep removes with its certificate. A failure
        removes what was made; what cannot be removed now is swept later.

        Raises:
            ValidationFailed: `expires_at` or `max_devices` is out of bounds.
            TooManyClaims: the account has as many as it may.
            AlreadyCreated: this request made a claim before, whose private key is shown only once.
            Gone: that claim was revoked meanwhile.
            IdempotencyKeyReused: the first request with this key asked for another claim.
            Conflict: the claim took too long to make, and the sweep has removed it.
            AccountGone: the account is deleted.
            Upstream: IoT or the database did not answer.
        """
        now = self._clock.now()
        request = repeatable(idempotency_key, new, at=now)
        if request is not None:
            made = self._claims.made_by(user_id, request)
            if made is not None:
                refuse_shown_once(made, partial(self.get, user_id), what="provisioning claim")
        claim = _claim(user_id, new, now)
        self._claims.begin(claim, new.serial_numbers, due=now + LOOKED_AFTER)
        entry = _entry(claim, now, source)
        return self._issue(claim, request, entry)

    def _issue(self, claim: ProvisioningClaim, request: RepeatableRequest | None, entry: AuditEntry) -> MadeClaim:
        certificate: Certificate | None = None
        is_open = False
        try:
            endpoint = self._registry.endpoint()
            certificate = self._registry.create_certificate()
            self._claims.note_certificate(claim, certificate)
            self._registry.permit_certificate(certificate)
            self._claims.open(claim, certificate, now=self._clock.now(), entry=entry, request=request)
            is_open = True
        except ConditionFailed as exc:
            raise Conflict("Making this claim took too long; ask for it again") from exc
        finally:
            if not is_open:
                self._undo(lambda: self._abandon(claim, certificate), claim)
        count("ProvisioningClaimCreated")
        logger.info("provisioning_claim.created", claim_id=claim.id, serials=claim.listed)
        opened = replace(claim, state=ClaimState.ACTIVE, certificate_id=certificate.id, certificate_arn=certificate.arn)
        return MadeClaim(opened, certificate, endpoint)

    def _abandon(self, claim: ProvisioningClaim, certificate: Certificate | None) -> None:
        if certificate is not None:
            self._registry.remove_certificate(certificate.arn)
        # Last: while it stands, the sweep finds what could not be removed.
        self._claims.discard(claim)

    def _undo(self, undo: Callable[[], object], claim: ProvisioningClaim) -> None:
        try:
            undo()
        except (Upstream, ConditionFailed) as exc:
            logger.warning("provisioning_claim.left_for_sweep", claim_id=claim.id, cause=type(exc).__name__)

    def list(self, user_id: UserId) -> list[ProvisioningClaim]:
        """Return an account's claims, newest first."""
        return [each for each in self._claims.of_account(user_id) if _is_shown(each)]

    def get(self, user_id: UserId, claim_id: str) -> ProvisioningClaim:
        """Return a claim.

        Raises:
            NotFound: it does not exist, was revoked, or is somebody else's.
        """
        claim = self._claims.get(user_id, claim_id) if is_id(claim_id) else None
        if claim is None or not _is_shown(claim):
            raise NotFound(f"Provisioning claim {claim_id} not found")
        return claim

    def serials(self, user_id: UserId, claim_id: str, *, limit: int, after: str = "") -> SerialPage:
        """Return a page of a claim's list in its order; `after`: behind this serial number.

        Raises:
            NotFound: as `get`.
        """
        claim = self.get(user_id, claim_id)
        listed = self._claims.serials(claim.id)
        start = listed.index(after) + 1 if after in listed else 0
        page = listed[start : start + limit]
        made = self._claims.provisioned(claim.id, page) if claim.used and page else {}
        rows = [ListedSerial(serial_number=each, provisioned=made.get(each)) for each in page]
        return SerialPage(rows, more=start + limit < len(listed), total=len(listed))

    def revoke(self, user_id: UserId, claim_id: str, *, source: Source) -> None:
        """Revoke a claim: from now on it makes no device; the devices that it has made stay.

        Its certificate is removed at AWS IoT at once, or by the sweep.

        Raises:
            NotFound: as `get`.
        """
        claim, now = self.get(user_id, claim_id), self._clock.now()
        entry = _entry(claim, now, source, is_over=True)
        if not self._claims.revoke(claim, now=now, entry=entry):
            raise NotFound(f"Provisioning claim {claim_id} not found")
        count("ProvisioningClaimRevoked")
        self._undo(lambda: self._registry.remove_certificate(claim.certificate_arn), claim)

    # For the sweep

    def go_on(self, claim: ProvisioningClaim) -> bool:
        """Do the next step of a claim whose time has come; return False when there was nothing to do.

        Raises:
            Upstream: IoT or the database did not answer.
        """
        if claim.certificate_arn:
            self._registry.remove_certificate(claim.certificate_arn)
        match claim.state:
            case ClaimState.ISSUING:
                return self._claims.discard(claim)
            case ClaimState.ACTIVE:
                return self._claims.end(claim, now=self._clock.now())
            case _:
                return self._claims.remove(claim, limit=ITEMS_A_STEP) > 0


class SerialSettling:
    """Removes what AWS IoT has of a provisioned serial number that is not its device's."""

    def __init__(
        self, claims: ProvisioningClaimRepository, devices: DeviceRepository, registry: Registry, clock: Clock
    ) -> None:
        """Build it; `registry` is that of devices."""
        self._claims = claims
        self._devices = devices
        self._registry = registry
        self._clock = clock

    def settle(self, serial: ProvisionedSerial) -> bool:
        """Remove what a serial number had before it became its device for good; False: it has changed since.

        Those are certificates that its device has lost, and thing and certificate of a device that was deleted between
        the hook's answer and what AWS IoT made of it.

        Raises:
            Upstream: IoT or the database did not answer.
        """
        holder = self._devices.claim_of(serial.serial_number, consistent=True)
        lost = set(serial.replaced)
        if holder is None or serial.certificate_id not in holder.certificate_ids:
            lost.add(serial.certificate_arn)
        for arn in sorted(lost):
            self._registry.remove_certificate(arn, thing=serial.serial_number)
        if holder is None:
            self._registry.discard_thing(serial.serial_number, device_id=serial.device_id)
        return self._claims.settle(serial, now=self._clock.now())

    def settle_certificate(self, given: RegisteredCertificate) -> bool:
        """Remove a certificate that a device asked for itself if it does not speak for the device; False: it was done.

        That is one of a device that was deleted between the hook's answer and what AWS IoT made of it.

        Raises:
            Upstream: IoT or the database did not answer.
        """
        holder = self._devices.claim_of(given.serial_number, consistent=True)
        if holder is None or given.certificate_id not in holder.certificate_ids:
            self._registry.remove_certificate(given.certificate_arn, thing=given.serial_number)
        if holder is None:
            self._registry.discard_thing(given.serial_number, device_id=given.device_id)
        return self._claims.settle_certificate(given)


class ProvisioningPurge:
    """Step of a deletion that revokes an account's claims and removes them, before its devices are removed."""

    name = "provisioning_claims"

    def __init__(self, claims: ProvisioningClaimRepository, registry: Registry) -> None:
        self._claims = claims
        self._registry = registry

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove an account's claims with their certificates; return True when none is left.

        None is made behind it: a new one checks for the account.

        Raises:
            Upstream: IoT or the database did not answer.
        """
        while found := self._claims.left(purge.user_id, limit=_CLAIMS_A_LOOK):
            for claim in found:
                if purge.over():
                    return False
                if claim.certificate_arn:
                    self._registry.remove_certificate(claim.certificate_arn)
                if not self._claims.empty_claim(claim, purge):
                    return False
            if len(found) < _CLAIMS_A_LOOK:
                break
        return True


def sweep_provisioning(
    service: ProvisioningClaimService, settling: SerialSettling, claims: ProvisioningClaimRepository, clock: Clock
) -> int:
    """Do the next step of claims and provisioned serial numbers whose time has come; return of how many."""

    def go_on(each: DueWork) -> int:
        if isinstance(each, ProvisioningClaim):
            return service.go_on(each)
        return settling.settle(each) if isinstance(each, ProvisionedSerial) else settling.settle_certificate(each)

    def name(each: DueWork) -> str:
        return each.id if isinstance(each, ProvisioningClaim) else each.device_id

    due = claims.due(before=clock.now(), limit=STEPS_A_SWEEP)
    return sweep_each("provisioning", due, go_on, name=name, clock=clock)


def _is_shown(claim: ProvisioningClaim) -> bool:
    return claim.state in (ClaimState.ACTIVE, ClaimState.ENDED)


def _claim(user_id: UserId, new: NewClaim, now: datetime) -> ProvisioningClaim:
    listed = len(new.serial_numbers)
    ends = new.expires_at or now + DEFAULT_LIFE
    if not now < ends <= now + MAX_LIFE:
        raise ValidationFailed.of("expires_at", f"must be in the future, and at most {MAX_LIFE.days} days away")
    if new.max_devices is not None and new.max_devices > listed:
        raise ValidationFailed.of("max_devices", f"the list has {listed} serial numbers, so at most that many")
    return ProvisioningClaim(
        id=ProvisioningClaimId(new_id()),
        user_id=user_id,
        name=new.name,
        model=new.model,
        tags=new.tags,
        state=ClaimState.ISSUING,
        max_devices=new.max_devices or listed,
        listed=listed,
        created_ms=epoch_ms(now),
        ends_ms=epoch_ms(ends),
    )


def _entry(claim: ProvisioningClaim, now: datetime, source: Source, *, is_over: bool = False) -> AuditEntry:
    from karma.audit.domain import AuditEntry, AuditEvent  # local: the sweep writes none

    event = AuditEvent.PROVISIONING_CLAIM_REVOKED if is_over else AuditEvent.PROVISIONING_CLAIM_CREATED
    details = {"claim_id": claim.id, "serial_numbers": str(claim.listed), "max_devices": str(claim.max_devices)}
    if is_over:
        details["devices"] = str(claim.used)
    user_id = claim.user_id
    return AuditEntry(user_id=user_id, event=event, at=now, actor_id=user_id, source=source, details=details)

"""Declarations of provisioning by claim for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import Any

from karma.billing.allowances import Reservation
from karma.core.clock import epoch_ms
from karma.core.ids import DeviceId, new_id
from karma.core.requests import RETENTION, RepeatableRequest
from karma.devices.credentials import Certificate
from karma.devices.domain import MAX_NAME_CHARS, MAX_TAG_CHARS, MAX_TAGS, DeviceModel, DeviceState
from karma.devices.provisioning import (
    MAX_CLAIMS,
    ClaimState,
    LastRefusal,
    ProvisionedSerial,
    ProvisioningClaim,
    ProvisioningClaimId,
    RegisteredCertificate,
)
from karma.devices.repository.admissions import AdmissionRepository
from karma.devices.repository.device_mapping import SerialClaim
from karma.devices.repository.provisioning_claims import ProvisioningClaimRepository
from tests.contexts.devices import DeviceRows
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Call, Checks, Pages, Scenarios, made
from tests.support.plans import reserved
from tests.support.requests import asked
from tests.support.rows import LATER, NOW

ARN = "arn:aws:iot:us-east-1:000000000000:cert/"
MAC = "AA:BB:CC:00:11:22"


class ProvisioningRows(DeviceRows):
    """A claim of Ada's, and a device that is made by it."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = ProvisioningClaimRepository()
        self.admissions = AdmissionRepository()
        # In tables that other rows share, too.
        own = new_id()
        self.factory = Certificate(f"k{own}", f"{ARN}k{own}", "pem", "private")
        self.listed_serial, self.other_serial = (f"EOS-{own}-{number}" for number in (1, 2))

    def new_claim(self, **changes: Any) -> ProvisioningClaim:
        made = ProvisioningClaim(
            id=ProvisioningClaimId(new_id()),
            user_id=self.ada.id,
            name="Batch",
            model=DeviceModel.EOS_3A,
            tags=("x",),
            state=ClaimState.ISSUING,
            max_devices=2,
            listed=2,
            created_ms=epoch_ms(NOW),
            ends_ms=epoch_ms(LATER + timedelta(days=1)),
        )
        return replace(made, **changes)

    def begun_claim(self, claim: ProvisioningClaim, **given: Any) -> ProvisioningClaim:
        self.claims.begin(claim, [self.listed_serial, self.other_serial], due=NOW, **given)
        return claim

    @cached_property
    def half_claim(self) -> ProvisioningClaim:
        """A claim whose certificate is made, and opens nothing yet."""
        claim = self.begun_claim(self.new_claim())
        self.claims.note_certificate(claim, self.factory)
        return claim

    def opened_claim(self, claim: ProvisioningClaim, *, request: RepeatableRequest | None = None) -> ProvisioningClaim:
        self.claims.open(claim, self.factory, now=NOW, entry=self.entry, request=request)
        found = self.claims.get(claim.user_id, claim.id)
        assert found is not None
        return found

    @cached_property
    def open_claim(self) -> ProvisioningClaim:
        return self.opened_claim(self.half_claim)

    @cached_property
    def over_claim(self) -> ProvisioningClaim:
        """A claim whose time is over at `LATER`."""
        claim = self.begun_claim(self.new_claim(ends_ms=epoch_ms(NOW)))
        self.claims.note_certificate(claim, self.factory)
        return self.opened_claim(claim)

    @cached_property
    def revoked_claim(self) -> ProvisioningClaim:
        claim = self.open_claim
        assert self.claims.revoke(claim, now=NOW, entry=self.entry)
        return replace(claim, state=ClaimState.REVOKED)

    def new_provisioned(self, **changes: Any) -> ProvisionedSerial:
        made = ProvisionedSerial(
            claim_id=self.open_claim.id,
            serial_number=self.listed_serial,
            device_id=DeviceId(new_id()),
            # None is given twice, in tables that other rows share, too.
            certificate_arn=f"{ARN}{new_id()}",
            provisioned_ms=epoch_ms(NOW),
        )
        return replace(made, **changes)

    def admit_serial(self, new: ProvisionedSerial, *, reservation: Reservation | None = None) -> ProvisionedSerial:
        device = self.new_device(id=new.device_id, serial_number=new.serial_number, state=DeviceState.ACTIVE)
        self.admissions.create(new, device, reservation=reservation or reserved(self.ada.id), now=NOW)
        return self.as_provisioned(new)

    def as_provisioned(self, serial: ProvisionedSerial) -> ProvisionedSerial:
        return self.claims.provisioned(serial.claim_id, [serial.serial_number])[serial.serial_number]

    @cached_property
    def provisioned(self) -> ProvisionedSerial:
        return self.admit_serial(self.new_provisioned())

    @cached_property
    def bare_device(self) -> SerialClaim:
        """A device that was imported."""
        device = self.claimed(serial_number=self.other_serial)
        self.devices.activate(device, attempt="a1", certificate_id="", now=NOW)
        found = self.devices.claim_of(self.other_serial, consistent=True)
        assert found is not None
        return found

    def adopt_serial(self, holder: SerialClaim, **changes: Any) -> ProvisionedSerial:
        new = self.new_provisioned(serial_number=holder.serial_number, device_id=holder.device_id, **changes)
        self.admissions.adopt(new, holder, now=NOW)
        return self.as_provisioned(new)

    def replaced_serial(self, serial: ProvisionedSerial, *, arn: str = "") -> None:
        stored = self.transfers.stored(self.ada.id, serial.device_id)
        assert stored is not None
        self.admissions.replace(serial, arn or f"{ARN}{new_id()}", stored, now=NOW)


def _noted(r: ProvisioningRows) -> Call:
    claim = r.open_claim
    refusal = LastRefusal(reason="NOT_LISTED", serial_number="EOS-9", at_ms=epoch_ms(NOW))
    return lambda: r.claims.note_refusal(claim, refusal)


def _emptied(r: ProvisioningRows) -> Call:
    claim, purge = r.open_claim, r.purge()
    r.provisioned  # noqa: B018  something is in its partition
    return lambda: r.claims.empty_claim(claim, purge)


def _given(r: ProvisioningRows) -> Call:
    new = r.new_renewal()
    r.rotations.renew(new, now=NOW)
    given = RegisteredCertificate(
        certificate_arn=new.certificate_arn, serial_number=new.serial_number, device_id=new.device_id
    )
    return lambda: r.claims.settle_certificate(given)


def _removed(r: ProvisioningRows) -> Call:
    claim = r.revoked_claim
    assert r.claims.remove(claim, limit=5) == 1
    return lambda: r.claims.remove(claim, limit=5)


SCENARIOS = Scenarios[ProvisioningRows](
    ProvisioningRows,
    {
        "ProvisioningClaimRepository.get": made(lambda r: r.open_claim, lambda r, c: r.claims.get(c.user_id, c.id)),
        "ProvisioningClaimRepository.of_account": made(
            lambda r: r.open_claim, lambda r, c: r.claims.of_account(c.user_id)
        ),
        "ProvisioningClaimRepository.made_by": made(
            lambda r: r.open_claim, lambda r, c: r.claims.made_by(c.user_id, asked())
        ),
        "ProvisioningClaimRepository.serials": made(lambda r: r.open_claim, lambda r, c: r.claims.serials(c.id)),
        "ProvisioningClaimRepository.provisioned": made(
            lambda r: r.provisioned, lambda r, s: r.claims.provisioned(s.claim_id, [r.listed_serial])
        ),
        "ProvisioningClaimRepository.begin": made(lambda r: r.new_claim(), lambda r, c: r.begun_claim(c)),
        "ProvisioningClaimRepository.note_certificate": made(
            lambda r: r.half_claim, lambda r, c: r.claims.note_certificate(c, r.factory)
        ),
        "ProvisioningClaimRepository.open": made(
            lambda r: r.half_claim, lambda r, c: r.opened_claim(c, request=asked())
        ),
        "ProvisioningClaimRepository.discard": made(lambda r: r.half_claim, lambda r, c: r.claims.discard(c)),
        "ProvisioningClaimRepository.end": made(lambda r: r.over_claim, lambda r, c: r.claims.end(c, now=LATER)),
        "ProvisioningClaimRepository.revoke": made(
            lambda r: r.open_claim, lambda r, c: r.claims.revoke(c, now=NOW, entry=r.entry)
        ),
        "ProvisioningClaimRepository.remove": _removed,
        "ProvisioningClaimRepository.note_refusal": _noted,
        "ProvisioningClaimRepository.due": made(
            lambda r: r.half_claim, lambda r, _: r.claims.due(before=LATER, limit=5)
        ),
        "ProvisioningClaimRepository.settle": made(lambda r: r.provisioned, lambda r, s: r.claims.settle(s, now=NOW)),
        "ProvisioningClaimRepository.settle_certificate": _given,
        "ProvisioningClaimRepository.empty_claim": _emptied,
        "ProvisioningClaimRepository.left": made(lambda r: r.open_claim, lambda r, c: r.claims.left(c.user_id)),
        "AdmissionRepository.find": made(lambda r: r.open_claim, lambda r, _: r.admissions.find(r.factory.id)),
        "AdmissionRepository.look": made(
            lambda r: r.open_claim, lambda r, c: r.admissions.look(c.user_id, c.id, r.listed_serial)
        ),
        "AdmissionRepository.create": made(lambda r: r.new_provisioned(), lambda r, n: r.admit_serial(n)),
        "AdmissionRepository.adopt": made(lambda r: (r.bare_device, r.open_claim), lambda r, n: r.adopt_serial(n[0])),
        "AdmissionRepository.replace": made(lambda r: r.provisioned, lambda r, s: r.replaced_serial(s)),
    },
)


def _claim(world: World, owner: str, _: Mapping[str, str]) -> str:
    made = world.create(owner, "/api/v1/provisioning-claims", _body(world, owner))
    return str(made["provisioning_claim"]["id"])


def _body(_: World, __: str) -> dict[str, Any]:
    return {"name": "Batch", "model": "EOS-3A", "serial_numbers": ["EOS-1", "EOS-2"]}


OBJECTS: Objects = {"claim_id": _claim}
BODIES: Bodies = {"POST /api/v1/provisioning-claims": _body}


def _made_claim_over(rows: ProvisioningRows) -> None:
    rows.opened_claim(rows.half_claim, request=asked())
    assert rows.claims.made_by(rows.ada.id, asked(at=NOW + RETENTION - timedelta(seconds=1)))
    assert not rows.claims.made_by(rows.ada.id, asked(at=NOW + RETENTION))
    again = rows.begun_claim(rows.new_claim())
    rows.claims.note_certificate(again, Certificate("k2", f"{ARN}k2", "pem", None))
    rows.claims.open(
        again, Certificate("k2", f"{ARN}k2", "pem", None), now=NOW, entry=rows.entry, request=asked(at=NOW + RETENTION)
    )


PAGES: Pages = {
    "provisioning-claims": (MAX_CLAIMS, 4 * MAX_NAME_CHARS + MAX_TAGS * (4 * MAX_TAG_CHARS + 8) + 1_000),
    "provisioning-claims/{claim_id}/serial-numbers": (100, 300),
}

EXPIRES = Checks[ProvisioningRows](ProvisioningRows, {"provisioning_claim_request": _made_claim_over})

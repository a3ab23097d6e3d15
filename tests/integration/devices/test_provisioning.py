"""A device of a claim's list gets one certificate of its own, and one device is made of it, however often it asks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from karma.audit.domain import NOWHERE
from karma.billing.plans import PlanName
from karma.core.errors import AlreadyCreated, Gone, NotFound, Upstream, ValidationFailed
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from karma.core.requests import IdempotencyKey
from karma.devices.admission import AdmissionRequest, AdmissionService
from karma.devices.claims import (
    MadeClaim,
    NewClaim,
    ProvisioningClaimService,
    ProvisioningPurge,
    SerialSettling,
    sweep_provisioning,
)
from karma.devices.credentials import Certificate
from karma.devices.device_csv import read_table
from karma.devices.domain import DeviceModel
from karma.devices.importing import ImportService
from karma.devices.provisioning import (
    MAX_CLAIMS,
    MAX_REPLACED,
    AdmittedDevice,
    NotAdmitted,
    RefusalReason,
    TooManyClaims,
)
from karma.devices.renewal import RenewalService
from karma.devices.repository.admissions import AdmissionRepository
from karma.devices.repository.provisioning_claims import ProvisioningClaimRepository
from karma.devices.repository.rotations import RotationRepository
from karma.devices.service import Created
from tests.fakes.devices import FakeRegistry
from tests.support.accounts import open_account
from tests.support.devices import World
from tests.support.plans import allowance

MAC = "AA:BB:CC:00:11:22"


class Factory:
    """An account with a claim, AWS IoT that makes what the hook allows, and devices that ask."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.claims = ProvisioningClaimRepository()
        self.of_claims = FakeRegistry()
        self.service = ProvisioningClaimService(self.claims, self.of_claims, world.clock)
        self.settling = SerialSettling(self.claims, world.repository, world.registry, world.clock)
        self.plan = PlanName.ENTERPRISE
        self.hook = AdmissionService(
            AdmissionRepository(),
            self.claims,
            RenewalService(world.repository, RotationRepository(), world.clock),
            lambda user: allowance(user, self.plan),
            world.clock,
        )

    def make(self, *serials: str, user: UserId | None = None, **given: Any) -> MadeClaim:
        key = given.pop("idempotency_key", None)
        terms: dict[str, Any] = {"tags": ("batch-7",), "max_devices": None, "expires_at": None, **given}
        new = NewClaim(name="Batch 7", model=DeviceModel.EOS_3B, serial_numbers=serials, **terms)
        return self.service.create(user or self.world.user, new, source=NOWHERE, idempotency_key=key)

    def certificate(self) -> Certificate:
        """Make what AWS IoT makes of a signing request: a certificate that waits for its device."""
        return self.world.registry.create_certificate(csr="csr")

    def ask(
        self, claim: MadeClaim, serial: str, *, own: Certificate | None = None, **parameters: str
    ) -> AdmittedDevice:
        given = {"SerialNumber": serial, "MacAddress": MAC, **parameters}
        wanted = own or self.certificate()
        return self.hook.admit(
            AdmissionRequest(claim_certificate_id=claim.certificate.id, certificate_arn=wanted.arn, parameters=given)
        )

    def register(self, claim: MadeClaim, serial: str) -> Created:
        """Ask, and let AWS IoT make what it then makes."""
        own = self.certificate()
        return self.made(self.ask(claim, serial, own=own), own)

    def made(self, admitted: AdmittedDevice, own: Certificate) -> Created:
        registry = self.world.registry
        registry.create_thing(admitted.serial_number, device_id=admitted.device_id)
        registry.attach_certificate(admitted.serial_number, own)
        current = self.world.devices.get(self.world.user, admitted.device_id)
        return Created(current, own, registry.endpoint())

    def refused(self, ask: Callable[[], object]) -> RefusalReason:
        with pytest.raises(NotAdmitted) as refused:
            ask()
        return refused.value.reason

    def sweep(self) -> int:
        return sweep_provisioning(self.service, self.settling, self.claims, self.world.clock)

    @property
    def devices(self) -> list[str]:
        return sorted(each.serial_number for each in self.world.repository.rows(self.world.user, limit=50))

    def used(self, claim: MadeClaim) -> int:
        return self.service.get(self.world.user, claim.claim.id).used


@pytest.fixture
def factory(world: World) -> Factory:
    return Factory(world)


def key(value: str, user: UserId) -> IdempotencyKey:
    return IdempotencyKey(caller=user, route="/provisioning-claims", value=value)


@pytest.mark.fault("F-42a")
@pytest.mark.req("R-K-11")
def test_a_device_of_the_list_becomes_one_of_the_account_and_speaks(factory: Factory) -> None:
    world, claim = factory.world, factory.make("EOS-1", "EOS-2")
    device = factory.register(claim, "EOS-1")
    shown = world.current(device).device
    assert (shown.name, shown.model, shown.mac, shown.tags) == ("EOS-1", DeviceModel.EOS_3B, MAC, ("batch-7",))
    assert shown.certificates == 1
    world.connect(device)
    world.tell(world.message(device, "telemetry", world.samples((-5, 41.5))))
    assert world.current(device).latest.readings["temp_c"].value == 41.5
    assert factory.used(claim) == 1
    page = factory.service.serials(world.user, claim.claim.id, limit=5)
    assert [(each.serial_number, each.provisioned is not None) for each in page.listed] == [
        ("EOS-1", True),
        ("EOS-2", False),
    ]
    world.clock.pass_time(minutes=6)
    assert factory.sweep() == 1
    assert factory.sweep() == 0
    assert world.registry.certificates == {device.certificate.arn: "ACTIVE"}


@pytest.mark.fault("F-42b")
def test_the_same_serial_number_twice_makes_one_device_until_it_has_spoken(factory: Factory) -> None:
    world, claim = factory.world, factory.make("EOS-1")
    own = factory.certificate()
    first = factory.ask(claim, "EOS-1", own=own)
    assert factory.ask(claim, "EOS-1", own=own) == first, "the answer was lost, and the hook is asked again"
    # The power was cut before the certificate was kept.
    lost = factory.made(first, own)
    second = factory.register(claim, "EOS-1")
    assert second.current.device.id == first.device_id
    assert (factory.devices, factory.used(claim)) == (["EOS-1"], 1)
    world.tell(world.message(lost, "telemetry", world.samples((-5, 1.0))))
    assert not world.current(second).latest.readings, "the lost certificate speaks for nobody"
    world.clock.pass_time(minutes=6)
    assert factory.sweep() == 1
    assert world.registry.certificates == {second.certificate.arn: "ACTIVE"}

    world.connect(second)
    assert factory.refused(lambda: factory.ask(claim, "EOS-1")) is RefusalReason.ALREADY_PROVISIONED
    claimed = world.repository.claim_of("EOS-1", consistent=True)
    assert claimed is not None
    assert claimed.certificate_ids == {second.certificate.id}


def test_lost_certificates_do_not_pile_up(factory: Factory) -> None:
    claim = factory.make("EOS-1")
    for _ in range(MAX_REPLACED + 1):
        factory.register(claim, "EOS-1")
    assert factory.refused(lambda: factory.ask(claim, "EOS-1")) is RefusalReason.BUSY
    factory.world.clock.pass_time(minutes=6)
    factory.sweep()
    last = factory.register(claim, "EOS-1")
    factory.world.clock.pass_time(minutes=6)
    factory.sweep()
    assert factory.world.registry.certificates.keys() >= {last.certificate.arn}
    assert sum(state == "ACTIVE" for state in factory.world.registry.certificates.values()) == 1


@pytest.mark.fault("F-42c")
def test_who_gets_none(factory: Factory) -> None:
    world = factory.world
    claim = factory.make("EOS-1", "EOS-2", "EOS-3", max_devices=1)
    other = factory.make("EOS-1", user=open_account())
    assert factory.refused(lambda: factory.ask(claim, "EOS-9")) is RefusalReason.NOT_LISTED
    assert factory.refused(lambda: factory.ask(claim, "EOS/1")) is RefusalReason.INVALID_PARAMETERS
    assert factory.refused(lambda: factory.ask(claim, "EOS-1", MacAddress="?")) is RefusalReason.INVALID_PARAMETERS
    factory.register(claim, "EOS-1")
    assert factory.refused(lambda: factory.ask(other, "EOS-1")) is RefusalReason.SERIAL_TAKEN
    assert factory.refused(lambda: factory.ask(claim, "EOS-2")) is RefusalReason.EXHAUSTED
    more = factory.make("EOS-1", "EOS-4")
    assert factory.refused(lambda: factory.ask(more, "EOS-1")) is RefusalReason.SERIAL_TAKEN
    factory.plan = PlanName.FREE
    world.clock.pass_time(minutes=2)
    free = factory.make(*(f"FREE-{number}" for number in range(20)))
    reasons = set()
    for number in range(20):
        try:
            factory.ask(free, f"FREE-{number}")
        except NotAdmitted as refused:
            reasons.add(refused.reason)
    assert reasons == {RefusalReason.QUOTA_EXCEEDED}
    noted = factory.service.get(world.user, free.claim.id).refusal
    assert noted is not None
    assert noted.reason == "QUOTA_EXCEEDED"
    factory.service.revoke(world.user, more.claim.id, source=NOWHERE)
    assert factory.refused(lambda: factory.ask(more, "EOS-4")) is RefusalReason.UNKNOWN_CLAIM
    world.clock.pass_time(days=91)
    assert factory.refused(lambda: factory.ask(claim, "EOS-1")) is RefusalReason.EXPIRED


def test_a_refusal_is_noted_once_a_minute(factory: Factory) -> None:
    world, claim = factory.world, factory.make("EOS-1")

    def noted() -> Any:
        refusal = factory.service.get(world.user, claim.claim.id).refusal
        return refusal and (refusal.reason, refusal.serial_number)

    for serial in ("EOS-8", "EOS-9"):
        factory.refused(lambda serial=serial: factory.ask(claim, serial))  # type: ignore[misc]
    assert noted() == ("NOT_LISTED", "EOS-8")
    world.clock.pass_time(minutes=1)
    factory.refused(lambda: factory.ask(claim, "EOS 9"))
    assert noted() == ("INVALID_PARAMETERS", "")


def test_an_imported_device_gets_its_first_certificate_and_keeps_its_name(factory: Factory) -> None:
    world = factory.world
    table = read_table(f"name,model,mac,serial_number\nGreenhouse,EOS-3A,{MAC},EOS-1\n")
    [made] = (
        ImportService(world.repository, world.clock)
        .import_all(world.user, table, allowance=allowance(world.user))
        .created
    )
    claim = factory.make("EOS-1")
    device = factory.register(claim, "EOS-1")
    assert (device.current.device.id, device.current.device.name) == (made.id, "Greenhouse")
    assert device.current.device.certificates == 1
    world.connect(device)
    assert world.current(device).presence.connected


@pytest.mark.fault("F-42d")
def test_a_device_that_was_deleted_is_not_made_again_by_its_claim(factory: Factory) -> None:
    world, claim = factory.world, factory.make("EOS-1")
    device = factory.register(claim, "EOS-1")
    world.devices.delete(world.user, device.current.device.id)
    assert factory.refused(lambda: factory.ask(claim, "EOS-1")) is RefusalReason.ALREADY_PROVISIONED
    again = factory.register(factory.make("EOS-1"), "EOS-1")
    assert again.current.device.id != device.current.device.id


@pytest.mark.fault("F-42d")
def test_what_the_broker_makes_of_a_device_that_was_deleted_meanwhile_is_removed(factory: Factory) -> None:
    world, claim = factory.world, factory.make("EOS-1")
    own = factory.certificate()
    admitted = factory.ask(claim, "EOS-1", own=own)
    world.devices.delete(world.user, admitted.device_id)
    world.registry.create_thing("EOS-1", device_id=admitted.device_id)
    world.registry.attach_certificate("EOS-1", own)
    world.clock.pass_time(minutes=6)
    world.registry.fail_at = "discard_thing"
    assert factory.sweep() == 0
    world.registry.fail_at = ""
    assert factory.sweep() == 1
    assert (world.registry.certificates, world.registry.things) == ({}, {})


def test_an_idempotency_key_makes_one_claim(factory: Factory) -> None:
    user = factory.world.user
    made = factory.make("EOS-1", idempotency_key=key("k", user))
    with pytest.raises(AlreadyCreated) as repeated:
        factory.make("EOS-1", idempotency_key=key("k", user))
    assert repeated.value.details == {"id": made.claim.id}
    factory.service.revoke(user, made.claim.id, source=NOWHERE)
    with pytest.raises(Gone):
        factory.make("EOS-1", idempotency_key=key("k", user))
    assert factory.service.list(user) == []


@pytest.mark.parametrize("step", ["endpoint", "create_certificate", "permit_certificate"])
def test_a_claim_that_cannot_be_made_leaves_nothing(factory: Factory, step: str) -> None:
    before = factory.world.kinds()
    factory.of_claims.fail_at = step
    with pytest.raises(Upstream):
        factory.make("EOS-1")
    factory.of_claims.fail_at = ""
    assert factory.of_claims.certificates == {}
    assert [kind for kind in factory.world.kinds() if kind not in before] == ["provisioning_claim_count"]
    factory.make("EOS-1")


def test_bounds_of_a_claim(factory: Factory) -> None:
    world = factory.world
    now = world.clock.now()
    for given in ({"expires_at": now}, {"expires_at": now + timedelta(days=367)}, {"max_devices": 2}):
        with pytest.raises(ValidationFailed):
            factory.make("EOS-1", **given)
    made = [factory.make("EOS-1") for _ in range(MAX_CLAIMS)]
    with pytest.raises(TooManyClaims):
        factory.make("EOS-1")
    factory.service.revoke(world.user, made[0].claim.id, source=NOWHERE)
    factory.make("EOS-1")
    with pytest.raises(NotFound):
        factory.service.get(open_account(), made[1].claim.id)
    with pytest.raises(NotFound):
        factory.service.revoke(world.user, made[0].claim.id, source=NOWHERE)


def test_the_sweep_removes_certificates_of_claims_that_are_over_and_what_is_left_of_revoked_ones(
    factory: Factory,
) -> None:
    world = factory.world
    ended, revoked = factory.make("EOS-1"), factory.make("EOS-2")
    factory.register(revoked, "EOS-2")
    factory.of_claims.fail_at = "remove_certificate"
    factory.service.revoke(world.user, revoked.claim.id, source=NOWHERE)
    factory.of_claims.fail_at = ""
    world.clock.pass_time(minutes=6)
    for _ in range(3):
        factory.sweep()
    assert factory.of_claims.certificates == {ended.certificate.arn: "ACTIVE"}
    assert factory.claims.get(world.user, revoked.claim.id) is None
    assert "provisioned_serial" not in world.kinds()
    world.clock.pass_time(days=90)
    assert factory.sweep() == 1
    assert (factory.of_claims.certificates, factory.sweep()) == ({}, 0)
    [shown] = factory.service.list(world.user)
    assert shown.status(world.clock.ms) == "expired"
    factory.service.revoke(world.user, ended.claim.id, source=NOWHERE)
    assert factory.devices == ["EOS-2"]


def test_the_deletion_of_an_account_removes_its_claims(factory: Factory) -> None:
    world = factory.world
    claim = factory.make("EOS-1", "EOS-2")
    factory.register(claim, "EOS-1")
    purge = PurgeAttempt(user_id=world.user, requested_at=world.clock.now(), ends_at=float("inf"), settled=True)
    step = ProvisioningPurge(factory.claims, factory.of_claims)
    assert step.purge_account(purge)
    assert factory.of_claims.certificates == {}
    assert factory.refused(lambda: factory.ask(claim, "EOS-2")) is RefusalReason.UNKNOWN_CLAIM
    assert not {kind for kind in world.kinds() if kind.startswith("provision")} - {"provisioning_claim_count"}
    assert step.purge_account(purge)

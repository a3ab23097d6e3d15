"""A certificate speaks for one serial number: whoever registers it for another one, or for an account, is refused."""

from __future__ import annotations

from typing import Any

import pytest

from karma.devices.admission import AdmissionRequest
from karma.devices.certificates import CertificateService, sweep_rotations
from karma.devices.claims import MadeClaim
from karma.devices.credentials import Certificate
from karma.devices.provisioning import MAX_REPLACED, AskAgain, NotAdmitted, RefusalReason
from karma.devices.repository.deleted_devices import DeletedDeviceRepository
from karma.devices.repository.device_mapping import GoneDevice
from karma.devices.repository.rotations import RotationRepository
from karma.devices.rotation import RotationStage
from karma.devices.service import Created
from tests.integration.devices.test_provisioning import MAC, Factory
from tests.support.accounts import disable_account, open_account
from tests.support.devices import World
from tests.support.stack import Context


@pytest.fixture
def factory(world: World) -> Factory:
    return Factory(world)


def renew(factory: Factory, device: Created, wanted: Certificate) -> None:
    """Let a device ask for a certificate by the one that it has."""
    serial = device.current.device.serial_number
    factory.hook.admit(
        AdmissionRequest(
            claim_certificate_id=device.certificate.id,
            certificate_arn=wanted.arn,
            parameters={"SerialNumber": serial},
        )
    )


class Second:
    """Ways in which a certificate that a device has is asked for once more."""

    @staticmethod
    def same_claim(factory: Factory, claim: MadeClaim, own: Certificate) -> None:
        factory.ask(claim, "EOS-2", own=own)

    @staticmethod
    def other_account(factory: Factory, claim: MadeClaim, own: Certificate) -> None:
        factory.ask(factory.make("EOS-3", user=open_account()), "EOS-3", own=own)

    @staticmethod
    def renewal(factory: Factory, claim: MadeClaim, own: Certificate) -> None:
        device = factory.register(claim, "EOS-2")
        factory.world.connect(device)
        renew(factory, device, own)

    @staticmethod
    def lost_one_again(factory: Factory, claim: MadeClaim, own: Certificate) -> None:
        factory.register(claim, "EOS-1")
        factory.ask(claim, "EOS-1", own=own)


@pytest.mark.fault("F-48b")
@pytest.mark.parametrize(
    "second",
    [Second.same_claim, Second.other_account, Second.renewal, Second.lost_one_again],
    ids=lambda way: way.__name__,
)
def test_it_is_given_once(factory: Factory, second: Any) -> None:
    claim, own = factory.make("EOS-1", "EOS-2"), factory.certificate()
    first = factory.made(factory.ask(claim, "EOS-1", own=own), own)
    assert factory.refused(lambda: second(factory, claim, own)) is RefusalReason.CERTIFICATE_TAKEN
    if second is not Second.lost_one_again:
        factory.world.connect(first)
        assert factory.world.current(first).presence.connected


def test_two_hooks_for_the_same_request_allow_the_same(factory: Factory) -> None:
    claim, own = factory.make("EOS-1"), factory.certificate()
    admissions = factory.hook._admissions
    look, quicker = admissions.look, list[Any]()

    def slowly(*given: Any) -> Any:
        found = look(*given)
        if not quicker:
            quicker.append(None)
            quicker[0] = factory.ask(claim, "EOS-1", own=own)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admissions, "look", slowly)
        assert factory.ask(claim, "EOS-1", own=own) == quicker[0]
    assert factory.used(claim) == 1


@pytest.mark.fault("F-48d")
def test_who_comes_second_to_the_last_place_is_told_of_as_one_too_many(factory: Factory) -> None:
    claim = factory.make("EOS-1", "EOS-2", max_devices=1)
    admissions = factory.hook._admissions
    look, quicker = admissions.look, list[Any]()

    def slowly(*given: Any) -> Any:
        found = look(*given)
        if not quicker:
            quicker.append(None)
            factory.ask(claim, "EOS-1")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admissions, "look", slowly)
        assert factory.refused(lambda: factory.ask(claim, "EOS-2")) is RefusalReason.EXHAUSTED
    noted = factory.service.get(factory.world.user, claim.claim.id).refusal
    assert noted is not None
    assert noted.reason == "EXHAUSTED"


@pytest.mark.fault("F-48d")
def test_a_device_that_loses_its_power_time_and_again_is_let_in_or_asked_to_wait(factory: Factory) -> None:
    claim = factory.make("EOS-1")
    for _ in range(MAX_REPLACED + 1):
        factory.register(claim, "EOS-1")
        factory.world.clock.pass_time(seconds=5)
    with pytest.raises(AskAgain):
        factory.ask(claim, "EOS-1")
    factory.world.clock.pass_time(minutes=6)
    factory.sweep()
    factory.register(claim, "EOS-1")


@pytest.mark.fault("F-48d")
def test_aws_iot_hears_of_a_failure_where_the_device_is_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from device_ingest import provisioning

    class Hook:
        def __init__(self, why: NotAdmitted) -> None:
            self.why = why

        def admit(self, _: AdmissionRequest) -> None:
            raise self.why

    event = {"templateArn": "arn:aws:iot:us-east-1:000000000000:provisioningtemplate/t", "certificateId": "c"}
    monkeypatch.setattr(provisioning, "services", lambda: Hook(NotAdmitted(RefusalReason.EXHAUSTED)))
    assert provisioning.lambda_handler(event, Context()) == {"allowProvisioning": False}
    monkeypatch.setattr(provisioning, "services", lambda: Hook(AskAgain()))
    with pytest.raises(AskAgain):
        provisioning.lambda_handler(event, Context())


@pytest.mark.fault("F-48c")
@pytest.mark.parametrize("kind", ["first", "imported", "lost", "renewal"])
def test_nothing_is_given_in_the_name_of_a_disabled_account(factory: Factory, kind: str) -> None:
    world, claim = factory.world, factory.make("EOS-1")
    device: Created | None = None
    if kind == "imported":
        from karma.devices.device_csv import read_table
        from karma.devices.importing import ImportService
        from tests.support.plans import allowance

        table = read_table(f"name,model,mac,serial_number\nGreenhouse,EOS-3A,{MAC},EOS-1\n")
        ImportService(world.repository, world.clock).import_all(world.user, table, allowance=allowance(world.user))
    elif kind != "first":
        device = factory.register(claim, "EOS-1")
    if kind == "renewal" and device is not None:
        world.connect(device)
    disable_account(world.user)
    before = unnoted(world)

    def ask() -> None:
        if kind == "renewal" and device is not None:
            renew(factory, device, factory.certificate())
        else:
            factory.ask(claim, "EOS-1")

    assert factory.refused(ask) is RefusalReason.ACCOUNT_DISABLED
    assert unnoted(world) == before


def unnoted(world: World) -> list[dict[str, Any]]:
    """Return all items but claims, which say who was refused."""
    return [item for item in world.items() if item["type"] != {"S": "provisioning_claim"}]


@pytest.mark.fault("F-48f")
@pytest.mark.parametrize("is_swept", [False, True], ids=["its data is there", "its data is removed"])
def test_a_renewal_under_way_while_its_device_is_deleted_leaves_nobody_who_connects(
    factory: Factory, *, is_swept: bool
) -> None:
    world, claim = factory.world, factory.make("EOS-1")
    device, wanted = factory.register(claim, "EOS-1"), factory.certificate()
    world.connect(device)
    renew(factory, device, wanted)
    row = device.current.device
    world.devices.delete(world.user, row.id)
    if is_swept:
        DeletedDeviceRepository().remove(GoneDevice(world.user, row.id), now=world.clock.now(), limit=500)
    # AWS IoT ends what the hook has allowed.
    world.registry.create_thing("EOS-1", device_id=row.id)
    world.registry.attach_certificate("EOS-1", wanted)
    world.clock.pass_time(minutes=6)
    assert factory.sweep() > 0
    assert (world.registry.certificates, world.registry.things) == ({}, {})
    assert factory.sweep() == 0


@pytest.mark.fault("F-48f")
def test_the_end_of_a_rotation_whose_device_is_gone_removes_its_certificate(factory: Factory) -> None:
    world, claim, rotations = factory.world, factory.make("EOS-1"), RotationRepository()
    device, wanted = factory.register(claim, "EOS-1"), factory.certificate()
    world.connect(device)
    renew(factory, device, wanted)
    world.devices.delete(world.user, device.current.device.id)
    world.registry.certificates[wanted.arn] = "ACTIVE"
    left = rotations.get(device.current.device.id)
    assert left is not None
    assert left.stage is RotationStage.OVERLAP
    world.clock.pass_time(minutes=61)
    owners = CertificateService(world.repository, rotations, world.registry, world.clock)
    assert sweep_rotations(owners, rotations, world.clock) == 1
    assert world.registry.certificates == {}


def test_a_renewal_that_its_device_uses_is_left_alone(factory: Factory) -> None:
    world, claim = factory.world, factory.make("EOS-1")
    device, wanted = factory.register(claim, "EOS-1"), factory.certificate()
    world.connect(device)
    renew(factory, device, wanted)
    world.registry.attach_certificate("EOS-1", wanted)
    world.clock.pass_time(minutes=6)
    factory.sweep()
    assert set(world.registry.certificates.values()) == {"ACTIVE"}
    assert len(world.registry.certificates) == 2
    assert factory.sweep() == 0

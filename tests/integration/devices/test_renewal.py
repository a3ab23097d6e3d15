"""A device asks for a new certificate by its own, and has one that connects whatever becomes of the answer."""

from __future__ import annotations

import pytest

from karma.devices.certificates import CertificateService, sweep_rotations
from karma.devices.credentials import Certificate
from karma.devices.provisioning import NotAdmitted, RefusalReason
from karma.devices.renewal import RenewalService
from karma.devices.repository.rotations import RotationRepository
from karma.devices.service import Created
from tests.support.devices import World

pytestmark = pytest.mark.fault("F-42f")


class Renewing:
    """A device of a world that renews its certificate."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rotations = RotationRepository()
        self.service = RenewalService(world.repository, self.rotations, world.clock)
        self.owners = CertificateService(world.repository, self.rotations, world.registry, world.clock)
        self.first = world.create()
        world.connect(self.first)
        self.device = self.first.current.device

    def signed(self) -> Certificate:
        return self.world.registry.create_certificate(csr="csr")

    def ask(self, by: Created, wanted: Certificate) -> Created:
        """Ask the hook, and let AWS IoT make what it allows."""
        admitted = self.service.renew(
            self.device.serial_number, by_certificate=by.certificate.id, certificate_arn=wanted.arn
        )
        assert admitted.device_id == self.device.addressee
        self.world.registry.attach_certificate(self.device.serial_number, wanted)
        return Created(by.current, wanted, by.endpoint)

    def refused(self, by: Created) -> RefusalReason:
        with pytest.raises(NotAdmitted) as refused:
            self.ask(by, self.signed())
        return refused.value.reason

    def sweep(self) -> int:
        return sweep_rotations(self.owners, self.rotations, self.world.clock)

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.owners.list(self.world.user, self.device.id)]

    @property
    def active(self) -> set[str]:
        registry = self.world.registry
        return {arn.rpartition("/")[2] for arn, state in registry.certificates.items() if state == "ACTIVE"}


@pytest.fixture
def renewing(world: World) -> Renewing:
    return Renewing(world)


@pytest.mark.req("R-K-11")
def test_the_new_one_takes_over_with_its_first_message(renewing: Renewing) -> None:
    wanted = renewing.signed()
    second = renewing.ask(renewing.first, wanted)
    renewing.ask(renewing.first, wanted)
    assert renewing.ids == [renewing.first.certificate.id, wanted.id]
    renewing.world.clock.pass_time(seconds=1)
    renewing.world.connect(second, version=1)
    assert renewing.ids == [wanted.id]
    renewing.world.clock.pass_time(seconds=1)
    assert renewing.sweep() == 1
    assert renewing.active == {wanted.id}
    assert renewing.refused(second) is RefusalReason.BUSY, "once a day"
    assert renewing.refused(renewing.first) is RefusalReason.UNKNOWN_CLAIM
    renewing.world.clock.pass_time(days=1)
    renewing.ask(second, renewing.signed())


def test_a_device_that_lost_its_answer_goes_on_by_the_old_one_and_asks_again(renewing: Renewing) -> None:
    lost = renewing.ask(renewing.first, renewing.signed())
    assert renewing.refused(renewing.first) is RefusalReason.BUSY
    renewing.world.clock.pass_time(minutes=61)
    assert renewing.sweep() == 1
    assert (renewing.ids, renewing.active) == ([renewing.first.certificate.id], {renewing.first.certificate.id})
    renewing.world.clock.pass_time(seconds=1)
    renewing.world.tell(
        renewing.world.message(renewing.first, "telemetry", renewing.world.samples((-5, 1.0))),
        renewing.world.message(lost, "telemetry", renewing.world.samples((-4, 2.0), seq=1)),
    )
    assert renewing.world.current(renewing.first).latest.readings["temp_c"].value == 1.0
    again = renewing.ask(renewing.first, renewing.signed())
    renewing.world.clock.pass_time(seconds=1)
    renewing.world.connect(again, version=1)
    assert renewing.ids == [again.certificate.id]


def test_no_device_asks_for_another_one(renewing: Renewing) -> None:
    other = renewing.world.create()
    assert renewing.refused(other) is RefusalReason.UNKNOWN_CLAIM
    renewing.owners.rotate(renewing.world.user, renewing.device.id)
    assert renewing.refused(renewing.first) is RefusalReason.BUSY
    renewing.world.devices.delete(renewing.world.user, renewing.device.id)
    assert renewing.refused(renewing.first) is RefusalReason.UNKNOWN_CLAIM


@pytest.mark.fault("F-48g")
def test_the_end_stands_at_the_certificate_that_goes(renewing: Renewing) -> None:
    """Of a renewal that nobody uses the new one goes, of a rotation by the owner the old one."""
    world, device = renewing.world, renewing.device
    for goes_new in (True, False):
        if goes_new:
            renewing.ask(renewing.first, renewing.signed())
        else:
            renewing.owners.rotate(world.user, device.id, overlap_s=3600)
        row = world.current(renewing.first).device
        assert row.overlap is not None
        assert row.overlap.is_renewal is goes_new
        told = renewing.owners.list(world.user, device.id)
        assert [(each.is_new, each.ends_ms) for each in told] == [
            (False, 0 if goes_new else row.overlap.ends_ms),
            (True, row.overlap.ends_ms if goes_new else 0),
        ]
        [goes] = [each.id for each in told if each.ends_ms]
        world.clock.pass_time(minutes=61)
        renewing.sweep()
        assert goes not in renewing.ids
        assert len(renewing.ids) == 1

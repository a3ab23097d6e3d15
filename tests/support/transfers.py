"""Accounts that hand devices to each other, over an engine's tables."""

from __future__ import annotations

from typing import Any

from karma.audit.domain import NOWHERE
from karma.billing.plans import PlanName
from karma.core.clock import Clock
from karma.core.ids import DeviceId, UserId
from karma.core.ratelimit import LocalBuckets
from karma.devices.domain import CurrentDevice
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.transfers import TransferRepository
from karma.devices.service import Created
from karma.devices.transfer import DeviceOffer
from karma.devices.transfers import TransferService
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.domain import Caller, Locale, Role
from karma.mail.repository import OutboxRepository
from karma.mail.service import OutboxRelay
from tests.fakes.mail import MemoryQueue
from tests.fakes.shadows import FakeShadows
from tests.support.plans import allowances


def owner(user_id: UserId, *, email_verified: bool = True) -> Caller:
    """Return a person who is logged in, by a session that nobody asks about."""
    return Caller(
        user_id=user_id,
        role=Role.USER,
        method="jwt",
        scopes=frozenset(),
        email_verified=email_verified,
        name="Ada",
        avatar=None,
        locale=Locale.EN,
    )


class Transfers:
    """The service of transfers, for everybody; who asks is who they say, and counts no earlier offers."""

    def __init__(self, clock: Clock, *, plan: PlanName = PlanName.ENTERPRISE) -> None:
        self.store = TransferRepository()
        self.devices = DeviceRepository()
        self.proofs: list[str | None] = []
        self.queue = MemoryQueue()
        self.shadows = FakeShadows()
        self.service = TransferService(
            self.store,
            self.devices,
            UserRepository(),
            proof=lambda _, given: self.proofs.append(given),
            allowance_of=allowances(plan, clock=clock).of,
            outbox_relay=OutboxRelay(outbox=OutboxRepository(), queue=self.queue, clock=clock),
            buckets=LocalBuckets(),
            shadows=self.shadows,
            clock=clock,
        )

    def offer(self, giver: UserId, device_id: str, to: UserId) -> DeviceOffer:
        return self.service.offer(owner(giver), device_id, to, current_password=None, source=NOWHERE)

    def offer_by_email(self, giver: UserId, device_id: str, email: str, **changes: Any) -> None:
        self.service.offer_by_email(owner(giver, **changes), device_id, email, current_password=None, source=NOWHERE)

    def accept(self, user_id: UserId, device_id: str) -> CurrentDevice:
        return self.service.accept(user_id, device_id, source=NOWHERE)

    def decline(self, user_id: UserId, device_id: str) -> None:
        self.service.decline(user_id, device_id, source=NOWHERE)

    def hand_over(self, giver: UserId, device_id: str, to: UserId) -> CurrentDevice:
        """Let somebody offer a device, and somebody else accept it."""
        self.offer(giver, device_id, to)
        return self.accept(to, device_id)


def spoken_by(created: Created, current: CurrentDevice) -> Created:
    """Return a device as it speaks by the certificate that it was made with, whoever has it by now."""
    return Created(current, created.certificate, created.endpoint)


def owners_of(serial_number: str, people: list[UserId]) -> list[tuple[UserId, DeviceId]]:
    """Return who of these people sees a device with a serial number in their list, and under which id."""
    store = DeviceRepository()
    return [
        (each, current.device.id)
        for each in people
        for current in store.by_age(each, newest_first=True, limit=1_000).devices
        if current.device.serial_number == serial_number
    ]

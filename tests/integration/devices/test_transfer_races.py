"""Several requests about one device at the same moment, and in any order: it always has one owner, and one only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.clock import monotonic
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AppError, NotFound
from karma.core.ids import DeviceId, UserId
from karma.core.purge import PurgeAttempt
from karma.devices.certificates import CertificateService
from karma.devices.purge import DevicesPurge
from karma.devices.repository.deleted_devices import DeletedDeviceRepository
from karma.devices.repository.rotations import RotationRepository
from karma.devices.service import Created, DeviceService
from karma.devices.sweeps import sweep_orphans
from karma.devices.transfer import OFFER_TTL
from karma.identity.accounts.repository.deletions import DeletionRepository
from tests.support.accounts import open_account
from tests.support.at_once import at_once
from tests.support.devices import World, new_device
from tests.support.plans import allowance
from tests.support.transfers import Transfers, owners_of

TRIES = 12


class Town:
    """People who hand one device to each other, by any order of requests."""

    def __init__(self, world: World, people: int = 3) -> None:
        self.world = world
        self.clock = world.clock
        self.people = [world.user, *(open_account() for _ in range(people - 1))]
        self.transfers = Transfers(self.clock)
        self.registry = world.registry
        self.devices = DeviceService(world.repository, self.registry, self.clock)
        self.rotations = CertificateService(world.repository, RotationRepository(), self.registry, self.clock)
        self.gone: set[UserId] = set()
        self.made = self.make(world.user)
        self.ids: list[DeviceId] = [self.made.current.device.id]
        """Every id that the device has had, the newest last."""

    @property
    def serial(self) -> str:
        return self.made.current.device.serial_number

    def make(self, user: UserId, serial_number: str = "EOS-1") -> Created:
        new = new_device(serial_number=serial_number)
        return self.devices.create(user, new, allowance=allowance(user))

    def delete_account(self, user: UserId) -> None:
        """Delete an account, and all of its data, as the cascade does once nothing can write for it any more."""
        deletions, now = DeletionRepository(), datetime.now(UTC)
        leaving = deletions.leaving(user)
        if leaving is None:
            return
        entry = AuditEntry(user_id=user, event=AuditEvent.DELETION_REQUESTED, at=now, actor_id=user)
        deletions.begin(leaving, entry=entry, due_at=now + timedelta(minutes=2))
        self.gone.add(user)
        self.purge(user)

    def purge(self, user: UserId) -> None:
        step = DevicesPurge(
            devices=self.world.repository,
            deleted_devices=DeletedDeviceRepository(retention_s=0),
            registry=self.registry,
            clock=self.clock,
        )
        attempt = PurgeAttempt(user_id=user, requested_at=self.clock.now(), ends_at=monotonic() + 60, settled=True)
        while not step.purge_account(attempt):
            pass
        assert self.transfers.store.purge_account(attempt)

    def owners(self) -> list[tuple[UserId, DeviceId]]:
        return owners_of(self.serial, self.people)

    def used(self) -> Counter[str]:
        items = self.world.items("billing")
        found = {each["pk"]["S"].removeprefix("USER#"): int(each["value"]["N"]) for each in items if "value" in each}
        return Counter({user: number for user, number in found.items() if number})

    def check(self) -> None:
        """Check what holds at any time, whatever was done before."""
        owners = self.owners()
        claim = self.world.repository.claim_of(self.serial, consistent=True)
        assert len(owners) <= 1
        named = [(claim.user_id, claim.device_id)] if claim is not None else []
        assert owners == named, "who ingest finds is who sees it"
        assert not self.gone.intersection(user for user, _ in owners)
        for user in self.people:
            for device_id in self.ids:
                if (user, device_id) not in owners:
                    with pytest.raises(NotFound):
                        self.devices.get(user, device_id)
        counted = {user: number for user, number in self.used().items() if user not in self.gone}
        assert counted == Counter(user for user, _ in owners)
        things = {self.serial} if owners else set()
        assert set(self.registry.things) == things
        assert len(self.registry.attached) == (len(claim.certificate_ids) if claim is not None else 0)


@pytest.fixture
def town(world: World) -> Town:
    return Town(world)


def again(town: Town) -> tuple[UserId, UserId, UserId, DeviceId]:
    """Make the device anew with an open offer of its owner's; return giver, receiver, somebody else and its id."""
    ada, bob, eve = town.people
    for user, device_id in town.owners():
        town.devices.delete(user, device_id)
    device_id = town.make(ada).current.device.id
    town.ids.append(device_id)
    town.transfers.offer(ada, device_id, bob)
    return ada, bob, eve, device_id


RACES: dict[str, Callable[[Town, UserId, UserId, UserId, DeviceId], Callable[[], object]]] = {
    "accepts it too": lambda town, ada, bob, eve, at: lambda: town.transfers.accept(bob, at),
    "withdraws it": lambda town, ada, bob, eve, at: lambda: town.transfers.service.withdraw(ada, at),
    "declines it": lambda town, ada, bob, eve, at: lambda: town.transfers.decline(bob, at),
    "offers it to somebody else": lambda town, ada, bob, eve, at: lambda: town.transfers.offer(ada, at, eve),
    "deletes it": lambda town, ada, bob, eve, at: lambda: town.devices.delete(ada, at),
    "renames it": lambda town, ada, bob, eve, at: lambda: town.devices.change(ada, at, {"name": "Mine"}),
    "changes its certificate": lambda town, ada, bob, eve, at: lambda: town.rotations.rotate(ada, at),
}
"""Requests of somebody while the receiver accepts."""


@pytest.mark.fault("F-35b")
@pytest.mark.parametrize("race", RACES.values(), ids=RACES)
def test_who_accepts_while_somebody(
    town: Town, race: Callable[[Town, UserId, UserId, UserId, DeviceId], Callable[[], object]]
) -> None:
    for _ in range(TRIES):
        ada, bob, eve, device_id = again(town)
        other = race(town, ada, bob, eve, device_id)
        outcome = at_once(lambda bob=bob, at=device_id: town.transfers.accept(bob, at), other)  # type: ignore[misc]
        owners = town.owners()
        town.ids += [each for _, each in owners]
        if outcome[0] == "done":
            assert [user for user, _ in owners] == [bob]
        town.check()


def _offer(town: Town, random: Random) -> None:
    for user, device_id in town.owners():
        receiver = random.choice(town.people)
        if random.random() < 0.5:
            town.transfers.offer(user, device_id, receiver)
        else:
            town.transfers.offer_by_email(user, device_id, f"{receiver}@example.com")


def _answer(town: Town, random: Random) -> None:
    user, device_id = random.choice(town.people), random.choice(town.ids)
    if random.random() < 0.2:
        town.transfers.decline(user, device_id)
        return
    town.ids.append(town.transfers.accept(user, device_id).device.id)


def _accept_what_is_offered(town: Town, random: Random) -> None:
    user = random.choice(town.people)
    for received in town.transfers.service.received(user)[:1]:
        town.ids.append(town.transfers.accept(user, received.offer.device_id).device.id)


def _withdraw(town: Town, random: Random) -> None:
    town.transfers.service.withdraw(random.choice(town.people), random.choice(town.ids))


def _delete_device(town: Town, random: Random) -> None:
    if random.random() < 0.3:
        town.devices.delete(random.choice(town.people), random.choice(town.ids))


def _make_device(town: Town, random: Random) -> None:
    user = random.choice([each for each in town.people if each not in town.gone] or town.people)
    town.ids.append(town.make(user).current.device.id)


def _delete_account(town: Town, random: Random) -> None:
    if random.random() < 0.15:
        town.delete_account(random.choice(town.people))


def _pass_time(town: Town, random: Random) -> None:
    town.clock.moment += random.choice([timedelta(seconds=1), timedelta(minutes=3), OFFER_TTL])
    sweep_orphans(registry=town.registry, clock=town.clock, retention_s=86_400)


STEPS = [
    _offer,
    _offer,
    _accept_what_is_offered,
    _accept_what_is_offered,
    _answer,
    _withdraw,
    _delete_device,
    _make_device,
    _delete_account,
    _pass_time,
]


@pytest.mark.fault("F-35b")
@pytest.mark.parametrize("nth", range(4))
def test_after_any_sequence_the_device_has_one_owner_and_nobody_else_reads_it(
    world: World, seed: int, nth: int
) -> None:
    random = Random(f"{seed} {nth}")
    town = Town(world, people=4)
    done: list[str] = []
    for _ in range(40):
        step = random.choice(STEPS)
        with suppress(AppError, ConditionFailed):
            step(town, random)
        done.append(step.__name__)
        try:
            town.check()
        except AssertionError as exc:
            raise AssertionError(f"after {done}") from exc

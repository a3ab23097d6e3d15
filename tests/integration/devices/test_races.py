"""Two requests at the same moment: creations of one serial number, and merges into one item."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from karma.core.errors import Conflict
from karma.devices.credentials import Certificate
from karma.devices.domain import Latest, PresenceEvent, Reading
from karma.devices.service import DeviceService
from tests.fakes.devices import FakeRegistry
from tests.support.devices import World, new_device
from tests.support.plans import allowance


@dataclass
class Overtaken(FakeRegistry):
    """While the first creation attaches its certificate, a second one of the same device runs to its end."""

    overtake: Any = None

    def attach_certificate(self, thing: str, certificate: Certificate) -> None:
        super().attach_certificate(thing, certificate)
        overtake, self.overtake = self.overtake, None
        if overtake is not None:
            overtake()


def test_of_two_creations_the_later_wins_and_one_certificate_remains(world: World) -> None:
    registry = Overtaken()
    service = DeviceService(world.repository, registry, world.clock)
    new = new_device(serial_number="EOS-1")
    made: list[Any] = []
    registry.overtake = lambda: made.append(service.create(world.user, new, allowance=allowance(world.user)))
    with pytest.raises(Conflict, match="taken over"):
        service.create(world.user, new, allowance=allowance(world.user))
    assert list(registry.attached) == [made[0].certificate.arn]
    claim = world.repository.claim_of("EOS-1")
    assert claim is not None
    assert claim.certificate_ids == {made[0].certificate.id}
    assert world.current(made[0]).device.id == made[0].current.device.id


def test_merges_at_the_same_time_lose_nothing(world: World) -> None:
    made = world.create()
    claim = world.repository.claim_of(made.current.device.serial_number)
    assert claim is not None

    def say(n: int) -> None:
        said = Latest(readings={f"m{n}": Reading(float(n), n)}, last_seen_ms=n)
        world.repository.merge_latest(claim, said, now=world.clock.now(), tries=50)
        event = PresenceEvent(n, n, connected=True, session="s")
        world.repository.merge_presence(claim, [event], now=world.clock.now(), tries=50)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(say, range(1, 13)))
    current = world.current(made)
    assert set(current.latest.readings) == {f"m{n}" for n in range(1, 13)}
    assert current.latest.last_seen_ms == 12
    assert current.presence.changed_ms == 12

"""A device that changes hands in tests: its giver, its receiver, and what both see."""

from __future__ import annotations

from karma.core.ids import DeviceId, UserId
from karma.devices.service import Created
from tests.support.accounts import open_account
from tests.support.devices import World
from tests.support.transfers import Transfers, owners_of, spoken_by


class Hands:
    """A device of Ada's, and the people who may get it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ada, self.bob, self.eve = world.user, open_account(), open_account()
        self.transfers = Transfers(world.clock)
        self.made = world.create(
            name="Greenhouse",
            tags=("north",),
            location={"room": "north"},
            network={"ssid": "home"},
            ip="192.168.1.20",
            hardware={"revision": "B"},
            capabilities={"relay": True},
        )
        self.device_id = self.made.current.device.id
        self.serial = self.made.current.device.serial_number

    def hand_over(self) -> Created:
        return spoken_by(self.made, self.transfers.hand_over(self.ada, self.device_id, self.bob))

    def owners(self) -> list[UserId]:
        return [user for user, _ in owners_of(self.serial, [self.ada, self.bob, self.eve])]

    def values(self, user: UserId, device_id: str) -> list[float]:
        self.world.devices.get(user, device_id)
        now = self.world.clock.ms
        batches = self.world.telemetry.batches(DeviceId(device_id), from_ms=now - 86_400_000, to_ms=now + 1)
        return sorted(value for each in batches for _, metrics in each.samples for value in metrics.values())

    def used(self, user: UserId) -> int:
        items = self.world.items("billing")
        return sum(int(each["value"]["N"]) for each in items if each["pk"]["S"] == f"USER#{user}")

    def tell_sample(self, device: Created, value: float, seq: int) -> None:
        self.world.tell(self.world.message(device, "telemetry", self.world.samples((-1, value), seq=seq)))

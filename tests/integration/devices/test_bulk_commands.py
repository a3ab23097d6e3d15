"""Bulk commands: made, sent part by part, repeated, cancelled, given up; on the engine's tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from karma.core.clock import monotonic
from karma.core.errors import (
    InvalidTransition,
    NotFound,
    QuotaExceeded,
    ValidationFailed,
)
from karma.core.ids import BulkId, DeviceId, UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.requests import IdempotencyKeyReused
from karma.devices.bulk import (
    LANES,
    PART_DEVICES,
    BulkCommand,
    BulkKey,
    BulkLimit,
    BulkStatus,
    PartKey,
    state_of,
)
from karma.devices.bulk_commands import LOOKED_AFTER, BulkCommandService, BulkOrder
from karma.devices.bulk_parts import QueuedBulkParts, read_part
from karma.devices.bulk_sending import BulkSender
from karma.devices.bulk_sweep import send_open_parts
from karma.devices.domain import MAX_PENDING_COMMANDS
from karma.devices.repository.bulk_commands import BulkCommandRepository
from karma.devices.repository.deleted_devices import DeletedDeviceRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.service import Created
from karma.devices.sharing import ReachableDevices
from karma.projects.lookup import shown_devices
from tests.fakes.devices import FakeIngestQueue
from tests.support.clients import hooked
from tests.support.devices import World, provisioning_device
from tests.support.plans import reserved
from tests.support.requests import key

LIMIT = BulkLimit("team", 500)


class Bulks:
    """Bulk commands of a world's account, with all that handles them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.queue = FakeIngestQueue()
        self.store = BulkCommandRepository()
        parts = QueuedBulkParts(self.queue)
        devices, commands, clock = world.repository, world.command_repository, world.clock
        self.service = BulkCommandService(self.store, devices, commands, parts, clock)
        reach = ReachableDevices(shown_devices, devices)
        self.sender = BulkSender(self.store, world.commands, commands, parts, clock, reach)
        self.parts = parts

    def create(self, limit: BulkLimit = LIMIT, idempotency_key: Any = None, **order: Any) -> BulkCommand:
        given = {"command": "blink", "params": {"times": 2}, "ttl_s": 600, "serial": False, **order}
        return self.service.create(self.world.user, BulkOrder(**given), limit=limit, idempotency_key=idempotency_key)

    def deliver(self, *, times: int = 1) -> None:
        """Deliver what is in the queue, and what follows from it, each message so many times."""
        while self.queue.bodies:
            part = read_part(json.loads(self.queue.bodies.pop(0))["bulk"])
            for _ in range(times):
                self.sender.take(part)

    def sweep(self) -> int:
        return send_open_parts(self.store, self.parts, self.world.clock)

    def read(self, bulk: BulkCommand) -> BulkCommand:
        return self.service.get(self.world.user, bulk.key.bulk_id)

    def states(self, bulk: BulkCommand) -> Mapping[str, int]:
        return self.service.counts(self.read(bulk))


@pytest.fixture
def bulks(world: World) -> Bulks:
    return Bulks(world)


def ids(*made: Created) -> tuple[DeviceId, ...]:
    return tuple(each.current.device.id for each in made)


def fleet(world: World, count: int) -> tuple[DeviceId, ...]:
    """Store devices without their things."""
    found = []
    for _ in range(count):
        device = provisioning_device(world.user, tags=("fleet",))
        DeviceRepository().claim(device, reservation=reserved(world.user), attempt="a", now=world.clock.now())
        DeviceRepository().activate(device, attempt="a", certificate_id="c", now=world.clock.now())
        found.append(device.id)
    return tuple(found)


def test_each_device_with_the_tag_gets_it_and_has_a_result_of_its_own(world: World, bulks: Bulks) -> None:
    north, other, off = (world.create(tags=tags) for tags in (("north",), ("south",), ("north", "roof")))
    world.connect(north)
    bulk = bulks.create(tag="north")
    assert (bulk.status, bulk.total, bulk.sent) == (BulkStatus.SENDING, 2, 0)
    assert bulks.states(bulk) == {"waiting": 2}
    bulks.deliver()
    assert len(world.publisher.sent) == 1
    assert world.publisher.sent[0][1]["params"] == {"times": 2}
    world.tell(
        world.message(north, "response", {"id": world.publisher.ids[0], "status": "succeeded", "ts": world.clock.ms})
    )
    over = bulks.read(bulk)
    assert (over.status, over.sent, over.refused) == (BulkStatus.SENT, 2, 0)
    assert bulks.states(bulk) == {"succeeded": 1, "queued": 1}
    results, following = bulks.service.results(over, limit=100)
    assert {each.device_id for each in results} == set(ids(north, off))
    assert following is None
    assert {each.command.requested_by for each in results if each.command} == {f"bulk:{bulk.key.bulk_id}"}
    assert world.commands.list(world.user, other.current.device.id)[0] == ()
    world.devices.delete(world.user, off.current.device.id)
    assert bulks.service.list(world.user, limit=5) == ([over], None)


def test_what_a_device_cannot_be_sent_is_told_of_it_alone(world: World, bulks: Bulks) -> None:
    fine, full, gone = (world.create() for _ in range(3))
    for _ in range(MAX_PENDING_COMMANDS):
        world.commands.send(world.user, full.current.device.id, "blink")
    world.devices.delete(world.user, gone.current.device.id)
    bulk = bulks.create(device_ids=(*ids(fine, full, gone), DeviceId(new_id()), *ids(fine)))
    assert bulk.total == 4
    bulks.deliver()
    results, _ = bulks.service.results(bulks.read(bulk), limit=100)
    told = [each.refusal.code if each.refusal else state_of(each) for each in results]
    assert told == ["queued", "RATE_LIMITED", "NOT_FOUND", "NOT_FOUND"]
    assert (bulks.read(bulk).sent, bulks.read(bulk).refused) == (1, 3)


def test_another_account_s_devices_are_not_there(world: World, bulks: Bulks) -> None:
    [mine] = fleet(world, 1)
    bulk = bulks.create(device_ids=(mine,))
    stranger = Bulks(World(world.stack))
    with pytest.raises(NotFound):
        stranger.service.get(stranger.world.user, bulk.key.bulk_id)
    theirs = stranger.create(device_ids=(mine,))
    stranger.deliver()
    assert stranger.states(theirs) == {"refused": 1}
    assert stranger.service.list(stranger.world.user, limit=5)[0] == [stranger.read(theirs)]


def test_doubled_and_reordered_messages_send_each_command_once(world: World, bulks: Bulks) -> None:
    devices = fleet(world, PART_DEVICES * (LANES + 1) + 1)
    bulk = bulks.create(tag="fleet")
    assert len(bulks.queue.bodies) == LANES
    bulks.queue.bodies.reverse()
    bulks.deliver(times=2)
    assert (bulks.read(bulk).sent, bulks.read(bulk).open_parts) == (len(devices), 0)
    sent = Counter(item["device_id"]["S"] for item in world.items() if item["type"]["S"] == "command")
    assert sent == dict.fromkeys(devices, 1)
    found, after = [], 0
    while True:
        page, following = bulks.service.results(bulks.read(bulk), limit=33, after=after)
        found += [each.device_id for each in page]
        if following is None:
            break
        after = following
    assert (len(found), set(found)) == (len(devices), set(devices))


class Dead(BaseException):
    """The process died."""


def test_a_death_at_any_call_is_made_good_by_a_repeat(world: World, bulks: Bulks) -> None:
    devices = fleet(world, 2)
    deaths = 0
    while True:
        bulk = bulks.create(device_ids=devices)
        left = deaths

        def die(**_: Any) -> None:
            nonlocal left
            if not left:
                raise Dead
            left -= 1

        part = PartKey(bulk.key, 0)
        bulks.queue.bodies.clear()
        try:
            with hooked("dynamodb", "after-call.dynamodb", die):
                bulks.sender.take(part)
        except Dead:
            deaths += 1
            assert bulks.sender.take(part) in {"sent", "repeated"}
        else:
            break
        seen = bulks.read(bulk)
        assert (seen.status, seen.sent, seen.refused) == (BulkStatus.SENT, 2, 0)
        results, _ = bulks.service.results(seen, limit=10)
        by_bulk = [
            item
            for item in world.items()
            if item["type"]["S"] == "command" and item["requested_by"]["S"] == f"bulk:{bulk.key.bulk_id}"
        ]
        assert {each.command.id for each in results if each.command} == {one["command_id"]["S"] for one in by_bulk}
        assert len(by_bulk) == 2
    assert deaths >= 8


def test_a_lost_message_is_made_up_for_by_the_sweep(world: World, bulks: Bulks) -> None:
    devices = fleet(world, PART_DEVICES + 1)
    bulks.queue.fails = True
    bulk = bulks.create(device_ids=devices)
    bulks.queue.fails = False
    assert (bulks.sweep(), bulks.queue.bodies) == (0, [])
    world.clock.pass_time(seconds=LOOKED_AFTER.total_seconds() + 1)
    assert (bulks.sweep(), bulks.sweep(), len(bulks.queue.bodies)) == (1, 0, 2)
    bulks.deliver()
    assert bulks.read(bulk).status is BulkStatus.SENT
    world.clock.pass_time(seconds=LOOKED_AFTER.total_seconds() + 1)
    assert (bulks.sweep(), bulks.sweep(), bulks.queue.bodies) == (1, 0, [])


def test_nothing_is_sent_behind_its_end(world: World, bulks: Bulks) -> None:
    devices = fleet(world, 2)
    bulk = bulks.create(device_ids=devices, ttl_s=60)
    world.clock.pass_time(seconds=30)
    world.clock.pass_time(seconds=30)
    bulks.deliver()
    results, _ = bulks.service.results(bulks.read(bulk), limit=10)
    assert [each.refusal.code for each in results if each.refusal] == ["EXPIRED", "EXPIRED"]
    assert "command" not in world.kinds()
    with pytest.raises(InvalidTransition):
        bulks.service.cancel(world.user, bulk.key.bulk_id)


def test_its_commands_end_together_however_late_they_are_sent(world: World, bulks: Bulks) -> None:
    [device] = fleet(world, 1)
    bulk = bulks.create(device_ids=(device,), ttl_s=60)
    world.clock.pass_time(seconds=45)
    bulks.deliver()
    [result] = bulks.service.results(bulks.read(bulk), limit=10)[0]
    assert result.command is not None
    assert result.command.expires_ms == bulk.expires_ms == world.clock.ms + 15_000


def test_what_cannot_be_handled_is_given_up(world: World, bulks: Bulks) -> None:
    bulk = bulks.create(device_ids=fleet(world, 1), ttl_s=60)
    world.clock.pass_time(seconds=60 + 3_600)
    assert (bulks.sweep(), bulks.sweep(), len(bulks.queue.bodies)) == (1, 0, 1), "no message but the first"
    assert bulks.states(bulk) == {"waiting": 1}


def test_a_cancelled_one_sends_no_more_and_takes_back_what_waits(world: World, bulks: Bulks) -> None:
    connected = world.create(tags=("fleet",))
    world.connect(connected)
    fleet(world, PART_DEVICES * 2)
    bulk = bulks.create(tag="fleet")
    bulks.sender.take(PartKey(bulk.key, 2))  # the oldest device is the last
    bulks.sender.take(PartKey(bulk.key, 0))
    assert bulks.states(bulk) == {"sent": 1, "queued": PART_DEVICES, "waiting": PART_DEVICES}
    cancelled = bulks.service.cancel(world.user, bulk.key.bulk_id)
    assert cancelled.status is BulkStatus.CANCELLING
    assert bulks.service.cancel(world.user, bulk.key.bulk_id) == cancelled
    bulks.deliver(times=2)
    assert bulks.states(bulk) == {"sent": 1, "cancelled": PART_DEVICES, "refused": PART_DEVICES}
    over = bulks.read(bulk)
    assert (over.status, over.sent, over.refused) == (BulkStatus.CANCELLED, PART_DEVICES + 1, PART_DEVICES)


def test_a_cancel_between_two_devices_of_a_part_leaves_none_behind(world: World, bulks: Bulks) -> None:
    devices = fleet(world, 3)
    bulk = bulks.create(device_ids=devices)
    calls = 0

    def cancel(**_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            bulks.service.cancel(world.user, bulk.key.bulk_id)

    with hooked("dynamodb", "before-call.dynamodb", cancel):
        assert bulks.sender.take(PartKey(bulk.key, 0)) in {"cancelled", "raced"}
    bulks.deliver()
    assert set(bulks.states(bulk)) <= {"cancelled", "refused"}
    assert sum(bulks.states(bulk).values()) == 3
    assert bulks.read(bulk).status is BulkStatus.CANCELLED
    assert "pending_command" not in world.kinds()


def test_a_repeated_request_makes_one(world: World, bulks: Bulks) -> None:
    devices = fleet(world, 1)
    first = bulks.create(tag="fleet", idempotency_key=key())
    fleet(world, 1)
    assert bulks.create(tag="fleet", idempotency_key=key()) == first
    with pytest.raises(IdempotencyKeyReused):
        bulks.create(device_ids=devices, idempotency_key=key())
    assert world.kinds().count("bulk_command") == 1


def test_more_devices_than_the_plan_allows_get_nothing(world: World, bulks: Bulks) -> None:
    fleet(world, 3)
    for order in ({"tag": "fleet"}, {"device_ids": tuple(new_id() for _ in range(3))}):
        with pytest.raises(QuotaExceeded) as refused:
            bulks.create(limit=BulkLimit("free", 2), **order)
        assert refused.value.details == {
            "limit": "bulk_devices", "plan": "free", "allowed": 2, "requested": 3, "resets_at": None
        }  # fmt: skip
    with pytest.raises(ValidationFailed) as nobody:
        bulks.create(tag="nobody")
    assert nobody.value.details == [{"field": "tag", "message": "no device has this tag", "type": "value_error"}]
    assert "bulk_command" not in world.kinds()


def test_late_messages_of_what_is_gone_do_nothing(bulks: Bulks) -> None:
    key = BulkKey(UserId(new_id()), BulkId(new_id()))
    assert bulks.sender.take(PartKey(key, 0)) == "gone"
    bulk = bulks.create(device_ids=(new_id(),))
    assert bulks.sender.take(PartKey(bulk.key, 7)) == "gone"


def test_an_account_s_deletion_takes_them_along(world: World, bulks: Bulks) -> None:
    bulk = bulks.create(device_ids=(new_id(),), idempotency_key=key())
    purge = PurgeAttempt(user_id=world.user, requested_at=world.clock.now(), ends_at=monotonic() + 60, settled=True)
    assert DeletedDeviceRepository().empty_owner(purge)
    assert world.kinds() == []
    assert bulks.sender.take(PartKey(bulk.key, 0)) == "gone"
    world.clock.pass_time(seconds=3_600)
    assert bulks.sweep() == 0

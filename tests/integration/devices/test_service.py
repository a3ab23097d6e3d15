"""Devices: create, read, list, change, delete, search; on the engine's tables."""

from __future__ import annotations

import pytest

from karma.core.errors import (
    AlreadyCreated,
    AlreadyExists,
    Gone,
    InvalidRequest,
    NotFound,
    StaleVersion,
    Upstream,
    ValidationFailed,
)
from karma.core.ids import UserId, new_id
from karma.core.requests import IdempotencyKeyReused
from karma.devices.answers import credentials_view, device_view
from karma.devices.domain import DeviceModel, DeviceStatus
from karma.devices.reading import DeviceQuery
from karma.devices.sweeps import sweep_orphans
from tests.support.accounts import open_account
from tests.support.devices import World, new_device
from tests.support.plans import allowance
from tests.support.requests import key


@pytest.mark.req("R-K-11", "R-K-13")
def test_a_new_device_has_the_specified_defaults_and_its_key_is_nowhere(world: World) -> None:
    made = world.create()
    shown = device_view(made.current)
    assert shown["user_id"] == world.user
    assert shown["status"] == "offline"
    assert (shown["capabilities"], shown["hardware"], shown["network"]) == ({}, {}, {})
    assert shown["tags"] == []
    assert shown["location"] is None
    credentials = credentials_view(made.current.device, made.certificate, made.endpoint)
    assert credentials["private_key"] == "private"
    assert (credentials["device_id"], credentials["thing_name"]) == (shown["id"], shown["serial_number"])
    assert "private" not in str(world.items())
    assert device_view(world.devices.get(world.user, made.current.device.id)) == shown


def test_a_signing_request_leaves_the_key_on_the_device(world: World) -> None:
    made = world.devices.create(world.user, new_device(), allowance=allowance(world.user), csr="pem")
    assert "private_key" not in credentials_view(made.current.device, made.certificate, made.endpoint)


@pytest.mark.req("R-K-11")
def test_a_serial_number_is_taken_once_for_everybody(world: World) -> None:
    serial = world.create().current.device.serial_number
    for user in (world.user, open_account()):
        with pytest.raises(AlreadyExists):
            world.devices.create(user, new_device(serial_number=serial), allowance=allowance(user))
    assert len(world.registry.certificates) == 1


@pytest.mark.parametrize("step", ["endpoint", "create_thing", "create_certificate", "attach_certificate"])
def test_a_failed_creation_leaves_nothing(world: World, step: str) -> None:
    world.registry.fail_at = step
    with pytest.raises(Upstream):
        world.create(serial_number="EOS-1")
    assert (world.items(), world.registry.things, world.registry.certificates) == ([], {}, {})
    world.registry.fail_at = ""
    assert world.create(serial_number="EOS-1").current.device.serial_number == "EOS-1"


def test_an_unsignable_request_is_the_callers_fault_and_leaves_nothing(world: World) -> None:
    with pytest.raises(ValidationFailed):
        world.devices.create(world.user, new_device(), allowance=allowance(world.user), csr="unreadable")
    assert world.items() == []


def test_a_creation_that_cannot_be_undone_is_swept(world: World) -> None:
    world.registry.fail_at = "remove_thing"
    with pytest.raises(ValidationFailed):
        world.devices.create(world.user, new_device(), allowance=allowance(world.user), csr="unreadable")
    assert world.kinds() == ["device", "device_latest", "device_presence", "thing"]
    assert world.devices.list(world.user, DeviceQuery()).total == 0
    world.registry.fail_at = ""
    world.clock.pass_time(minutes=3)
    _sweep(world)
    assert (world.items(), world.registry.things) == ([], {})


def test_an_unfinished_creation_is_taken_over_by_its_owner_only(world: World) -> None:
    new = new_device(serial_number="EOS-1", name="Old")
    world.registry.fail_at = "remove_thing"
    with pytest.raises(ValidationFailed):
        world.devices.create(world.user, new, allowance=allowance(world.user), csr="unreadable")
    world.registry.fail_at = ""
    other = open_account()
    with pytest.raises(AlreadyExists):
        world.devices.create(other, new, allowance=allowance(other))
    made = world.create(serial_number="EOS-1", name="New")
    assert made.current.device.name == "New"
    assert world.current(made).device.name == "New"
    assert list(world.registry.attached.values()) == ["EOS-1"]


def test_an_idempotency_key_makes_one_device(world: World) -> None:
    new = new_device()
    made = world.devices.create(world.user, new, allowance=allowance(world.user), idempotency_key=key("k"))
    with pytest.raises(AlreadyCreated) as repeated:
        world.devices.create(world.user, new, allowance=allowance(world.user), idempotency_key=key("k"))
    assert repeated.value.details == {"id": made.current.device.id}
    with pytest.raises(IdempotencyKeyReused):
        world.devices.create(world.user, new_device(), allowance=allowance(world.user), idempotency_key=key("k"))
    assert len(world.registry.things) == 1
    world.devices.delete(world.user, made.current.device.id)
    with pytest.raises(Gone) as gone:
        world.devices.create(world.user, new, allowance=allowance(world.user), idempotency_key=key("k"))
    assert gone.value.details == {"id": made.current.device.id}


@pytest.mark.parametrize("step", ["attach_certificate", "remove_thing"])
def test_a_creation_that_was_given_up_can_be_asked_for_again(world: World, step: str) -> None:
    """Undone at once, or not even that: the request has made nothing, so its repeat makes the device."""
    new = new_device()
    world.registry.fail_at = step
    with pytest.raises((Upstream, ValidationFailed)):
        world.devices.create(
            world.user, new, allowance=allowance(world.user), csr="unreadable", idempotency_key=key("k")
        )
    world.registry.fail_at = ""
    made = world.devices.create(world.user, new, allowance=allowance(world.user), csr="", idempotency_key=key("k"))
    assert world.current(made).device.serial_number == new.serial_number


def test_absent_and_foreign_devices_are_not_found(world: World) -> None:
    made = world.create()
    other = UserId(new_id())
    for user, ref in ((world.user, new_id()), (other, made.current.device.id), (world.user, "../../x#")):
        with pytest.raises(NotFound) as failure:
            world.devices.find_by_ref(user, ref)
        assert failure.value.message == f"Device {ref} not found"
    with pytest.raises(NotFound):
        world.devices.find_by_ref(other, made.current.device.serial_number)
    assert world.devices.find_by_ref(world.user, made.current.device.serial_number) == world.current(made)


@pytest.mark.req("R-K-27")
def test_lists_page_in_every_way(world: World) -> None:
    names = ["delta", "Bravo", "alpha", "echo", "Charlie"]
    ids = [world.create(name=name).current.device.id for name in names]
    other = open_account()
    world.devices.create(
        other,
        new_device(name="foreign"),
        allowance=allowance(other),
    )

    def walk(**how: object) -> list[str]:
        found: list[str] = []
        after = None
        while True:
            page = world.devices.list(world.user, DeviceQuery(limit=2, after=after, **how))  # type: ignore[arg-type]
            found += [each.device.id for each in page.devices]
            after = page.next_position
            if after is None:
                return found

    by_name = [ids[names.index(name)] for name in sorted(names, key=str.casefold)]
    assert walk() == ids[::-1]
    assert walk(descending=False) == ids
    assert walk(sort="name", descending=False) == by_name
    assert walk(sort="name") == by_name[::-1]
    assert walk(sort="serial_number", descending=False) == ids
    assert walk(model=DeviceModel.EOS_3A) == ids[::-1]
    assert walk(model=DeviceModel.EOS_3B) == []
    second = world.devices.list(world.user, DeviceQuery(limit=2, offset=2))
    assert [each.device.id for each in second.devices] == ids[::-1][2:4]
    whole = world.devices.list(world.user, DeviceQuery(limit=20))
    assert (whole.total, whole.next_position, whole.total_capped) == (5, None, False)
    with pytest.raises(InvalidRequest, match="cursor"):
        world.devices.list(world.user, DeviceQuery(limit=100, offset=901))


@pytest.mark.req("R-K-12")
def test_status_filters_find_the_online_ones(world: World) -> None:
    on, off = world.create(name="Oven north"), world.create(name="Oven south", model=DeviceModel.EOS_3B)
    world.connect(on)
    assert world.current(on).status is DeviceStatus.ONLINE
    page = world.devices.list(world.user, DeviceQuery(status=DeviceStatus.ONLINE))
    assert [each.device.id for each in page.devices] == [on.current.device.id]

    both = [each.current.device.id for each in (off, on)]
    assert [each.device.name for each in world.devices.each_of([(world.user, each) for each in both])] == [
        "Oven south",
        "Oven north",
    ]
    assert world.devices.each_of([(UserId(new_id()), each) for each in both]) == []
    assert off.current.device.model == "EOS-3B"


@pytest.mark.req("R-K-25")
def test_lists_are_filtered_by_tag_and_by_words(world: World) -> None:
    north = world.create(name="Oven Grün", serial_number="OVEN-1", tags=("north", "hot"))
    south = world.create(name="Oven south", serial_number="OVEN-2", location={"city": "München", "floor": 2})
    for query, expected in (
        (DeviceQuery(tag="north"), [north]),
        (DeviceQuery(tag="North"), []),
        (DeviceQuery(tag="nort"), []),
        (DeviceQuery(text="  "), [north, south]),
        (DeviceQuery(text="GRU\u0308N oven"), [north]),
        (DeviceQuery(text="münchen"), [south]),
        (DeviceQuery(text="oven-2 eos"), [south]),
        (DeviceQuery(text="oven", tag="hot", sort="name"), [north]),
        (DeviceQuery(text="oven nothing"), []),
    ):
        page = world.devices.list(world.user, query)
        assert {each.device.id for each in page.devices} == {each.current.device.id for each in expected}, query
        assert page.total == len(expected)


def test_changes_are_versioned(world: World) -> None:
    made = world.create()
    seen = world.current(made)
    changed = world.devices.change(
        world.user,
        seen.device.id,
        {"name": "Cellar", "tags": ["a"], "location": {"floor": -1}},
        version=seen.device.version,
    )
    assert (changed.device.name, changed.device.tags, changed.device.location) == ("Cellar", ("a",), {"floor": -1})
    with pytest.raises(StaleVersion):
        world.devices.change(world.user, seen.device.id, {"name": "X"}, version=seen.device.version)
    by_name = world.devices.list(world.user, DeviceQuery(sort="name"))
    assert [each.device.name for each in by_name.devices] == ["Cellar"]
    with pytest.raises(NotFound):
        world.devices.change(UserId(new_id()), seen.device.id, {"name": "X"})


def test_deleting_leaves_nothing_and_frees_the_serial_number(world: World) -> None:
    made = world.create(serial_number="EOS-1")
    device_id = made.current.device.id
    world.commands.send(world.user, device_id, "blink")
    world.tell(
        world.message(made, "telemetry", world.samples((0, 20.0))),
        world.message(made, "telemetry", b"not json"),
    )
    world.devices.delete(world.user, device_id)
    with pytest.raises(NotFound):
        world.devices.get(world.user, device_id)
    with pytest.raises(NotFound):
        world.devices.delete(world.user, device_id)
    assert (world.registry.things, world.registry.certificates) == ({}, {})
    again = world.create(serial_number="EOS-1")
    assert again.current.device.id != device_id
    world.devices.delete(world.user, again.current.device.id)
    world.clock.pass_time(minutes=3)
    _sweep(world)
    assert (world.items(), world.items("telemetry")) == ([], [])


def test_a_deletion_that_iot_holds_up_is_finished_by_the_sweep(world: World) -> None:
    made = world.create()
    world.registry.fail_at = "remove_thing"
    world.devices.delete(world.user, made.current.device.id)
    with pytest.raises(NotFound):
        world.devices.get(world.user, made.current.device.id)
    assert world.devices.list(world.user, DeviceQuery()).devices == ()
    world.registry.fail_at = ""
    for _ in range(2):
        world.clock.pass_time(minutes=3)
        _sweep(world)
    assert (world.items(), world.registry.things) == ([], {})


def test_late_telemetry_of_a_deleted_device_is_dropped(world: World) -> None:
    made = world.create()
    world.tell(world.message(made, "heartbeat", {"boot": "b", "seq": 0, "ts": world.clock.ms}))
    world.devices.delete(world.user, made.current.device.id)
    before = world.kinds()
    world.restart_ingest()
    world.tell(world.message(made, "telemetry", world.samples((0, 1.0))), world.presence(made, "connected", 0))
    assert (world.kinds(), world.items("telemetry")) == (before, [])


def _sweep(world: World) -> None:
    sweep_orphans(
        clock=world.clock,
        registry=world.registry,
    )


@pytest.mark.fault("F-24q")
def test_a_device_is_deleted_by_the_version_that_was_read(world: World) -> None:
    made = world.create()
    device_id, version = made.current.device.id, made.current.device.version
    changed = world.devices.change(world.user, device_id, {"name": "Other"}).device.version
    for stale in (version, changed + 1, 10**17):
        with pytest.raises(StaleVersion):
            world.devices.delete(world.user, device_id, version=stale)
    assert world.devices.get(world.user, device_id).device.name == "Other"
    world.registry.fail_at = "remove_thing"
    world.devices.delete(world.user, device_id, version=changed)
    world.registry.fail_at = ""
    # Begun, and left half-way: a repeat goes on, with the version that it had.
    world.devices.delete(world.user, device_id, version=changed)
    with pytest.raises(NotFound):
        world.devices.delete(world.user, device_id, version=changed)

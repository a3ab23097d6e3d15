"""A device becomes another account's: it goes on, its history stays behind, and nobody has it twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.audit.domain import AuditEvent
from karma.billing.plans import PlanName
from karma.core.dynamo.access import update
from karma.core.errors import AlreadyExists, Conflict, Forbidden, NotFound, QuotaExceeded
from karma.core.ids import UserId, new_id
from karma.devices.answers import credentials_view, device_view
from karma.devices.certificates import CertificateService
from karma.devices.domain import CommandStatus, DeviceStatus
from karma.devices.purge import DevicesPurge
from karma.devices.repository.deleted_devices import DeletedDeviceRepository
from karma.devices.repository.rotations import RotationRepository
from karma.devices.repository.transfers import TransferRepository
from karma.devices.sweeps import sweep_orphans
from karma.devices.transfer import OFFER_TTL, OfferDeclined
from karma.identity.items import UserItem, user_key
from karma.identity.transactional import AccountGone
from tests.support.accounts import open_account
from tests.support.devices import World
from tests.support.hands import Hands
from tests.support.plans import limited, take
from tests.support.transfers import Transfers, owner, spoken_by


@pytest.fixture
def hands(world: World) -> Hands:
    return Hands(world)


@pytest.mark.req("R-K-11")
def test_a_device_goes_over_and_goes_on(hands: Hands) -> None:
    world, made = hands.world, hands.made
    world.connect(made)
    heartbeat = {"boot": "b", "seq": 1, "ts": world.clock.ms, "ip": "203.0.113.9", "firmware_version": "1.4.2"}
    world.tell(world.message(made, "heartbeat", heartbeat))
    hands.tell_sample(made, 1.0, seq=1)
    world.clock.pass_time(seconds=1)

    hands.transfers.offer(hands.ada, hands.device_id, hands.bob)
    assert hands.owners() == [hands.ada]
    [received] = hands.transfers.service.received(hands.bob)
    assert (received.offer.device_id, received.name, received.serial_number) == (
        hands.device_id,
        "Greenhouse",
        hands.serial,
    )
    mine = hands.transfers.accept(hands.bob, hands.device_id)

    assert hands.owners() == [hands.bob]
    view = device_view(mine)
    kept = {name: view[name] for name in ("name", "model", "mac", "serial_number", "hardware", "capabilities")}
    was = device_view(made.current)
    assert kept == {name: was[name] for name in kept}  # type: ignore[literal-required]
    assert (view["status"], view["firmware_version"], view["certificates"]) == (DeviceStatus.ONLINE, "1.4.2", 1)
    assert (view["tags"], view["location"], view["network"], view["ip"], view["latest"]) == ([], None, {}, None, {})
    assert mine.device.id != hands.device_id
    assert (hands.used(hands.ada), hands.used(hands.bob)) == (0, 1)

    device = spoken_by(made, mine)
    # The process of ingest has the giver's row cached, and takes the message once more, for the receiver.
    world.tell(world.message(device, "telemetry", world.samples((0, 2.0), seq=2)))
    assert hands.values(hands.bob, mine.device.id) == [2.0]
    current = world.devices.get(hands.bob, mine.device.id)
    assert current.latest.readings["temp_c"].value == 2.0
    with pytest.raises(NotFound):
        world.devices.get(hands.ada, hands.device_id)


def test_commands_name_the_device_as_its_credentials_do_however_often_it_changes_hands(hands: Hands) -> None:
    world = hands.world
    world.connect(hands.made)
    second = hands.hand_over()
    third = spoken_by(hands.made, hands.transfers.hand_over(hands.bob, second.current.device.id, hands.eve))
    sent = world.commands.send(hands.eve, third.current.device.id, "blink")
    assert sent.status is CommandStatus.SENT
    assert [each["device_id"] for _, each, _ in world.publisher.sent] == [hands.device_id]
    rotations = CertificateService(world.repository, RotationRepository(), world.registry, world.clock)
    rotated = rotations.rotate(hands.eve, third.current.device.id)
    shown = credentials_view(rotated.current.device, rotated.certificate, rotated.endpoint)
    assert shown["device_id"] == hands.device_id
    answer = {"id": sent.id, "status": "succeeded", "ts": world.clock.ms}
    world.restart_ingest()
    world.tell(world.message(third, "response", answer))
    assert world.commands.get(hands.eve, third.current.device.id, sent.id).status is CommandStatus.SUCCEEDED


@pytest.mark.fault("F-35a")
def test_nothing_of_before_reaches_the_receiver_whenever_it_comes(hands: Hands) -> None:
    world, made = hands.world, hands.made
    early = world.message(made, "telemetry", world.samples((-5, 1.0), seq=1))
    wrong = world.message(made, "telemetry", b"secret of the giver")
    world.clock.pass_time(seconds=10)
    device = hands.hand_over()
    world.restart_ingest()
    mine = device.current.device.id
    world.tell(early, wrong)
    world.clock.pass_time(seconds=10)
    both = {**world.samples((-15_000, 1.0), (-3_000, 2.0), seq=3), "more": "x"}
    both["samples"].append({"ts": "never", "m": {"temp_c": 3.0}})
    world.tell(world.message(device, "telemetry", both))
    world.tell(world.message(device, "telemetry", world.samples((-15_000, 4.0), seq=4)))
    assert hands.values(hands.bob, mine) == [2.0]
    assert world.devices.get(hands.bob, mine).latest.readings["temp_c"].value == 2.0
    [letter] = world.dead_letters.page(mine, limit=5, now_s=world.clock.now().timestamp())[0]
    assert (letter.payload, [each.reason for each in letter.refused]) == (b"", ["WRONG_VALUE"])
    assert world.dead_letters.page(hands.device_id, limit=5, now_s=0)[0] == []


def test_what_the_giver_had_ends_with_the_device_and_is_swept(hands: Hands) -> None:
    world, made = hands.world, hands.made
    command = world.commands.send(hands.ada, hands.device_id, "blink", ttl_s=3600)
    hands.tell_sample(made, 1.0, seq=1)
    device = hands.hand_over()
    with pytest.raises(NotFound):
        world.commands.get(hands.ada, hands.device_id, command.id)
    with pytest.raises(NotFound):
        world.commands.get(hands.bob, device.current.device.id, command.id)
    world.restart_ingest()
    world.connect(device)
    assert world.publisher.sent == []
    world.clock.pass_time(minutes=3)
    sweep_orphans(registry=world.registry, clock=world.clock, retention_s=86_400)
    assert world.registry.things == {hands.serial: hands.device_id}
    left = {each["pk"]["S"] for each in [*world.items(), *world.items("telemetry")]}
    assert not [pk for pk in left if pk.startswith(f"DEV#{hands.device_id}")]
    assert not [each for each in world.items() if each["sk"]["S"].startswith("GONE#")]


def test_a_repeat_of_accepting_returns_the_device_and_of_declining_changes_nothing(hands: Hands) -> None:
    first = hands.hand_over().current.device
    assert hands.transfers.accept(hands.bob, hands.device_id).device.id == first.id
    for somebody in (hands.ada, hands.eve):
        with pytest.raises(NotFound):
            hands.transfers.accept(somebody, hands.device_id)
    hands.world.clock.moment += OFFER_TTL
    with pytest.raises(NotFound):
        hands.transfers.accept(hands.bob, hands.device_id)
    hands.transfers.offer(hands.bob, first.id, hands.eve)
    hands.transfers.decline(hands.eve, first.id)
    hands.transfers.decline(hands.eve, first.id)
    assert hands.owners() == [hands.bob]


def test_who_declined_is_not_asked_again_until_the_time_is_over(hands: Hands) -> None:
    transfers = hands.transfers
    transfers.offer(hands.ada, hands.device_id, hands.bob)
    transfers.decline(hands.bob, hands.device_id)
    assert transfers.service.given(hands.ada, hands.device_id).declined
    assert not transfers.service.received(hands.bob)
    with pytest.raises(NotFound):
        transfers.accept(hands.bob, hands.device_id)
    for _ in range(2):
        with pytest.raises(OfferDeclined):
            transfers.offer(hands.ada, hands.device_id, hands.bob)
        # Neither by their address, nor once somebody else was asked.
        transfers.offer_by_email(hands.ada, hands.device_id, f"{hands.bob}@example.com")
        assert not transfers.service.received(hands.bob)
        transfers.offer(hands.ada, hands.device_id, hands.eve)
    assert [each.offer.device_id for each in transfers.service.received(hands.eve)] == [hands.device_id]
    hands.world.clock.moment += OFFER_TTL
    transfers.offer(hands.ada, hands.device_id, hands.bob)
    assert transfers.accept(hands.bob, hands.device_id).device.user_id == hands.bob


def test_an_offer_to_an_address_is_to_whoever_has_proven_it(hands: Hands) -> None:
    transfers, address = hands.transfers, f"{new_id()}@example.com"
    transfers.offer_by_email(hands.ada, hands.device_id, address)
    shown = transfers.service.given(hands.ada, hands.device_id)
    assert (shown.user_id, shown.email) == (None, address)
    late = open_account(email=address)
    update(UserItem(*user_key(late)), [UserItem.email_verified.set(False)])
    assert not transfers.service.received(late)
    with pytest.raises(NotFound):
        transfers.accept(late, hands.device_id)
    update(UserItem(*user_key(late)), [UserItem.email_verified.set(True)])
    assert len(transfers.service.received(late)) == 1
    assert transfers.accept(late, hands.device_id).device.user_id == late


def test_an_offer_ends_when_it_is_withdrawn_replaced_or_over(hands: Hands) -> None:
    transfers, clock = hands.transfers, hands.world.clock
    transfers.offer(hands.ada, hands.device_id, hands.bob)
    transfers.service.withdraw(hands.ada, hands.device_id)
    with pytest.raises(NotFound):
        transfers.service.withdraw(hands.ada, hands.device_id)
    transfers.offer(hands.ada, hands.device_id, hands.bob)
    clock.pass_time(seconds=1)
    transfers.offer(hands.ada, hands.device_id, hands.eve)
    with pytest.raises(NotFound):
        transfers.accept(hands.bob, hands.device_id)
    clock.moment += OFFER_TTL - timedelta(seconds=1)
    assert len(transfers.service.received(hands.eve)) == 1
    clock.pass_time(seconds=1)
    assert not transfers.service.received(hands.eve)
    with pytest.raises(NotFound):
        transfers.accept(hands.eve, hands.device_id)
    with pytest.raises(NotFound):
        transfers.service.given(hands.ada, hands.device_id)
    assert hands.owners() == [hands.ada]


def _disable(hands: Hands) -> None:
    update(UserItem(*user_key(hands.ada)), [UserItem.disabled_at.set("2026-11-21T12:00:00.000Z")])


def _demote(hands: Hands) -> None:
    update(UserItem(*user_key(hands.ada)), [UserItem.role.set("viewer")])


def _end_sessions(hands: Hands) -> None:
    update(UserItem(*user_key(hands.ada)), [UserItem.sessions_from.set("2026-11-21T12:00:01.000Z")])


def _delete_device(hands: Hands) -> None:
    hands.world.devices.delete(hands.ada, hands.device_id)


@pytest.mark.parametrize("end", [_disable, _demote, _end_sessions, _delete_device])
def test_an_offer_is_void_once_its_giver_may_not_give(hands: Hands, end: Callable[[Hands], None]) -> None:
    hands.transfers.offer(hands.ada, hands.device_id, hands.bob)
    end(hands)
    assert not hands.transfers.service.received(hands.bob)
    with pytest.raises(NotFound):
        hands.transfers.accept(hands.bob, hands.device_id)
    assert hands.bob not in hands.owners()


def test_who_offers_needs_a_proof_and_a_device(hands: Hands) -> None:
    transfers = hands.transfers
    for receiver, error in ((hands.ada, AlreadyExists), (UserId(new_id()), AccountGone), (UserId("x"), AccountGone)):
        with pytest.raises(error):
            transfers.offer(hands.ada, hands.device_id, receiver)
    for device_id in (new_id(), "x"):
        with pytest.raises(NotFound):
            transfers.offer(hands.ada, device_id, hands.bob)
    with pytest.raises(NotFound):
        transfers.offer(hands.bob, hands.device_id, hands.eve)
    with pytest.raises(AlreadyExists):
        transfers.offer_by_email(hands.ada, hands.device_id, f"{hands.ada}@example.com")
    with pytest.raises(Forbidden):
        transfers.offer_by_email(hands.ada, hands.device_id, "bob@example.com", email_verified=False)
    assert len(transfers.proofs) == 4, "it is asked for before anything is told"
    with pytest.raises(NotFound):
        transfers.service.given(hands.ada, hands.device_id)


def test_a_plan_without_room_refuses_and_leaves_the_offer(hands: Hands) -> None:
    free = Transfers(hands.world.clock, plan=PlanName.FREE)
    free.offer(hands.ada, hands.device_id, hands.bob)
    reservation = limited(hands.bob)
    assert reservation.allowed is not None
    for _ in range(reservation.allowed):
        take(reservation)
    with pytest.raises(QuotaExceeded):
        free.accept(hands.bob, hands.device_id)
    assert (hands.owners(), hands.used(hands.ada), hands.used(hands.bob)) == ([hands.ada], 1, reservation.allowed)
    assert len(free.service.received(hands.bob)) == 1


def test_a_certificate_that_is_being_changed_comes_first(hands: Hands) -> None:
    world = hands.world
    rotations = RotationRepository()
    service = CertificateService(world.repository, rotations, world.registry, world.clock)
    hands.transfers.offer(hands.ada, hands.device_id, hands.bob)
    second = service.rotate(hands.ada, hands.device_id)
    with pytest.raises(Conflict) as refused:
        hands.transfers.accept(hands.bob, hands.device_id)
    assert (refused.value.code, hands.owners()) == ("ROTATION_UNDER_WAY", [hands.ada])
    service.remove(hands.ada, hands.device_id, hands.made.certificate.id)
    mine = hands.transfers.accept(hands.bob, hands.device_id)
    assert [each.id for each in service.list(hands.bob, mine.device.id)] == [second.certificate.id]
    service.rotate(hands.bob, mine.device.id)


@pytest.mark.fault("F-35b")
def test_a_deletion_that_comes_too_late_leaves_the_thing_alone(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    world, begin = hands.world, hands.world.repository.begin_delete
    hands.transfers.offer(hands.ada, hands.device_id, hands.bob)

    def overtaken(*given: Any, **more: Any) -> None:
        hands.transfers.accept(hands.bob, hands.device_id)
        begin(*given, **more)

    monkeypatch.setattr(world.repository, "begin_delete", overtaken)
    world.devices.delete(hands.ada, hands.device_id)
    assert list(world.registry.things) == [hands.serial]
    assert list(world.registry.certificates.values()) == ["ACTIVE"]
    assert hands.owners() == [hands.bob]


def test_the_lists_and_logs_of_both_tell_of_it(hands: Hands) -> None:
    device = hands.hand_over().current.device
    logged = {
        (each["pk"]["S"].removeprefix("USER#"), each["event"]["S"]): each
        for each in hands.world.items("identity")
        if each.get("type", {}).get("S") == "audit_entry"
    }
    assert {*logged} == {
        (hands.ada, AuditEvent.DEVICE_OFFERED),
        (hands.bob, AuditEvent.DEVICE_OFFER_RECEIVED),
        (hands.ada, AuditEvent.DEVICE_GIVEN),
        (hands.bob, AuditEvent.DEVICE_RECEIVED),
    }
    assert device.id in str(logged[hands.bob, AuditEvent.DEVICE_RECEIVED])
    notices = [each for each in hands.world.items("identity") if each.get("type", {}).get("S") == "notice"]
    assert len(notices) == 2
    assert device.id not in str(logged[hands.ada, AuditEvent.DEVICE_GIVEN]), "the giver learns no id of the receiver's"


def test_an_account_s_offers_go_with_it(hands: Hands, purge_of: Callable[[UserId], Any]) -> None:
    transfers, world = hands.transfers, hands.world
    transfers.offer(hands.ada, hands.device_id, hands.bob)
    transfers.decline(hands.bob, hands.device_id)
    other = world.create(serial_number="EOS-other")
    transfers.offer(hands.ada, other.current.device.id, hands.bob)
    assert TransferRepository().purge_account(purge_of(hands.bob))
    assert not [each for each in world.items() if str(hands.bob) in str(each)]
    transfers.offer(hands.ada, hands.device_id, hands.eve)
    step = DevicesPurge(
        devices=world.repository,
        deleted_devices=DeletedDeviceRepository(retention_s=0),
        registry=world.registry,
        clock=world.clock,
    )
    while not step.purge_account(purge_of(hands.ada)):
        pass
    assert world.items() == []
    with pytest.raises(NotFound):
        transfers.accept(hands.eve, hands.device_id)


@pytest.fixture
def purge_of() -> Callable[[UserId], Any]:
    from karma.core.clock import monotonic
    from karma.core.purge import PurgeAttempt
    from tests.support.rows import NOW

    def make(user_id: UserId) -> PurgeAttempt:
        return PurgeAttempt(user_id=user_id, requested_at=NOW, ends_at=monotonic() + 60, settled=True)

    return make


def test_an_api_key_offers_nothing(hands: Hands) -> None:

    from karma.audit.domain import NOWHERE

    key = replace(owner(hands.ada), method="api_key")
    with pytest.raises(Forbidden):
        hands.transfers.service.offer(key, hands.device_id, hands.bob, current_password=None, source=NOWHERE)

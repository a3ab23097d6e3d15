"""Commands: queue, publish, answer, wait, cancel, expire; on the engine's tables."""

from __future__ import annotations

from typing import Any

import pytest

from karma.core.clock import iso
from karma.core.errors import InvalidTransition, NotFound, RateLimited, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.core.requests import IdempotencyKeyReused
from karma.devices import commands as commands_module
from karma.devices.answers import command_view
from karma.devices.dispatch import RESEND_AFTER_S
from karma.devices.domain import Command, CommandStatus
from karma.devices.service import Created
from karma.devices.sweeps import expire_commands
from tests.support.devices import World
from tests.support.requests import key

S = CommandStatus


def answer(world: World, made: Created, command: Command, status: str, **more: Any) -> None:
    body = {"id": command.id, "status": status, "ts": world.clock.ms, **more}
    world.tell(world.message(made, "response", body))


def ready(world: World, made: Created) -> None:
    world.tell(world.message(made, "ready", {"boot": "b1", "ts": world.clock.ms}))


def status(world: World, command: Command) -> CommandStatus:
    return world.commands.get(world.user, command.device_id, command.id).status


def test_a_connected_device_gets_its_command_at_once_and_its_answer_comes_back(world: World) -> None:
    made = world.create()
    world.connect(made)
    sent = world.commands.send(world.user, made.current.device.serial_number, "move", {"x": 1.5}, ttl_s=30)
    assert sent.status is S.SENT
    [(thing, request, expires_in_s)] = world.publisher.sent
    assert thing == made.current.device.serial_number
    assert request == {
        "id": sent.id,
        "device_id": made.current.device.id,
        "command": "move",
        "params": {"x": 1.5},
        "issued_at": world.clock.ms,
        "expires_at": world.clock.ms + 30_000,
        "serial": False,
    }
    assert expires_in_s == 30
    answer(world, made, sent, "acknowledged")
    answer(world, made, sent, "succeeded", result={"x": 1.5})
    over = world.commands.wait(world.user, sent, timeout_s=5)
    assert (over.status, over.result, world.pauses) == (S.SUCCEEDED, {"x": 1.5}, [])
    assert [one.id for one in world.commands.list(world.user, made.current.device.id)[0]] == [sent.id]
    assert "pending_command" not in world.kinds()


def test_an_offline_device_gets_it_with_ready(world: World) -> None:
    made = world.create()
    queued = world.commands.send(world.user, made.current.device.id, "blink")
    assert (queued.status, world.publisher.sent) == (S.QUEUED, [])
    world.clock.pass_time(seconds=20)
    ready(world, made)
    assert world.publisher.ids == [queued.id]
    assert world.publisher.sent[0][2] == 40  # what is left of its time
    assert status(world, queued) is S.SENT


def test_ready_repeats_what_was_sent_and_not_acknowledged(world: World) -> None:
    made = world.create()
    world.connect(made)
    first, second = (world.commands.send(world.user, made.current.device.id, name) for name in ("a", "b"))
    answer(world, made, second, "acknowledged")
    ready(world, made)
    assert world.publisher.ids == [first.id, second.id], "just sent"
    world.clock.pass_time(seconds=RESEND_AFTER_S)
    world.wake_up()
    assert world.publisher.ids == [first.id, second.id, first.id], "without another `ready`"
    world.clock.pass_time(seconds=2 * RESEND_AFTER_S)
    ready(world, made)
    assert world.publisher.ids == [first.id, second.id, first.id, first.id]


def test_a_failed_publish_is_made_up_by_the_next_heartbeat(world: World) -> None:
    made = world.create()
    world.connect(made)
    world.publisher.fails = True
    queued = world.commands.send(world.user, made.current.device.id, "blink")
    assert queued.status is S.SENT, "nobody knows whether it came"
    with pytest.raises(InvalidTransition):
        world.commands.cancel(world.user, queued.device_id, queued.id)
    world.publisher.fails = False
    world.tell(world.message(made, "heartbeat", {"boot": "b1", "seq": 1, "ts": world.clock.ms}))
    assert world.publisher.ids == [queued.id]


def test_serial_commands_wait_for_answers(world: World) -> None:
    made = world.create()
    world.connect(made)
    device_id = made.current.device.id
    first = world.commands.send(world.user, device_id, "a", serial_order=True)
    second = world.commands.send(world.user, device_id, "b", serial_order=True)
    third = world.commands.send(world.user, device_id, "c")
    assert world.publisher.ids == [first.id]
    answer(world, made, first, "acknowledged")
    assert world.publisher.ids == [first.id]
    answer(world, made, first, "failed", error={"code": "STUCK", "message": "no"})
    assert world.publisher.ids == [first.id, second.id]
    answer(world, made, second, "succeeded")
    answer(world, made, second, "succeeded")
    assert world.publisher.ids == [first.id, second.id, third.id]


@pytest.mark.parametrize("late", ["acknowledged", "succeeded", "failed", "rejected"])
def test_late_and_repeated_answers_change_nothing(world: World, late: str) -> None:
    made = world.create()
    world.connect(made)
    sent = world.commands.send(world.user, made.current.device.id, "blink")
    answer(world, made, sent, "succeeded", result={"n": 1})
    answer(world, made, sent, late, result={"n": 2})
    seen = world.commands.get(world.user, sent.device_id, sent.id)
    assert (seen.status, seen.result) == (S.SUCCEEDED, {"n": 1})


def test_an_answer_may_be_quicker_than_the_record_of_its_publish(world: World) -> None:
    made = world.create()
    queued = world.commands.send(world.user, made.current.device.id, "blink")
    answer(world, made, queued, "succeeded")
    assert status(world, queued) is S.SUCCEEDED


def test_another_device_cannot_answer(world: World) -> None:
    mine, other = world.create(), world.create()
    queued = world.commands.send(world.user, mine.current.device.id, "blink")
    answer(world, other, queued, "succeeded")
    assert status(world, queued) is S.QUEUED


def test_time_ends_commands_on_read_and_by_the_sweep(world: World) -> None:
    made = world.create()
    device_id = made.current.device.id
    waiting = world.commands.send(world.user, device_id, "a", ttl_s=10)
    taken, unseen = (world.commands.send(world.user, device_id, name, ttl_s=10) for name in ("b", "c"))
    answer(world, made, taken, "acknowledged")
    world.clock.pass_time(seconds=11)
    assert (status(world, waiting), status(world, taken)) == (S.EXPIRED, S.TIMED_OUT)
    assert world.kinds().count("pending_command") == 1, "an end that was shown is recorded"
    assert expire_commands(world.command_repository, world.wake_ups, world.clock) == 1
    assert expire_commands(world.command_repository, world.wake_ups, world.clock) == 0
    assert (status(world, waiting), status(world, taken)) == (S.EXPIRED, S.TIMED_OUT)
    assert "pending_command" not in world.kinds()
    assert status(world, unseen) is S.EXPIRED


@pytest.mark.fault("F-11a")
@pytest.mark.parametrize("seen_before", [True, False])
def test_an_answer_that_comes_after_the_end_is_kept_beside_it(world: World, *, seen_before: bool) -> None:
    made = world.create()
    world.connect(made)
    first, second = (
        world.commands.send(world.user, made.current.device.id, name, ttl_s=ttl_s, serial_order=True)
        for name, ttl_s in (("a", 10), ("b", 600))
    )
    world.clock.pass_time(seconds=11)
    if seen_before:
        assert status(world, first) is S.EXPIRED
    for _ in range(2):
        answer(world, made, first, "acknowledged")
        answer(world, made, first, "succeeded", result={"n": 1})
        answer(world, made, first, "failed", error={"code": "LATER"})
    seen = world.commands.get(world.user, first.device_id, first.id)
    assert (seen.status, seen.result, seen.error) == (S.EXPIRED, None, None)
    assert command_view(seen)["late_result"] == {
        "status": "succeeded",
        "result": {"n": 1},
        "error": None,
        "received_at": iso(world.clock.now()),
    }
    assert (status(world, second), world.publisher.ids) == (S.SENT, [first.id, second.id])


@pytest.mark.fault("F-11a")
def test_an_answer_in_time_that_ingest_takes_late_counts_until_the_end_was_shown(world: World) -> None:
    made = world.create()
    world.connect(made)
    first, second = (world.commands.send(world.user, made.current.device.id, name, ttl_s=10) for name in ("a", "b"))
    in_time = [
        world.message(made, "response", {"id": each.id, "status": "succeeded", "ts": world.clock.ms})
        for each in (first, second)
    ]
    world.clock.pass_time(seconds=11)
    assert status(world, first) is S.EXPIRED
    world.tell(*in_time)
    assert (status(world, first), status(world, second)) == (S.EXPIRED, S.SUCCEEDED)


@pytest.mark.fault("F-11b")
@pytest.mark.parametrize("connected", [True, False])
def test_a_command_that_waits_behind_a_serial_one_is_sent_when_that_one_is_over(
    world: World, *, connected: bool
) -> None:
    """The device takes the first one and says nothing more."""
    made = world.create()
    world.connect(made)
    device_id = made.current.device.id
    first = world.commands.send(world.user, device_id, "a", ttl_s=30, serial_order=True)
    second = world.commands.send(world.user, device_id, "b", ttl_s=600, serial_order=True)
    answer(world, made, first, "acknowledged")
    if not connected:
        world.tell(world.presence(made, "disconnected", 0, offset_ms=5_000))
    world.clock.pass_time(seconds=29)
    world.wake_up()
    assert world.publisher.ids == [first.id]
    world.clock.pass_time(seconds=1)
    world.wake_up()
    assert world.publisher.ids == [first.id, *([second.id] if connected else [])]
    assert world.kinds().count("pending_command") == 1, "the first one's end is recorded"


def test_an_expired_command_is_never_published(world: World) -> None:
    made = world.create()
    late = world.commands.send(world.user, made.current.device.id, "a", ttl_s=10, serial_order=True)
    alive = world.commands.send(world.user, made.current.device.id, "b", ttl_s=60)
    world.clock.pass_time(seconds=11)
    ready(world, made)
    assert world.publisher.ids == [alive.id]
    assert status(world, late) is S.EXPIRED


def test_only_a_queued_command_can_be_cancelled(world: World) -> None:
    made = world.create()
    queued = world.commands.send(world.user, made.current.device.id, "a")
    assert world.commands.cancel(world.user, queued.device_id, queued.id).status is S.CANCELLED
    assert world.commands.cancel(world.user, queued.device_id, queued.id).status is S.CANCELLED
    world.connect(made)
    assert world.publisher.sent == []
    sent = world.commands.send(world.user, made.current.device.id, "b")
    with pytest.raises(InvalidTransition, match="is sent: the device may have it; `force=true` gives it up"):
        world.commands.cancel(world.user, sent.device_id, sent.id)
    answer(world, made, sent, "failed")
    with pytest.raises(InvalidTransition, match="is failed: it is over"):
        world.commands.cancel(world.user, sent.device_id, sent.id, force=True)


@pytest.mark.fault("F-11e")
@pytest.mark.parametrize("acknowledged", [True, False])
def test_what_was_sent_can_be_given_up_and_its_answer_is_a_late_one(world: World, *, acknowledged: bool) -> None:
    made = world.create()
    world.connect(made)
    first, second = (
        world.commands.send(world.user, made.current.device.id, name, ttl_s=604_800, serial_order=True) for name in "ab"
    )
    if acknowledged:
        answer(world, made, first, "acknowledged")
    given_up = world.commands.cancel(world.user, first.device_id, first.id, force=True)
    assert (given_up.status, given_up.sent_ms, status(world, second)) == (S.CANCELLED, world.clock.ms, S.SENT)
    world.clock.pass_time(seconds=RESEND_AFTER_S)
    ready(world, made)
    assert world.publisher.ids == [first.id, second.id, second.id], "it is not sent again"
    answer(world, made, first, "succeeded", result="open")
    seen = world.commands.cancel(world.user, first.device_id, first.id, force=True)
    assert (seen.status, seen.result) == (S.CANCELLED, None)
    assert seen.late_result is not None
    assert (seen.late_result.status, seen.late_result.result) == (S.SUCCEEDED, {"value": "open"})


def test_waiting_looks_ever_less_often_and_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world.create()
    sent = world.commands.send(world.user, made.current.device.id, "a")
    seconds = iter(range(100))
    monkeypatch.setattr(commands_module, "monotonic", lambda: float(next(seconds)))
    seen = world.commands.wait(world.user, sent, timeout_s=600)
    assert seen.status is S.QUEUED
    assert world.pauses == sorted(world.pauses)
    assert max(world.pauses) <= 1
    assert len(world.pauses) < 20  # capped at 20 s


def test_an_idempotency_key_sends_once(world: World) -> None:
    made = world.create()
    world.connect(made)
    device_id = made.current.device.id
    first = world.commands.send(world.user, device_id, "a", idempotency_key=key("k"))
    again = world.commands.send(world.user, device_id, "a", idempotency_key=key("k"))
    assert (again.id, world.publisher.ids) == (first.id, [first.id])
    with pytest.raises(IdempotencyKeyReused):
        world.commands.send(world.user, device_id, "b", idempotency_key=key("k"))


def test_a_repeat_is_answered_though_no_more_commands_may_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device_id = world.create().current.device.id
    monkeypatch.setattr(commands_module, "MAX_PENDING_COMMANDS", 1)
    first = world.commands.send(world.user, device_id, "a", idempotency_key=key("k"))
    with pytest.raises(RateLimited):
        world.commands.send(world.user, device_id, "a", idempotency_key=key("other"))
    assert world.commands.send(world.user, device_id, "a", idempotency_key=key("k")) == first


def test_refusals(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world.create()
    device_id = made.current.device.id
    for ref in (new_id(), "EOS-unknown", ""):
        with pytest.raises(NotFound, match=f"Device {ref} not found"):
            world.commands.send(world.user, ref, "a")
    with pytest.raises(NotFound):
        world.commands.send(UserId(new_id()), device_id, "a")
    wrong: list[tuple[Any, Any, Any]] = [
        ("", {}, 1),
        ("a b", {}, 1),
        ("a", {}, 0),
        ("a", {}, 10**6),
        ("a", {"x": "y" * 17_000}, 1),
    ]
    for command, params, ttl_s in wrong:
        with pytest.raises(ValidationFailed):
            world.commands.send(world.user, device_id, command, params, ttl_s=ttl_s)
    sent = world.commands.send(world.user, device_id, "a")
    for user, device, command_id in ((UserId(new_id()), device_id, sent.id), (world.user, device_id, new_id())):
        with pytest.raises(NotFound):
            world.commands.get(user, device, command_id)
    monkeypatch.setattr(commands_module, "MAX_PENDING_COMMANDS", 1)
    with pytest.raises(RateLimited):
        world.commands.send(world.user, device_id, "a")


@pytest.mark.fault("F-24h")
def test_all_that_is_wrong_is_told_at_once(world: World) -> None:
    device_id = world.create().current.device.id
    with pytest.raises(ValidationFailed) as refused:
        world.commands.send(world.user, device_id, "a b", {"x": "y" * 17_000}, ttl_s=0)
    told: Any = refused.value.details
    assert [each["field"] for each in told] == ["command", "ttl_s", "params"]


def test_lists_page(world: World) -> None:
    made = world.create()
    ids = []
    for _ in range(5):
        ids.append(world.commands.send(world.user, made.current.device.id, "a").id)
        world.clock.pass_time(seconds=1)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page, after = world.commands.list(world.user, made.current.device.id, limit=2, after=after)
        found += [one.id for one in page]
    assert sorted(found) == sorted(ids)
    assert found == sorted(found, reverse=True)

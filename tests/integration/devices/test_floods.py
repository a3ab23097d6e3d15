"""A device that sends faster than it may: its costs are limited, and nothing of it is lost silently."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from karma.core.errors import StorageUnavailable
from karma.core.ids import new_id
from karma.devices import allowance
from karma.devices.repository.dead_letters import TOO_MANY
from karma.devices.service import Created
from tests.support.devices import World

pytestmark = pytest.mark.fault("F-26e")
HOUR_MS = 3_600_000
WHOLE = b"[" * 5_000


def letters(world: World, made: Created) -> tuple[list[Any], int]:
    """Return the letters of single messages, and how many further messages the others count."""
    found, _ = world.dead_letters.page(made.current.device.id, limit=50)
    own = [each for each in found if each.refused != (TOO_MANY,)]
    return own, sum(each.refused_count for each in found if each not in own)


@pytest.fixture
def made(world: World, monkeypatch: pytest.MonkeyPatch) -> Created:
    monkeypatch.setattr(allowance, "LETTERS_AN_HOUR", 2)
    monkeypatch.setattr(allowance, "UNITS_AN_HOUR", 6)
    monkeypatch.setattr(allowance, "PORTION", 3)
    return world.create()


@pytest.mark.parametrize("fresh", [False, True])
def test_messages_that_cannot_be_taken_are_kept_whole_or_counted(world: World, made: Created, fresh: bool) -> None:
    for _ in range(3):
        world.tell(*(world.message(made, "telemetry", WHOLE + new_id().encode()) for _ in range(2)))
        if fresh:
            world.restart_ingest()
    own, more = letters(world, made)
    assert (len(own), more) == (2, 4)
    for each in own:
        whole = world.dead_letters.get(made.current.device.id, each.id)
        assert whole is not None
        assert whole.payload.startswith(WHOLE)
    other = world.create()
    world.tell(world.message(other, "telemetry", WHOLE))
    assert [len(each) for each in letters(world, other)[:1]] == [1], "each device for itself"
    world.clock.pass_time(hours=1)
    world.tell(world.message(made, "telemetry", WHOLE))
    assert len(letters(world, made)[0]) == 3, "and each hour"


def test_the_good_samples_of_a_message_count_though_no_more_dead_letters_are_stored(
    world: World, made: Created
) -> None:
    world.tell(*(world.message(made, "heartbeat", b"?" + new_id().encode()) for _ in range(3)))
    bad = world.samples((0, 1.5))
    bad["samples"].append({"ts": "noon"})
    world.tell(world.message(made, "telemetry", bad))
    assert letters(world, made)[1] == 2
    current = world.repository.current(world.user, made.current.device.id, consistent=True)
    assert current is not None
    assert current.latest.readings["temp_c"].value == 1.5


def test_telemetry_beyond_the_hour_is_refused_and_told(world: World, made: Created) -> None:
    def send(seq: int) -> None:
        world.tell(world.message(made, "telemetry", world.samples((0, seq), seq=seq)))

    for seq in range(12):
        send(seq)
    device_id = made.current.device.id
    kept = list(world.telemetry.batches(device_id, from_ms=world.clock.ms, to_ms=world.clock.ms + 1))
    assert len(kept) == 9, "the first portion of this process, then the hour's"
    own, more = letters(world, made)
    assert ([each.refused[0].reason for each in own], more) == (["TOO_FAST"] * 2, 1)
    world.clock.pass_time(hours=1)
    send(12)
    an_hour_ago = world.clock.ms - 3_600_000
    kept = list(world.telemetry.batches(device_id, from_ms=an_hour_ago, to_ms=world.clock.ms + 1))
    assert len(kept) == 10


def test_messages_that_could_not_be_counted_come_again(
    world: World, made: Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [world.message(made, "telemetry", WHOLE + bytes([48 + n])) for n in range(4)]

    def broken(*_: Any, **__: Any) -> None:
        raise StorageUnavailable("The database does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(world.dead_letters, "sum_up", broken)
        again = world.ingest.take(messages)
    assert len(again) == 2
    assert letters(world, made)[1] == 0
    assert world.ingest.take([replace(each) for each in messages if each.id in again]) == []
    own, more = letters(world, made)
    assert (len(own), more) == (2, 2)


def test_telemetry_that_could_not_be_stored_is_not_counted_at_each_delivery(
    world: World, made: Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = world.message(made, "telemetry", world.samples((0, 1.5)))

    def broken(*_: Any, **__: Any) -> None:
        raise StorageUnavailable("The database does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(world.telemetry, "store", broken)
        for _ in range(20):
            assert world.ingest.take([message]) == [message.id]
    assert world.ingest.take([message]) == []
    assert letters(world, made) == ([], 0)
    now = world.clock.ms
    assert len(list(world.telemetry.batches(made.current.device.id, from_ms=now - HOUR_MS, to_ms=now + 1))) == 1


@pytest.mark.fault("F-26f")
def test_a_device_that_connects_over_and_over_is_slowed_down_and_still_gets_and_answers_its_commands(
    world: World, made: Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "MESSAGES_PORTION", 4)
    monkeypatch.setattr(allowance, "WORDS_AN_HOUR", 4)
    monkeypatch.setattr(allowance, "ANSWERS_AN_HOUR", 4)

    def connect(version: int, kind: str = "connected") -> None:
        world.tell(
            world.presence(made, kind, version), world.message(made, "ready", {"boot": "b1", "ts": world.clock.ms})
        )

    for version in range(6):
        connect(version)
        world.clock.pass_time(seconds=1)
    world.clock.pass_time(seconds=5)
    world.wake_up()
    queued = world.commands.send(world.user, made.current.device.id, "a", ttl_s=600)
    assert world.publisher.ids == [queued.id], "it is connected, though its hour is used up"
    world.clock.pass_time(seconds=9)
    for version in range(7, 12):
        connect(version)
        world.clock.pass_time(seconds=2)
    beat = {"boot": "b1", "seq": 1, "ts": world.clock.ms}
    world.tell(world.message(made, "heartbeat", beat))
    assert letters(world, made)[0][0].refused[0].reason == "TOO_FAST"
    world.clock.pass_time(seconds=60)
    world.wake_up()
    assert world.publisher.ids == [queued.id] * 2, "once a minute, however often it says `ready`"
    world.tell(world.message(made, "response", {"id": queued.id, "status": "succeeded", "ts": world.clock.ms}))
    assert world.commands.get(world.user, made.current.device.id, queued.id).status == "succeeded"
    connect(12, "disconnected")
    assert world.current(made).status == "offline", "that it has gone is always taken"
    world.clock.pass_time(hours=1)
    world.tell(world.message(made, "heartbeat", beat))
    assert len(letters(world, made)[0]) == 1


@pytest.mark.fault("F-26f")
def test_answers_beyond_the_hour_are_told_and_counted(
    world: World, made: Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "MESSAGES_PORTION", 3)
    monkeypatch.setattr(allowance, "ANSWERS_AN_HOUR", 3)
    queued = world.commands.send(world.user, made.current.device.id, "a")
    for status in (*["acknowledged"] * 6, "succeeded"):
        world.tell(world.message(made, "response", {"id": queued.id, "status": status, "ts": world.clock.ms}))
    assert world.commands.get(world.user, made.current.device.id, queued.id).status == "acknowledged"
    [letter], _ = letters(world, made)
    assert (letter.refused[0].reason, letter.taken) == ("TOO_FAST", False)

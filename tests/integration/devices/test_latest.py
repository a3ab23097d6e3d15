"""The newest values of a device are those of all its stored samples, in any order, however doubled, after any death."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from karma.core import aws
from karma.devices.domain import Latest, Reading
from karma.devices.hearing import DeviceMessage
from karma.devices.service import Created
from tests.support.clients import hooked
from tests.support.devices import World

METRICS = ("temp_c", "a.b[0]", "#x:y", "é", "and", *(f"m{n}" for n in range(25)))
VALUES = (0, -1, 22, 21.0, 1e300, -1e-300, 0.1, 2**53 + 1)


class Died(BaseException):
    """The process of ingest ends here."""


@contextmanager
def dying(dice: random.Random) -> Iterator[None]:
    """Let the process die before or behind one of the next calls of DynamoDB, or not at all."""
    left = dice.randrange(12)

    def call(**_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Died

    with hooked("dynamodb", dice.choice(("before-call.dynamodb", "after-call.dynamodb")), call):
        yield


@contextmanager
def counted() -> Iterator[list[str]]:
    seen: list[str] = []

    def note(event_name: str, **_: Any) -> None:
        seen.append(event_name.rpartition(".")[2])

    with hooked("dynamodb", "before-call.dynamodb", note):
        yield seen


def sent(world: World, created: Created, dice: random.Random) -> list[DeviceMessage]:
    """Return messages that came within a minute, with samples of before, of now, and of a clock that is ahead."""
    messages = []
    for seq in range(16):
        received = world.clock.ms - dice.randrange(60_000)
        metrics = dice.choice((METRICS[:3], METRICS))
        samples = [
            {
                "ts": received + dice.choice((-3_600_000, -1_000, -500, 0, 0, 0, 300_000)),
                "m": {name: dice.choice(VALUES) for name in dice.sample(metrics, dice.randint(1, 3))},
            }
            for _ in range(dice.randint(1, 2))
        ]
        messages.append(
            world.message(created, "telemetry", {"boot": "b", "seq": seq, "samples": samples}, received_ms=received)
        )
        if dice.random() < 0.2:
            beat = {"boot": "b", "seq": seq, "ts": received, "ip": f"192.0.2.{seq}"}
            messages.append(world.message(created, "heartbeat", beat, received_ms=received))
    return messages


def newest(messages: list[DeviceMessage]) -> dict[str, tuple[float, int]]:
    """Return what the samples say, each with the time at which it is shown: not after its message came."""
    found: dict[str, tuple[int, float]] = {}
    for message in messages:
        for sample in json.loads(message.payload).get("samples", ()):
            for name, value in sample["m"].items():
                said = (min(sample["ts"], message.received_ms), value)
                found[name] = max(found.get(name, said), said)
    return {name: (value, ts) for name, (ts, value) in found.items()}


@pytest.mark.parametrize("nth", range(4))
def test_they_are_the_newest_of_all_stored_samples(world: World, seed: int, nth: int) -> None:
    dice = random.Random(seed)
    created = world.create()
    messages = sent(world, created, dice)
    arriving = [*messages, *dice.sample(messages, 6)]
    dice.shuffle(arriving)
    while arriving:
        size = dice.choice((1, 1, 2, 5))
        batch, arriving = arriving[:size], arriving[size:]
        try:
            with dying(dice):
                again = world.ingest.take(batch)
                assert again == []
        except Died:
            world.restart_ingest()
            arriving = [*batch, *arriving] if dice.random() < 0.5 else [*arriving, *batch]
    shown = world.current(created).latest
    assert {name: (each.value, each.ts) for name, each in shown.readings.items()} == newest(messages)
    assert {name: type(each.value) for name, each in shown.readings.items()} == {
        name: type(value) for name, (value, _) in newest(messages).items()
    }
    assert shown.last_seen_ms == max(each.received_ms for each in messages)


def test_the_next_sample_is_written_without_a_read_and_a_repeat_not_at_all(world: World) -> None:
    created = world.create()
    world.tell(world.message(created, "telemetry", world.samples((0, 1.0))))
    world.clock.pass_time(seconds=1)
    message = world.message(created, "telemetry", world.samples((0, 2.0), seq=1))
    with counted() as calls:
        world.tell(message)
    assert calls == ["PutItem", "ExecuteStatement"]
    before = world.items()
    world.tell(message)
    assert world.items() == before
    world.clock.pass_time(seconds=1)
    late = world.message(created, "telemetry", world.samples((-5_000, 9.0), seq=2))
    with counted() as calls:
        world.tell(late)
    assert calls == ["PutItem", "ExecuteStatement", "PutItem"], "the update that fails tells what is there"
    assert world.current(created).latest.readings["temp_c"].value == 2.0
    assert world.current(created).latest.last_seen_ms == world.clock.ms


def test_an_item_of_an_earlier_release_keeps_its_values(world: World, merge: Callable[..., bool]) -> None:
    created = world.create()
    assert merge(created, Latest(readings={"h": Reading(40.0, 5), "t": Reading(1.0, 5)}, ip="192.0.2.1", ip_ms=5))
    for item in world.items():
        if item["sk"]["S"].endswith("#LATEST"):
            key = {name: item[name] for name in ("pk", "sk")}
            aws.client("dynamodb").update_item(
                TableName=world.stack.tables["devices"], Key=key, UpdateExpression="REMOVE fresh, seen_ms"
            )
    for ts in (6, 7):
        assert merge(created, Latest(readings={"t": Reading(2.0, ts)}, last_seen_ms=ts))
    shown = world.current(created).latest
    assert shown.readings == {"h": Reading(40.0, 5), "t": Reading(2.0, 7)}
    assert (shown.ip, shown.last_seen_ms) == ("192.0.2.1", 7)


def test_another_process_that_was_quicker_loses_nothing(world: World, merge: Callable[..., bool]) -> None:
    created = world.create()
    assert merge(created, Latest(readings={"t": Reading(1.0, 1)}, last_seen_ms=1))
    overtaken = [
        Latest(readings={"u": Reading(3.0, 3)}, last_seen_ms=3),
        Latest(readings={"t": Reading(2.0, 2), "v": Reading(2.0, 2)}, last_seen_ms=2, ip="192.0.2.1", ip_ms=2),
    ]

    def overtake(**_: Any) -> None:
        if overtaken:
            assert merge(created, overtaken.pop())

    with hooked("dynamodb", "before-call.dynamodb.PutItem", overtake):
        assert merge(
            created, Latest(readings={"t": Reading(4.0, 4)}, last_seen_ms=4, condition_ms=4, condition="error")
        )
    shown = world.current(created).latest
    assert not overtaken
    assert {name: each.ts for name, each in shown.readings.items()} == {"t": 4, "u": 3, "v": 2}
    assert (shown.last_seen_ms, shown.ip, shown.condition) == (4, "192.0.2.1", "error")


@pytest.fixture
def merge(world: World) -> Callable[..., bool]:
    def merge(created: Created, said: Latest) -> bool:
        claim = world.repository.claim_of(created.current.device.serial_number)
        assert claim is not None
        return world.repository.merge_latest(claim, said, now=world.clock.now())

    return merge

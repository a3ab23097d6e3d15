"""Rollups end as a recomputation from raw would: late, doubled and reordered samples, deaths, and races."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.ids import DeviceId, new_id
from karma.telemetry.domain import DAY_MS, HOUR_MS, MAX_METRICS, Level, Period, joined, rolled_up
from karma.telemetry.marking import SETTLING
from karma.telemetry.ports import DeviceClosed, DirtyPeriod, PeriodChanged
from karma.telemetry.rebuilding import periods_message
from karma.telemetry.removal import TelemetryOfDevices
from tests.support.crash import CrashTest
from tests.support.devices import World
from tests.support.stack import Stack
from tests.support.telemetry import Rolling, Samples


@pytest.fixture
def rolling(world: World) -> Rolling:
    return Rolling(world)


def sent(chance: random.Random, begin_ms: int, *, hours: int, messages: int) -> list[Samples]:
    """Return messages of a device, each of samples of some minutes, in the order of their samples."""
    made: list[Samples] = []
    for begin in sorted(chance.randrange(begin_ms, begin_ms + hours * HOUR_MS) for _ in range(messages)):
        times = sorted(begin + chance.randrange(200_000) for _ in range(chance.randint(1, 6)))
        made.append([(ts, {chance.choice("ab"): round(chance.gauss(20, 5), 2), "c": 1}) for ts in times])
    return made


def test_late_doubled_and_reordered_samples_end_in_what_raw_says(rolling: Rolling, seed: int) -> None:
    chance, world = random.Random(seed), rolling.world
    begin = world.clock.ms - world.clock.ms % DAY_MS - 2 * HOUR_MS
    messages = sent(chance, begin, hours=6, messages=60)
    deliveries = [(rolling.message(samples), samples) for samples in messages]
    # Each comes when it is sent, or later; some twice. The stream tells of each once or twice, and late, too.
    late = [(n + chance.choice((0, 0, 0, 8, 30)), each) for n, each in enumerate(deliveries)]
    late += [(n + chance.choice((0, 5, 40)), each) for n, each in enumerate(deliveries) if chance.random() < 0.3]
    waiting: list[Samples] = []
    for n, (_, (delivery, samples)) in enumerate(sorted(late, key=lambda pair: pair[0])):
        world.tell(delivery)
        waiting += [samples] * chance.choice((1, 1, 2))
        chance.shuffle(waiting)
        while waiting and chance.random() < 0.8:
            rolling.tell(rolling.keys(waiting.pop()))
        if n % 9 == 0:
            world.clock.pass_time(minutes=chance.choice((1, 20, 61)))
            rolling.sweep()
        if n % 31 == 0:
            rolling.restart()
    for samples in waiting:
        rolling.tell(rolling.keys(samples))
    rolling.settle()
    everything = [sample for samples in messages for sample in samples]
    assert rolling.dirty() == []
    by_day: dict[int, dict[int, Any]] = {}
    for hour in sorted({ts // HOUR_MS for ts, _ in everything}):
        wanted = rolled_up(sample for sample in everything if sample[0] // HOUR_MS == hour)
        for metric in "abc":
            assert rolling.stored(metric, Level.HOUR, hour * HOUR_MS) == wanted.get(metric)
        by_day.setdefault(hour // 24, {})[hour * HOUR_MS] = wanted
    for day, hours in by_day.items():
        for metric in "abc":
            found = [(ts, of[metric]) for ts, of in hours.items() if metric in of]
            assert rolling.stored(metric, Level.DAY, day * DAY_MS) == (joined(found) if found else None)


def test_an_hour_is_computed_once_when_it_is_over_and_its_day_behind_it(rolling: Rolling) -> None:
    world = rolling.world
    now = world.clock.ms  # noon
    for n in range(5):
        rolling.store([(now + n, {"temp_c": n})])
    hour, day = (
        Period(rolling.device_id, Level.HOUR, now // HOUR_MS),
        Period(rolling.device_id, Level.DAY, now // DAY_MS),
    )
    assert rolling.dirty() == [hour]
    world.clock.pass_time(minutes=61)
    assert rolling.sweep() == 0
    world.clock.pass_time(minutes=2)
    assert rolling.sweep() == 1
    assert rolling.dirty() == [day]
    assert rolling.sweep() == 0
    rolling.settle()
    assert rolling.dirty() == []
    rollup = rolling.stored("temp_c", Level.DAY, now)
    assert rollup is not None
    assert [tuple(row)[:4] for row in rollup.rows] == [(now, 5, 0, 4)]


def test_open_hours_are_marked_once_a_process_and_closed_ones_each_time(rolling: Rolling) -> None:
    now = rolling.world.clock.ms
    here, before = rolling.keys([(now, {})]), rolling.keys([(now - HOUR_MS, {})])
    assert [rolling.tell(here), rolling.tell(here), rolling.tell(before), rolling.tell(before)] == [1, 0, 1, 1]
    rolling.restart()
    assert rolling.tell([*here, *before, *here]) == 2


def test_keys_of_other_items_mark_nothing(rolling: Rolling) -> None:
    [key] = rolling.keys([(0, {})])
    others = [
        key._replace(pk=f"TELEMETRY#{rolling.device_id}"),
        key._replace(sk="HOUR#000#1"),
        key._replace(pk="DEV#x#2"),
    ]
    assert rolling.tell(others) == 0


def marked(rolling: Rolling, ts: int) -> DirtyPeriod:
    found = rolling.world.rollups.dirty(Period(rolling.device_id, Level.HOUR, ts // HOUR_MS))
    assert found is not None
    return found


def test_a_sample_that_comes_between_reading_and_writing_keeps_the_mark(rolling: Rolling) -> None:
    world, now = rolling.world, rolling.world.clock.ms - 3 * HOUR_MS
    rolling.store([(now, {"temp_c": 1})])
    read = marked(rolling, now)
    made = rolled_up([(now, {"temp_c": 1.0})])
    numbers = world.rollups.numbers(rolling.device_id, ["temp_c"])
    rolling.store([(now + 1, {"temp_c": 2})])
    with pytest.raises(PeriodChanged):
        world.rollups.replace(read, {numbers["temp_c"]: made["temp_c"]}, parent_due=world.clock.now())
    assert rolling.stored("temp_c", Level.HOUR, now) is None
    assert rolling.sweep() == 1
    assert (
        rolling.stored("temp_c", Level.HOUR, now)
        == rolled_up([(now, {"temp_c": 1}), (now + 1, {"temp_c": 2})])["temp_c"]
    )
    # The mark was removed and set again meanwhile: it is another one.
    rolling.store([(now + 2, {"temp_c": 3})])
    with pytest.raises(PeriodChanged):
        world.rollups.replace(read, {}, parent_due=None)


def test_what_is_sent_twice_is_computed_once(rolling: Rolling) -> None:
    now = rolling.world.clock.ms - 3 * HOUR_MS
    rolling.store([(now, {"temp_c": 1})])
    period = marked(rolling, now).period
    assert [rolling.rebuilding.rebuild(period) for _ in range(3)] == [True, False, False]


def test_a_span_that_was_sent_waits_until_it_is_looked_at_again(rolling: Rolling) -> None:
    from karma.telemetry.sweeps import LOOK_AGAIN, send_dirty

    world = rolling.world
    rolling.store([(world.clock.ms - 3 * HOUR_MS, {"temp_c": 1})])
    world.clock.pass_time(seconds=1)
    assert [send_dirty(world.rollups, rolling.queue, world.clock) for _ in range(2)] == [1, 0]
    rolling.queue.bodies.clear()  # lost
    world.clock.moment += LOOK_AGAIN + timedelta(seconds=1)
    assert rolling.sweep() == 1


def test_the_first_metrics_of_a_device_are_rolled_up_and_no_more(rolling: Rolling) -> None:
    world, now = rolling.world, rolling.world.clock.ms - 3 * HOUR_MS
    for part in range(0, 300, 60):
        rolling.store([(now + part, {f"m{n:03d}": n for n in range(part, part + 60)})])
    assert rolling.sweep() == 1
    directory = world.rollups.directory(rolling.device_id, consistent=True)
    assert len(directory.metrics) == MAX_METRICS
    assert rolling.stored("m000", Level.HOUR, now) is not None
    rolling.store([(now + HOUR_MS, {"late": 1, "m001": 1})])
    assert rolling.sweep() == 1
    assert world.rollups.directory(rolling.device_id, consistent=True).metrics == directory.metrics
    assert rolling.stored("m001", Level.HOUR, now + HOUR_MS) is not None


def test_a_deleted_device_gets_no_rollup_again(rolling: Rolling) -> None:
    world, now = rolling.world, rolling.world.clock.ms - 3 * HOUR_MS
    rolling.store([(now, {"temp_c": 1})])
    rolling.sweep()
    rolling.store([(now + 1, {"temp_c": 1})])
    read = marked(rolling, now)
    removal = TelemetryOfDevices(world.rollups, world.archives, world.clock)
    assert removal.remove(rolling.device_id, limit=100) == 3  # its hour, and marks of hour and day
    assert removal.remove(rolling.device_id, limit=100) == 0
    # A worker that read before, one that comes later, and a mark that comes last.
    for _ in range(2):
        with pytest.raises((PeriodChanged, DeviceClosed)):
            world.rollups.replace(read, {0: rolled_up([(now, {"a": 1.0})])["a"]}, parent_due=None)
        with pytest.raises(DeviceClosed):
            world.rollups.numbers(rolling.device_id, ["temp_c"])
        rolling.tell(rolling.keys([(now, {})]))
        read = marked(rolling, now)
    assert rolling.rebuilding.rebuild(read.period) is False
    left = [item["sk"]["S"] for item in world.items("telemetry") if item["pk"]["S"].startswith("TELEMETRY#")]
    assert left == ["DIRECTORY", f"DIRTY#H#{now // HOUR_MS:07d}"]
    for item in world.items("telemetry"):
        if item["type"]["S"] == "telemetry":
            world.stack.aws("dynamodb").delete_item(
                TableName=world.stack.tables["telemetry"], Key={"pk": item["pk"], "sk": item["sk"]}
            )
    assert rolling.rebuilding.rebuild(read.period) is True  # no samples are left: the mark goes
    assert rolling.dirty() == []


def test_a_worker_that_dies_at_any_call_leaves_the_span_to_the_next(stack: Stack) -> None:
    stack.use("telemetry")
    world = World(stack)
    hour = (epoch_ms(datetime.now(UTC)) // HOUR_MS - 5) * HOUR_MS
    device = DeviceId(new_id())

    def seed() -> dict[str, Any]:
        from karma.devices.samples import Batch

        for seq in range(3):
            samples = f'[[{hour + seq},{{"a":{seq},"b":1}}]]'.encode()
            world.telemetry.store(device, Batch("b", seq, hour + seq, hour + seq, 1, samples, "d", {}))
        periods = [Period(device, Level.HOUR, hour // HOUR_MS), Period(device, Level.DAY, hour // DAY_MS)]
        for period in periods:
            world.rollups.mark(period, due=from_epoch_ms(hour) + SETTLING)
        return {"Records": [{"messageId": "m", "body": periods_message(periods)}]}

    report = CrashTest(
        entry="background.telemetry:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["telemetry"]],
        ignore=("version", "created_at", "updated_at", "gsi1sk", "token"),
        seed=seed,
        accept=lambda response: response == {"batchItemFailures": []},
    ).run()
    assert report.points >= 8
    assert world.rollups.dirty(Period(device, Level.DAY, hour // DAY_MS)) is None

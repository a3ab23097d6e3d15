"""Commands: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any, cast

import pytest

from karma.core import aws
from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.dynamo.access import upsert
from karma.core.dynamo.items import connection_of
from karma.core.errors import AlreadyExists, NotFound, RateLimited
from karma.core.ids import CommandId, UserId, new_id
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.devices.domain import (
    COMMAND_RETENTION_S,
    MAX_COMMAND_UNITS,
    TRANSITIONS,
    Command,
    CommandStatus,
    Device,
    DeviceState,
    LateResult,
    is_final,
)
from karma.devices.repository.commands import CommandRepository, Pending
from karma.devices.repository.items import (
    EXPIRY_SHARDS,
    CommandRequestItem,
    HourItem,
    command_request_key,
    hour_key,
)
from tests.contract.stores.rows import Rows
from tests.fakes.commands import MemoryCommands
from tests.support.devices import provisioning_device
from tests.support.requests import asked
from tests.support.rows import LATER, NOW
from tests.support.stores import Store

HOUR_MS = 3_600_000
NOW_MS = epoch_ms(NOW)
WAYS = [
    (CommandStatus.SENT, CommandStatus.ACKNOWLEDGED, CommandStatus.SUCCEEDED),
    (CommandStatus.SENT, CommandStatus.EXPIRED),
    (CommandStatus.ACKNOWLEDGED, CommandStatus.TIMED_OUT),
    (CommandStatus.FAILED,),
    (CommandStatus.REJECTED,),
    (CommandStatus.CANCELLED,),
    (CommandStatus.SENT, CommandStatus.CANCELLED),
    (CommandStatus.ACKNOWLEDGED, CommandStatus.CANCELLED),
]


class Queue:
    """A device and its commands, in memory or in DynamoDB."""

    def __init__(self, store: Store) -> None:
        self.rows = None if store.in_memory else Rows()
        self._memory = MemoryCommands()
        self._numbers = itertools.count()
        self.device = self.rows.device if self.rows is not None else _device()

    @property
    def commands(self) -> CommandRepository:
        return self.rows.commands if self.rows is not None else cast("CommandRepository", self._memory)

    def command(self, **changes: Any) -> Command:
        made = Command(
            id=CommandId(f"01890000-0000-7000-8000-{next(self._numbers):012d}"),
            device_id=self.device.id,
            user_id=self.device.user_id,
            serial_number=self.device.serial_number,
            command="led.on",
            params={"brightness": 1},
            status=CommandStatus.QUEUED,
            serial=False,
            issued_ms=NOW_MS,
            expires_ms=epoch_ms(LATER),
        )
        return replace(made, **changes)

    def added(self, **changes: Any) -> Command:
        command = self.command(**changes)
        self.commands.add(command, self.device, now=NOW)
        return command

    def found(self, command: Command) -> Command:
        found = self.commands.get(command.device_id, command.id, consistent=True)
        assert found is not None
        return found

    def overdue(self, *, before: int) -> list[CommandId]:
        shards = range(EXPIRY_SHARDS)
        found = [self.commands.overdue(shard, before=from_epoch_ms(before), limit=9) for shard in shards]
        return [pending.id for shard in found for pending in shard]

    def fill(self, units: int) -> None:
        """Have the device counted with so many kilobytes of commands in the hour of `NOW`."""
        hour = NOW_MS // HOUR_MS
        self._memory.units[self.device.id, hour] = units
        if self.rows is not None:
            upsert(HourItem(*hour_key(self.device.id, hour)), [HourItem.commands.set(units)])

    def delete_device(self) -> None:
        self._memory.gone.add(self.device.id)
        if self.rows is not None:
            self.rows.devices.begin_delete(self.device, now=NOW)


def _device() -> Device:
    return provisioning_device(UserId(new_id()), serial_number="EOS-1", state=DeviceState.ACTIVE, version=2)


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store)


class TestACommand:
    def test_is_read_with_those_of_other_devices(self, queue: Queue) -> None:
        first, second = queue.added(), queue.added()
        asked_for = [(each.device_id, each.id) for each in (first, second)]
        found = queue.commands.several([*asked_for, (queue.device.id, CommandId(new_id()))])
        assert sorted(found, key=lambda each: each.id) == [first, second]
        assert queue.commands.several([]) == []

    def test_comes_back_as_it_was_given(self, queue: Queue) -> None:
        command = queue.added(params={"a": [1, {"b": None}]}, serial=True, requested_by="agent")
        for consistent in (True, False):
            assert queue.commands.get(command.device_id, command.id, consistent=consistent) == command
        assert queue.commands.get(command.device_id, CommandId(new_id())) is None
        [pending] = queue.commands.pending(command.device_id, limit=5)
        assert (pending.id, pending.params, pending.status) == (command.id, command.params, "queued")

    @pytest.mark.parametrize("way", WAYS, ids="-".join)
    def test_goes_the_ways_that_there_are(self, queue: Queue, way: tuple[CommandStatus, ...]) -> None:
        command = queue.added()
        for before, to in pairwise((CommandStatus.QUEUED, *way)):
            assert to in TRANSITIONS[before]
            assert queue.commands.move(command.device_id, command.id, to, at=LATER, result={"n": 1}, error={"e": 2})
            cancelled, queued = CommandStatus.CANCELLED, CommandStatus.QUEUED
            assert not queue.commands.move(command.device_id, command.id, cancelled, at=LATER, only_from=queued)
            found = queue.commands.get(command.device_id, command.id, consistent=True)
            assert found is not None
            assert (found.status, found.result, found.error) == (to, {"n": 1}, {"e": 2})
        assert is_final(way[-1])
        assert queue.commands.pending(command.device_id, limit=5) == []
        assert queue.overdue(before=NOW_MS + 90 * HOUR_MS) == []

    def test_is_made_once_for_a_key(self, queue: Queue) -> None:
        first, second = queue.command(), queue.command()
        queue.commands.add(first, queue.device, now=NOW, request=asked())
        with pytest.raises(AlreadyExists):
            queue.commands.add(second, queue.device, now=LATER, request=asked(at=LATER))
        assert queue.commands.get(second.device_id, second.id, consistent=True) is None
        assert queue.commands.made_by(queue.device, asked(at=LATER)) == first.id
        again = queue.commands.made_by_request(queue.device.user_id, queue.device.id, asked(at=LATER))
        assert again == first.id
        with pytest.raises(IdempotencyKeyReused):
            queue.commands.made_by(queue.device, asked("k", "another command"))
        day_after = asked(at=NOW + RETENTION)
        assert queue.commands.made_by(queue.device, day_after) is None
        queue.commands.add(second, queue.device, now=NOW + RETENTION, request=day_after)
        assert queue.commands.made_by(queue.device, day_after) == second.id

    def test_is_not_given_to_a_device_that_is_gone(self, queue: Queue) -> None:
        device, command = queue.device, queue.command()
        queue.delete_device()
        with pytest.raises(NotFound):
            queue.commands.add(command, device, now=NOW)
        assert queue.commands.page(device.id, limit=5) == ([], None)

    def test_stands_in_line(self, queue: Queue) -> None:
        made = [queue.added(expires_ms=NOW_MS + n * HOUR_MS).id for n in (3, 1, 2)]
        assert [each.id for each in queue.commands.pending(queue.device.id, limit=2)] == made[:2]
        assert queue.overdue(before=NOW_MS + 2 * HOUR_MS + 1) == [made[1], made[2]]
        first, following = queue.commands.page(queue.device.id, limit=2)
        second, end = queue.commands.page(queue.device.id, limit=2, after=str(following))
        assert ([each.id for each in [*first, *second]], following, end) == (made[::-1], first[-1].id, None)

    @pytest.mark.fault("F-24o")
    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_are_listed_around_those_whose_retention_is_over(self, queue: Queue, limit: int) -> None:
        hours = [1, 9, 1, 1, 9, 1]
        made = [(queue.added(expires_ms=NOW_MS + n * HOUR_MS).id, n) for n in hours]
        now_s = NOW_MS / 1000 + 5 * 3_600 + COMMAND_RETENTION_S
        seen: list[str] = []
        after: str | None = ""
        while after is not None:
            found, following = queue.commands.page(queue.device.id, limit=limit, after=after, now_s=now_s)
            assert following is None or not after or following < after
            seen += [each.id for each in found]
            after = following
        assert seen == [made_id for made_id, n in reversed(made) if n == 9]

    def test_ends_once_whatever_is_tried(self, queue: Queue) -> None:
        """A random walk, the same on each store: nothing leaves a final state, and the queue holds what is open."""
        chance = random.Random(11)
        made = [queue.added(expires_ms=NOW_MS + 1000) for _ in range(3)]
        ends: dict[CommandId, Command] = {}
        targets = [each for each in CommandStatus if each is not CommandStatus.QUEUED]
        for _ in range(40):
            command, to = (
                chance.choice(made),
                chance.choice(targets),
            )
            before = queue.found(command)
            answered_ms = chance.choice([0, NOW_MS + 999, NOW_MS + 1000])
            only_from = chance.choice([None, None, CommandStatus.QUEUED])
            may = to in TRANSITIONS[before.status] and answered_ms < command.expires_ms
            moved = queue.commands.move(
                command.device_id,
                command.id,
                to,
                at=LATER,
                result={"n": 1},
                answered_ms=answered_ms,
                only_from=only_from,
            )
            assert moved == (may and only_from in (None, before.status))
            after = queue.found(command)
            if command.id in ends:
                assert after == ends[command.id]
            elif after.finished:
                ends[command.id] = after
        open_ones = [each.id for each in made if each.id not in ends]
        assert [each.id for each in queue.commands.pending(queue.device.id, limit=9)] == open_ones
        assert ends

    @pytest.mark.fault("F-11a")
    def test_keeps_the_first_late_answer_beside_its_end(self, queue: Queue) -> None:
        command = queue.added()
        first, second = (
            LateResult(status=CommandStatus.SUCCEEDED, result={"n": n}, error=None, received_ms=NOW_MS + n)
            for n in (1, 2)
        )
        keep = queue.commands.keep_late
        assert not keep(command.device_id, command.id, first, at=LATER), "it is not over"
        assert not keep(command.device_id, CommandId(new_id()), first, at=LATER)
        assert queue.commands.move(command.device_id, command.id, CommandStatus.EXPIRED, at=LATER)
        ended = queue.found(command)
        assert keep(command.device_id, command.id, first, at=LATER)
        assert not keep(command.device_id, command.id, second, at=LATER)
        assert queue.found(command) == replace(ended, late_result=first)

    @pytest.mark.fault("F-11g")
    def test_is_published_as_it_was_read_or_not_at_all(self, queue: Queue) -> None:
        """First by one of those who read it; again by one of those who know of the last time; never once it is over."""
        command, commands = queue.added(), queue.commands

        def read() -> Pending:
            [entry] = commands.pending(command.device_id, limit=5)
            return entry

        queued = read()
        assert [commands.begin_publish(queued, at=NOW) for _ in range(2)] == [True, False]
        sent = read()
        assert (sent.status, sent.published_ms, queue.found(command).sent_ms) == (CommandStatus.SENT, NOW_MS, NOW_MS)
        assert [commands.begin_publish(sent, at=LATER) for _ in range(2)] == [True, False]
        again = read()
        assert (again.published_ms, queue.found(command).sent_ms) == (epoch_ms(LATER), NOW_MS)
        commands.publish_failed(again)
        failed = read()
        assert (failed.status, queue.found(command).status) == (CommandStatus.QUEUED, CommandStatus.SENT)
        assert not commands.begin_publish(again, at=LATER)
        assert commands.begin_publish(failed, at=LATER + timedelta(days=1))
        assert commands.move(command.device_id, command.id, CommandStatus.ACKNOWLEDGED, at=LATER)
        commands.publish_failed(failed)
        assert read().status is CommandStatus.ACKNOWLEDGED
        assert commands.move(command.device_id, command.id, CommandStatus.CANCELLED, at=LATER)
        ended = queue.found(command)
        for entry in (queued, sent, again, failed):
            assert not commands.begin_publish(entry, at=LATER)
            commands.publish_failed(entry)
        assert (queue.found(command), commands.pending(command.device_id, limit=5)) == (ended, [])

    @pytest.mark.fault("F-11g")
    def test_is_not_published_to_a_device_that_is_gone(self, queue: Queue) -> None:
        command = queue.added()
        [entry] = queue.commands.pending(command.device_id, limit=5)
        queue.delete_device()
        with pytest.raises(NotFound):
            queue.commands.begin_publish(entry, at=NOW)
        assert queue.found(command) == command


@pytest.mark.usefixtures("database")
def test_a_command_is_known_by_a_record_of_before_all_records_were_alike() -> None:
    """It has no times; `test_records_stand_where_they_stood` holds its key."""
    rows, request = Rows(), asked()
    pk, sk = command_request_key(rows.device.user_id, rows.device.id, request)
    item: dict[str, Any] = {
        "type": {"S": "idempotency"},
        "schema": {"N": "1"},
        "request_hash": {"S": request.request_hash},
        "made_id": {"S": "c1"},
        "expires_at": {"N": str(NOW_MS // 1000 + 24 * 3600)},
        "version": {"N": "1"},
    }
    table = connection_of(CommandRequestItem).table_name
    aws.client("dynamodb").put_item(TableName=table, Item={"pk": {"S": pk}, "sk": {"S": sk}, **item})
    assert rows.commands.made_by(rows.device, request) == "c1"
    with pytest.raises(AlreadyExists):
        rows.commands.add(rows.command(), rows.device, now=NOW, request=request)


@pytest.mark.fault("F-26d")
@pytest.mark.parametrize(("size", "units"), [(0, 1), (1_000, 1), (1_100, 2), (16_000, 16)])
def test_an_hour_of_a_device_takes_so_much_and_the_next_takes_as_much(queue: Queue, size: int, units: int) -> None:
    params = {"text": "x" * size}
    queue.fill(MAX_COMMAND_UNITS - units + 1)
    with pytest.raises(RateLimited) as refused:
        queue.added(params=params)
    assert isinstance(refused.value.details, dict)
    assert refused.value.details["retry_after_s"] == 3_600 - NOW_MS // 1_000 % 3_600
    assert queue.commands.page(queue.device.id, limit=5) == ([], None)
    queue.fill(MAX_COMMAND_UNITS - units)
    queue.added(params=params)
    with pytest.raises(RateLimited):
        queue.added()
    next_hour = from_epoch_ms(NOW_MS + HOUR_MS)
    queue.commands.add(queue.command(params=params), queue.device, now=next_hour)


@pytest.mark.fault("F-26d")
def test_a_repeat_is_told_of_its_command_before_the_limit(queue: Queue) -> None:
    request = asked()
    queue.commands.add(queue.command(), queue.device, now=NOW, request=request)
    queue.fill(MAX_COMMAND_UNITS)
    with pytest.raises(AlreadyExists):
        queue.commands.add(queue.command(), queue.device, now=NOW, request=request)

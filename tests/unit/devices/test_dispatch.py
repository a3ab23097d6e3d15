"""Commands of a queue that may be sent at the same time, and what happens to them while others are being sent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.core.errors import InvalidTransition
from karma.core.ids import CommandId, DeviceId, UserId, new_id
from karma.devices.commands import CommandService
from karma.devices.dispatch import (
    AT_ONCE,
    READY_EVERY_S,
    RESEND_AFTER_S,
    RESEND_AT_LEAST_EVERY_S,
    SLOW_READY_EVERY_S,
    Dispatcher,
    publishable,
)
from karma.devices.domain import Command, CommandStatus, Device, DeviceState, Latest, PresenceEvent, PresenceState
from karma.devices.repository.commands import CommandRepository, Pending
from karma.integrations.iot import DeviceServiceUnavailable
from tests.fakes.commands import MemoryCommands
from tests.fakes.devices import FakeClock, FakePublisher, FakeWakeUps

USER = UserId("01a1fd64-5851-7599-9816-cee19b83f05c")
DEVICE = DeviceId("01a1fd64-5851-7599-9816-cee19b83f0aa")


def entry(serial: bool) -> Pending:
    return Pending(
        id=CommandId(new_id()),
        device_id=DeviceId(""),
        user_id=UserId(""),
        serial_number="EOS-1",
        command="blink",
        params={},
        serial=serial,
        issued_ms=0,
        expires_ms=1,
        status=CommandStatus.QUEUED,
    )


def test_serial_commands_go_alone() -> None:
    free, serial = entry(False), entry(True)
    assert publishable([]) == []
    assert publishable([serial, free]) == [serial]
    assert publishable([free, free, serial, free]) == [free, free]
    assert publishable([serial, serial]) == [serial]


@given(st.lists(st.booleans(), max_size=8))
def test_a_queue_always_moves_and_never_mixes(kinds: list[bool]) -> None:
    queue = [entry(serial) for serial in kinds]
    head = publishable(queue)
    assert head == queue[: len(head)]
    assert bool(head) == bool(queue)
    assert len(head) == 1 or not any(one.serial for one in head)


class Died(BaseException):
    """The process ends here; nothing of it runs any more."""


@dataclass
class Steps:
    """Counts the calls of a dispatch; before each of them `before` may do what others do at that moment."""

    before: Callable[[int, str], None] = lambda *_: None
    made: int = 0

    def around(self, target: Any, *names: str) -> Any:
        def step(name: str) -> Callable[..., Any]:
            def call(*given: Any, **named: Any) -> Any:
                self.made += 1
                self.before(self.made, name)
                return getattr(target, name)(*given, **named)

            return call

        return SimpleNamespace(**{name: step(name) for name in names})


@dataclass
class Queue:
    """A connected device's queue of commands; commands live for 10 seconds, every third for 100."""

    serial: list[bool]
    clock: FakeClock = field(default_factory=FakeClock)
    publisher: FakePublisher = field(default_factory=FakePublisher)
    store: MemoryCommands = field(default_factory=MemoryCommands)

    def __post_init__(self) -> None:
        self.wake_ups = FakeWakeUps(self.clock)
        self.ids = [CommandId(f"01a1fd64-5851-7599-9816-{number:012d}") for number in range(len(self.serial))]
        for number, command_id in enumerate(self.ids):
            command = Command(
                id=command_id,
                device_id=DEVICE,
                user_id=USER,
                serial_number="EOS-1",
                command="move",
                params={},
                status=CommandStatus.QUEUED,
                serial=self.serial[number],
                issued_ms=self.clock.ms,
                expires_ms=self.clock.ms + (10_000 if number % 3 else 100_000),
            )
            self.store.add(command, cast("Device", SimpleNamespace(id=DEVICE)), now=self.clock.now())
        device = SimpleNamespace(id=DEVICE, user_id=USER, state=DeviceState.ACTIVE)
        view = SimpleNamespace(presence=PresenceState((PresenceEvent(1, 0, True, "s"),)), latest=Latest())
        devices = SimpleNamespace(row=lambda *_: device, current=lambda *_, **__: view)
        self.owner = CommandService(
            cast("Any", devices), self.commands, self.publisher, self.wake_ups, self.clock, pause=lambda _: None
        )

    @property
    def commands(self) -> CommandRepository:
        return cast("CommandRepository", self.store)

    def dispatch(self, steps: Steps, *, again: bool) -> None:
        commands = steps.around(self.store, "pending", "begin_publish", "publish_failed", "move")
        publisher = steps.around(self.publisher, "publish_command")
        Dispatcher(commands, publisher, self.wake_ups, self.clock).dispatch(
            DEVICE, again_ms=self.clock.ms if again else 0
        )

    def status(self, command_id: CommandId) -> CommandStatus:
        found = self.store.get(DEVICE, command_id)
        assert found is not None
        return found.status


WORDS = ("cancel", "force", "delete", "time", "dispatch", "answer")


@pytest.mark.fault("F-11g")
@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=6),
    st.dictionaries(st.integers(1, 16), st.tuples(st.sampled_from(WORDS), st.integers(0, 5)), max_size=5),
    st.booleans(),
)
def test_what_happens_while_a_queue_is_sent_holds_for_what_is_not_sent_yet(
    serial: list[bool], others: dict[int, tuple[str, int]], sent_before: bool
) -> None:
    """Cancelled, given up, over, or of a device that is gone: it goes out no more; what is in hand may still go."""
    queue = Queue(serial)
    if sent_before:
        queue.dispatch(Steps(), again=False)
        queue.clock.pass_time(seconds=RESEND_AFTER_S)
        queue.publisher.sent.clear()
    over: set[CommandId] = set()
    begun: list[CommandId] = []

    def meanwhile(step: int, name: str) -> None:
        word, number = others.get(step, ("", 0))
        command_id = queue.ids[number % len(queue.ids)]
        match word:
            case "cancel" | "force":
                with contextlib.suppress(InvalidTransition):
                    queue.owner.cancel(USER, DEVICE, command_id, force=word == "force")
                    over.add(command_id)
            case "delete":
                queue.store.gone.add(DEVICE)
                over.update(queue.ids)
            case "time" if name != "begin_publish":  # between the look at the clock and the record is no time
                queue.clock.pass_time(seconds=11)
                over.update(each.id for each in queue.store.commands.values() if each.expires_ms <= queue.clock.ms)
            case "answer":
                queue.store.move(DEVICE, command_id, CommandStatus.FAILED, at=queue.clock.now())
                over.add(command_id)
            case "dispatch":
                Dispatcher(queue.commands, queue.publisher, queue.wake_ups, queue.clock).dispatch(
                    DEVICE, again_ms=queue.clock.ms
                )

    class Watched(FakePublisher):
        def publish_command(self, thing: str, request: Any, *, command_id: str, expires_in_s: int) -> None:
            super().publish_command(thing, request, command_id=command_id, expires_in_s=expires_in_s)
            begun.remove(CommandId(command_id))

    begin = queue.store.begin_publish

    def note(entry: Pending, *, at: datetime) -> bool:
        may = begin(entry, at=at)
        if may:
            assert entry.id not in over
            begun.append(entry.id)
            ahead = [each for each in queue.store.pending(DEVICE, limit=9) if each.id < entry.id]
            assert not any(each.serial or entry.serial for each in ahead), "a serial command goes alone"
        return may

    queue.publisher.__class__ = Watched
    cast("Any", queue.store).begin_publish = note
    queue.dispatch(Steps(meanwhile), again=True)
    assert begun == []


@pytest.mark.fault("F-11g")
@pytest.mark.parametrize("serial", [[False, False, False], [True, True, False], [False, True]])
def test_a_process_that_dies_anywhere_loses_no_command_that_comes_again(serial: list[bool]) -> None:
    """It dies before a call and does none of what follows; its message is delivered again a while later."""
    points = 0
    for point in range(1, 20):
        queue = Queue(serial)

        def die(step: int, _: str, point: int = point) -> None:
            if step == point:
                raise Died

        try:
            queue.dispatch(Steps(die), again=False)
        except Died:
            points += 1
        queue.clock.pass_time(seconds=RESEND_AFTER_S)
        queue.dispatch(Steps(), again=True)
        head = publishable(queue.store.pending(DEVICE, limit=9))
        assert {each.id for each in head} <= set(queue.publisher.ids)
        assert {each.status for each in head} == {CommandStatus.SENT}
    assert points >= 1 + 2 * len(head)


@pytest.mark.fault("F-11g")
def test_what_could_not_be_published_is_no_longer_cancelled_without_force_and_goes_with_the_next_turn() -> None:
    queue = Queue([False, False])
    queue.publisher.fails = True
    with pytest.raises(DeviceServiceUnavailable):
        queue.dispatch(Steps(), again=False)
    assert [queue.status(each) for each in queue.ids] == [CommandStatus.SENT, CommandStatus.QUEUED]
    with pytest.raises(InvalidTransition, match="the device may have it"):
        queue.owner.cancel(USER, DEVICE, queue.ids[0])
    queue.publisher.fails = False
    queue.dispatch(Steps(), again=False)
    assert queue.publisher.ids == queue.ids
    queue.dispatch(Steps(), again=False)
    assert queue.publisher.ids == queue.ids


@pytest.mark.fault("F-26f")
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4_000), min_size=1, max_size=60), st.sampled_from([READY_EVERY_S, SLOW_READY_EVERY_S]))
def test_however_often_a_device_says_ready_it_is_heard_and_costs_little(pauses_ms: list[int], every_s: int) -> None:
    """It acknowledges nothing. Each of its three commands lives for 600 s and comes after the last `ready` at least."""
    queue = Queue([False] * 3)
    queue.store.commands = {
        each.id: replace(each, expires_ms=queue.clock.ms + 600_000) for each in queue.store.commands.values()
    }
    steps = Steps()
    store = steps.around(queue.store, "pending", "begin_publish")
    ingest = Dispatcher(store, queue.publisher, queue.wake_ups, queue.clock)
    begun_ms = queue.clock.ms
    left, sent_ms = 0, dict[object, int]()

    def wake_up() -> None:
        for call in queue.wake_ups.due():
            ingest.dispatch(DEVICE, again_ms=call.again_ms)

    def note(before: int) -> None:
        sent_ms.update(dict.fromkeys(queue.publisher.ids[before:], queue.clock.ms))

    for pause_ms in pauses_ms:
        queue.clock.pass_time(milliseconds=pause_ms)
        before = len(queue.publisher.sent)
        wake_up()
        ingest.take_ready(USER, DEVICE, ready_ms=queue.clock.ms, every_s=every_s)
        note(before)
        left = max(left, len(queue.wake_ups.left))
    last_ms = queue.clock.ms
    seconds = (last_ms - begun_ms) / 1000
    assert len(queue.publisher.sent) <= 3 * (2 + seconds / RESEND_AFTER_S)
    assert steps.made <= 12 * (2 + 2 * seconds / RESEND_AFTER_S)
    assert left <= 2 * RESEND_AT_LEAST_EVERY_S / READY_EVERY_S + 2
    for _ in range(180):
        queue.clock.pass_time(seconds=1)
        before = len(queue.publisher.sent)
        wake_up()
        note(before)
    assert min(sent_ms.values()) >= last_ms - 2_000, "each came again, in the connection that is open"
    assert max(sent_ms.values()) <= last_ms + 125_000
    assert queue.wake_ups.left == [], "and then no more"


@pytest.mark.fault("F-26f")
def test_a_device_with_many_commands_lets_others_have_their_turn() -> None:
    queue = Queue([False] * 47)
    ingest = Dispatcher(queue.commands, queue.publisher, queue.wake_ups, queue.clock)
    ingest.take_ready(USER, DEVICE, ready_ms=queue.clock.ms, every_s=READY_EVERY_S)
    turns = [len(queue.publisher.sent)]
    while calls := queue.wake_ups.due():
        for call in calls:
            ingest.dispatch(DEVICE, again_ms=call.again_ms, at_most=AT_ONCE)
        turns.append(len(queue.publisher.sent))
    assert turns == [20, 40, 47]
    assert queue.publisher.ids == queue.ids


@pytest.mark.fault("F-26f")
def test_a_queue_that_takes_no_wake_up_costs_no_command_its_turn() -> None:
    queue = Queue([False] * 23)
    queue.wake_ups.fails = True
    ingest = Dispatcher(queue.commands, queue.publisher, queue.wake_ups, queue.clock)
    ingest.take_ready(USER, DEVICE, ready_ms=queue.clock.ms, every_s=READY_EVERY_S)
    assert queue.publisher.ids == queue.ids

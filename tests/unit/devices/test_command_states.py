"""Commands under random orders of sends, answers, time, reads, wake-ups and sweeps, against a model of their states."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.core.errors import InvalidTransition, ValidationFailed
from karma.core.freeform import MAX_LEVELS
from karma.core.ids import CommandId, DeviceId, UserId
from karma.devices.commands import CommandService
from karma.devices.dispatch import Dispatcher
from karma.devices.domain import (
    Command,
    CommandStatus,
    Device,
    DeviceState,
    Latest,
    PresenceEvent,
    PresenceState,
    is_final,
)
from karma.devices.payloads import CommandAnswer
from karma.devices.repository.commands import CommandRepository
from karma.devices.sweeps import expire_commands
from tests.fakes.commands import MemoryCommands
from tests.fakes.devices import FakeClock, FakePublisher, FakeWakeUps

S = CommandStatus
USER = UserId("01a1fd64-5851-7599-9816-cee19b83f05c")
DEVICE = DeviceId("01a1fd64-5851-7599-9816-cee19b83f0aa")


@dataclass
class Expected:
    """A command in the model."""

    serial: bool
    expires_ms: int
    status: CommandStatus = S.QUEUED
    result: Any = None
    end: tuple[CommandStatus, Any, Any] | None = None
    late: tuple[CommandStatus, Any, Any] | None = None

    def end_by_time(self) -> None:
        if self.end is None:
            self.status = S.TIMED_OUT if self.status is S.ACKNOWLEDGED else S.EXPIRED
            self.end = (self.status, None, None)

    def answer(self, status: CommandStatus, result: Any, received_ms: int) -> None:
        said = (status, result, None)
        if self.end is None and received_ms >= self.expires_ms:
            self.end_by_time()
        if self.end is None:
            if status is not self.status:
                self.result = result if is_final(status) or result is not None else self.result
            self.status = status
            if is_final(status):
                self.end = said
        elif is_final(status) and said != self.end and self.late is None:
            self.late = said


@dataclass
class Scene:
    """A device that is connected, its queue, and the model of it."""

    clock: FakeClock = field(default_factory=FakeClock)
    publisher: FakePublisher = field(default_factory=FakePublisher)
    store: MemoryCommands = field(default_factory=MemoryCommands)
    model: dict[CommandId, Expected] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.repository = cast("CommandRepository", self.store)
        self.wake_ups = FakeWakeUps(self.clock)
        self.dispatcher = Dispatcher(self.repository, self.publisher, self.wake_ups, self.clock)
        devices = SimpleNamespace(row=lambda *_: command_device, current=lambda *_, **__: connected)
        self.service = CommandService(
            cast("Any", devices), self.repository, self.publisher, self.wake_ups, self.clock, pause=lambda _: None
        )

    def send(self, serial: bool, ttl_s: int) -> None:
        number = len(self.model)
        command = Command(
            id=CommandId(f"01a1fd64-5851-7599-9816-{number:012d}"),
            device_id=DEVICE,
            user_id=USER,
            serial_number="EOS-1",
            command="move",
            params={},
            status=S.QUEUED,
            serial=serial,
            issued_ms=self.clock.ms,
            expires_ms=self.clock.ms + ttl_s * 1000,
        )
        self.store.add(command, cast("Device", command_device), now=self.clock.now())
        self.model[command.id] = Expected(serial, command.expires_ms)
        self.dispatch()

    def dispatch(self) -> None:
        before = len(self.publisher.sent)
        self.end_overdue()
        self.dispatcher.dispatch(DEVICE)
        self.note_published(before)

    def note_published(self, before: int) -> None:
        for _, request, _ in self.publisher.sent[before:]:
            command_id = cast("CommandId", request["id"])
            assert self.model[command_id].end is None, "what is over is never published"
            ahead = [self.model[each] for each in self.model if each < command_id]
            unfinished = [each for each in ahead if each.end is None and each.expires_ms > self.clock.ms]
            assert not any(each.serial for each in unfinished), "nothing passes a serial command"
            assert not (self.model[command_id].serial and unfinished), "a serial command goes alone"
            if self.model[command_id].status is S.QUEUED:
                self.model[command_id].status = S.SENT

    def end_overdue(self) -> None:
        """Record the ends of overdue commands, as any look at the queue does; before it an answer in time counts."""
        for expected in self.model.values():
            if expected.expires_ms <= self.clock.ms:
                expected.end_by_time()

    def answer(self, which: int, status: CommandStatus, result: Any, received_ms: int) -> None:
        command_id = sorted(self.model)[which % len(self.model)]
        answer = CommandAnswer(command_id, status, result, None)
        self.dispatcher.take_answer(DEVICE, answer, received_ms=received_ms)
        self.model[command_id].answer(status, result, received_ms)
        if is_final(status):
            self.dispatch()

    def cancel(self, which: int, *, force: bool) -> None:
        command_id = sorted(self.model)[which % len(self.model)]
        expected, before = self.model[command_id], len(self.publisher.sent)
        if expected.expires_ms <= self.clock.ms:
            expected.end_by_time()
        if expected.end is not None or (expected.status is not S.QUEUED and not force):
            try:
                self.service.cancel(USER, DEVICE, command_id, force=force)
            except InvalidTransition:
                assert expected.status is not S.CANCELLED
            else:
                assert expected.status is S.CANCELLED, "again changes nothing"
            return
        frees = expected.serial or expected.status is not S.QUEUED
        expected.status, expected.end = S.CANCELLED, (S.CANCELLED, None, None)
        if frees:
            self.end_overdue()
        self.service.cancel(USER, DEVICE, command_id, force=force)
        self.note_published(before)
        open_ones = [self.model[each] for each in sorted(self.model) if self.model[each].end is None]
        assert not (frees and open_ones and open_ones[0].status is S.QUEUED), "the next goes at once"

    def pass_second(self) -> None:
        self.clock.pass_time(seconds=1)
        if self.clock.ms % 60_000 == 0:
            expire_commands(self.repository, self.wake_ups, self.clock)
            self.end_overdue()
        if self.wake_ups.due():
            self.dispatch()

    def check(self, shown: dict[CommandId, Command]) -> None:
        for command_id, expected in self.model.items():
            seen = self.service.get(USER, DEVICE, command_id)
            if expected.expires_ms <= self.clock.ms:
                expected.end_by_time()
            assert (seen.status, seen.result) == (expected.status, expected.result)
            late = seen.late_result
            assert (late and (late.status, late.result, late.error)) == expected.late
            if command_id in shown and shown[command_id].finished:
                before = shown[command_id]
                assert (seen.status, seen.result, seen.error, seen.finished_ms) == (
                    (before.status, before.result, before.error, before.finished_ms)
                )
            shown[command_id] = seen
        open_ones = [each for each, expected in sorted(self.model.items()) if expected.end is None]
        assert [each.id for each in self.store.pending(DEVICE, limit=99)] == open_ones


command_device = SimpleNamespace(id=DEVICE, user_id=USER, state=DeviceState.ACTIVE)
connected = SimpleNamespace(presence=PresenceState((PresenceEvent(1, 0, True, "s"),)), latest=Latest())
results = st.sampled_from([None, {"n": 1}, {"n": 2}])
answers = st.sampled_from([S.ACKNOWLEDGED, S.SUCCEEDED, S.FAILED, S.REJECTED])
events = st.one_of(
    st.tuples(st.just("send"), st.booleans(), st.integers(1, 40)),
    st.tuples(st.just("answer"), st.integers(0, 9), answers, results, st.integers(0, 3)),
    st.tuples(st.just("time"), st.integers(1, 20)),
    st.tuples(st.just("look")),
    st.tuples(st.just("cancel"), st.integers(0, 9), st.booleans()),
)


@pytest.mark.fault("F-11a", "F-11e")
@settings(max_examples=150, deadline=None)
@given(st.lists(events, min_size=2, max_size=25))
def test_an_end_is_an_end_in_any_order_of_events(given_events: list[tuple[Any, ...]]) -> None:
    scene, shown, heard = Scene(), dict[CommandId, Command](), list[tuple[Any, ...]]()
    for event in [("send", True, 5), *given_events]:
        match event:
            case ("send", serial, ttl_s):
                scene.send(serial, ttl_s)
            case ("answer", which, status, result, lag_s):
                # The broker had it a while ago; it comes twice, and the ones before come again.
                heard.append((which % len(scene.model), status, result, scene.clock.ms - lag_s * 1000))
                for each in (heard[-1], heard[-1], *heard[-3:]):
                    scene.answer(*each)
            case ("cancel", which, force):
                scene.cancel(which, force=force)
            case ("time", seconds):
                for _ in range(seconds):
                    scene.pass_second()
            case _:
                scene.check(shown)
    scene.check(shown)


@pytest.mark.fault("F-11b")
@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 200), st.integers(0, 20)), min_size=2, max_size=8))
def test_a_waiting_command_is_sent_within_two_seconds_of_its_turn_though_the_device_says_nothing(
    sends: list[tuple[bool, int, int]],
) -> None:
    scene = Scene()
    waited_s = 0
    for serial, ttl_s, pause_s in sends:
        scene.send(serial, ttl_s)
        for _ in range(pause_s):
            scene.pass_second()
    while any(each.expires_ms > scene.clock.ms for each in scene.model.values()):
        scene.pass_second()
        alive = [each for each in scene.store.pending(DEVICE, limit=99) if each.expires_ms > scene.clock.ms]
        first_waits = bool(alive) and alive[0].status is S.QUEUED
        waited_s = waited_s + 1 if first_waits else 0
        assert waited_s <= 2


@pytest.mark.fault("F-11b")
def test_a_queue_that_takes_no_wake_up_holds_no_command_back() -> None:
    scene = Scene()
    scene.wake_ups.fails = True
    scene.send(True, 5)
    scene.send(True, 200)
    assert len(scene.publisher.sent) == 1
    scene.wake_ups.fails = False
    for _ in range(60):
        scene.pass_second()
    assert len(scene.publisher.sent) == 2, "the sweep of the minute leaves the call"


@pytest.mark.fault("F-08a")
def test_parameters_of_more_than_64_levels_are_refused_before_anything_is_asked() -> None:
    params: dict[str, Any] = {}
    for _ in range(MAX_LEVELS):
        params = {"a": params}

    with pytest.raises(ValidationFailed) as refused:
        Scene().service.send(USER, DEVICE, "move", params)

    (wrong,) = cast("list[dict[str, str]]", refused.value.details)
    assert (wrong["field"], wrong["message"]) == ("params", "nested deeper than 64 levels")

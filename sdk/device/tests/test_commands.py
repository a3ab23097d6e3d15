"""CommandRunner without a network: the real store, a list for the wire, a clock that the test moves."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.devices.payloads import read_response
from karma_device.commands import CommandRunner, Reply
from karma_device.link import IncomingRequest
from karma_device.messages import Answer, Command, CommandStatus, Json, Topics, encode_answer
from karma_device.results import sendable
from karma_device.store import StateStore
from karma_device_testing.cloud import wait_until

COMMAND = "01a1fd64-5851-7599-9816-cee19b83f05c"


class Bench:
    def __init__(self, path: Path, *, workers: int = 1, max_waiting: int = 2, device_id: str = "") -> None:
        self.now = 1_000
        self.sent: list[Reply] = []
        self.store = StateStore(path)
        self.runner = CommandRunner(
            topics=Topics("T"),
            store=self.store,
            send=self.sent.append,
            clock_ms=lambda: self.now,
            workers=workers,
            max_waiting=max_waiting,
            device_id=device_id,
        )
        self.device_id = device_id

    def receive(
        self,
        command_id: str,
        name: str = "go",
        *,
        expires_at: int = 5_000,
        topic: str | None = None,
        device_id: str | None = None,
    ) -> None:
        body: dict[str, Any] = {
            "id": command_id,
            "command": name,
            "params": {},
            "issued_at": 0,
            "expires_at": expires_at,
            "serial": False,
        }
        if device_id if device_id is not None else self.device_id:
            body["device_id"] = self.device_id if device_id is None else device_id
        request = IncomingRequest(payload=json.dumps(body).encode(), response_topic=topic, correlation=None)
        assert self.runner.receive(request)

    def bodies(self, command_id: str) -> list[dict[str, Any]]:
        return [json.loads(reply.payload) for reply in list(self.sent) if reply.command_id == command_id]

    def statuses(self, command_id: str) -> list[str]:
        return [body["status"] for body in self.bodies(command_id)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "s.sqlite3")
    yield bench
    bench.runner.stop(timeout_s=5)
    bench.store.close()


def test_too_many_waiting_commands_are_rejected_as_busy(bench: Bench) -> None:
    gate = threading.Event()
    started = threading.Event()

    def go(_command: Command) -> None:
        started.set()
        gate.wait(20)

    bench.runner.register("go", go)
    bench.runner.start()
    bench.receive("running")
    assert started.wait(20)
    for command_id in ("w1", "w2", "w3"):
        bench.receive(command_id)
    gate.set()
    wait_until(lambda: bench.statuses("w2") == ["acknowledged", "succeeded"])
    assert bench.statuses("w3") == ["rejected"]
    assert bench.bodies("w3")[0]["error"]["code"] == "BUSY"


@pytest.mark.fault("F-11f")
def test_a_command_that_expired_while_waiting_is_not_started(bench: Bench) -> None:
    ran: list[str] = []
    gate = threading.Event()

    def go(command: Command) -> None:
        ran.append(command.id)
        gate.wait(20)

    bench.runner.register("go", go)
    bench.runner.start()
    bench.receive("first")
    wait_until(lambda: ran == ["first"])
    bench.receive("late", expires_at=2_000)
    bench.now = 2_000
    gate.set()
    wait_until(lambda: bench.statuses("late") == ["acknowledged", "rejected"])
    assert bench.bodies("late")[1]["error"]["code"] == "EXPIRED"
    assert ran == ["first"]


class Unreadable(dict[str, Json]):
    def items(self) -> Any:
        raise RuntimeError("gone")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


IN_ITSELF: dict[str, Any] = {}
IN_ITSELF |= {"a": IN_ITSELF, "b": [IN_ITSELF]}
ODDITIES: list[Any] = [
    object(),
    *(b"x", {1}, 10**400, -(10**30), float("nan"), "\ud800", "a" * 40_000, IN_ITSELF, Unreadable(), [0] * 30_000),
]


def trees(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
    )


names = st.text(max_size=3)
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
odd = st.integers(0, len(ODDITIES) - 1).map(lambda number: ODDITIES[number])


@pytest.mark.fault("F-11d")
@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, trees(plain | names, names), max_size=3))
def test_an_object_of_json_is_sent_as_it_was_returned(result: dict[str, Json]) -> None:
    assert sendable(result) == (result, "")


@pytest.mark.fault("F-11d")
@settings(max_examples=150, deadline=None)
@given(trees(plain | odd, names | st.integers() | st.none() | st.tuples(names)))
def test_whatever_a_handler_returned_the_service_takes_it_as_work_that_was_done(result: Any) -> None:
    sent, changed = sendable(result)
    assert changed or isinstance(result, dict)
    answer = read_response(encode_answer(COMMAND, Answer(CommandStatus.SUCCEEDED, result=sent), ts=1))
    assert (answer.status, answer.result, answer.refused) == ("succeeded", sent, ())


@pytest.mark.fault("F-11d")
@pytest.mark.parametrize(
    ("result", "said"),
    [
        ([1], {"value": [1]}),
        ("ok", {"value": "ok"}),
        ({"x": float("nan"), "y": 1}, {"x": None, "y": 1}),
        ({"x": object(), "y": 1}, {"x": {"not_kept": "NOT_JSON", "type": "object"}, "y": 1}),
        ({"x": "a" * 40_000}, {"not_kept": "TOO_LARGE", "size": 40_008, "begins": '{"x":"' + "a" * 994}),
        ({"x": "\ud800"}, {"x": "\ufffd"}),
        (IN_ITSELF, {"a": {"not_kept": "TOO_DEEP"}, "b": [{"not_kept": "TOO_DEEP"}]}),
        (Unreadable(), {"not_kept": "NOT_JSON", "type": "Unreadable"}),
    ],
)
def test_work_that_was_done_has_succeeded_and_its_result_says_what_is_missing(
    bench: Bench, result: Any, said: Any
) -> None:
    bench.runner.register("go", lambda _command: result)
    bench.runner.start()
    bench.receive("a")
    wait_until(lambda: bench.statuses("a") == ["acknowledged", "succeeded"])
    assert bench.bodies("a")[1]["result"] == said


def test_an_exception_that_cannot_describe_itself_is_told_by_its_name(bench: Bench) -> None:
    def go(_command: Command) -> None:
        raise Speechless

    bench.runner.register("go", go)
    bench.runner.start()
    bench.receive("a")
    wait_until(lambda: bench.statuses("a") == ["acknowledged", "failed"])
    assert bench.bodies("a")[1]["error"]["message"] == "Speechless: Speechless"


@pytest.mark.fault("F-11f")
@pytest.mark.parametrize("ahead_ms", [0, 1, 15_000, 10**15])
def test_a_clock_that_is_ahead_is_told_and_the_command_not_run_once_it_is_right(bench: Bench, ahead_ms: int) -> None:
    ran: list[str] = []
    bench.runner.register("go", lambda command: ran.append(command.id))
    bench.runner.start()
    bench.now = 5_000 + ahead_ms
    bench.receive("a")
    bench.receive("a")
    bench.now = 1_000
    bench.receive("a")
    bench.receive("b")
    wait_until(lambda: bench.statuses("b") == ["acknowledged", "succeeded"])
    assert ran == ["b"]
    assert bench.statuses("a") == ["rejected"] * 3
    error = bench.bodies("a")[0]["error"]
    assert error["code"] == "EXPIRED"
    assert "1970-01-01T00:00:05.000+00:00" in error["message"], "its end"
    assert "by this device's clock it was " in error["message"]


@pytest.mark.fault("F-11f")
def test_what_was_done_is_told_again_though_its_time_is_over(bench: Bench) -> None:
    bench.runner.register("go", lambda _command: None)
    bench.runner.start()
    bench.receive("a")
    wait_until(lambda: bench.statuses("a") == ["acknowledged", "succeeded"])
    bench.now = 6_000
    bench.receive("a")
    assert bench.statuses("a") == ["acknowledged", "succeeded", "succeeded"]


def test_a_foreign_response_topic_has_no_effect(bench: Bench) -> None:
    bench.runner.register("go", lambda _command: None)
    bench.runner.start()
    bench.receive("a", topic="cmd/karma/OTHER/response")
    assert bench.store.get("a") is None
    assert bench.sent == []


def test_a_command_has_one_handler(bench: Bench) -> None:
    bench.runner.register("go", lambda _command: None)
    with pytest.raises(ValueError, match="handler already"):
        bench.runner.register("go", lambda _command: None)


def test_commands_left_waiting_at_stop_run_at_the_next_start(bench: Bench) -> None:
    gate = threading.Event()
    ran: list[str] = []

    def go(command: Command) -> None:
        ran.append(command.id)
        gate.wait(20)

    bench.runner.register("go", go)
    bench.runner.start()
    bench.receive("a")
    wait_until(lambda: ran == ["a"])
    bench.receive("b")
    assert not bench.runner.stop(timeout_s=0.01)
    bench.runner.start()
    gate.set()
    wait_until(lambda: bench.statuses("b")[-1] == "succeeded")
    wait_until(lambda: bench.statuses("a")[-1] == "succeeded")
    assert sorted(ran) == ["a", "b"]


@pytest.mark.fault("F-11h")
@pytest.mark.parametrize("other", ["another", ""])
def test_a_command_for_another_device_with_this_serial_number_is_dropped(tmp_path: Path, other: str) -> None:
    """Unanswered: the answer would go to the account of whoever has the serial number now."""
    bench = Bench(tmp_path / "s.sqlite3", device_id="mine")
    ran: list[str] = []
    bench.runner.register("go", lambda command: ran.append(command.id))
    bench.runner.start()
    bench.receive("theirs", device_id=other)
    bench.receive("ours")
    wait_until(lambda: bench.statuses("ours") == ["acknowledged", "succeeded"])
    bench.runner.stop(timeout_s=5)
    assert (ran, bench.statuses("theirs"), bench.store.get("theirs")) == (["ours"], [], None)
    bench.store.close()


@pytest.mark.fault("F-11h")
@pytest.mark.parametrize("before", ["first", ""])
@pytest.mark.parametrize("now", ["first", "second", ""])
def test_a_state_file_serves_the_device_that_wrote_it(tmp_path: Path, before: str, now: str) -> None:
    """A command that waits, one that had begun, an answer that was not delivered; the credentials are then others."""
    first = Bench(tmp_path / "s.sqlite3", device_id=before)
    first.runner.register("go", lambda _: None)
    for command_id in ("waiting", "begun", "answered"):
        first.receive(command_id)
    first.store.start("begun")
    first.store.finish("answered", encode_answer("answered", Answer(CommandStatus.SUCCEEDED), ts=1))
    first.store.close()

    second = Bench(tmp_path / "s.sqlite3", device_id=now)
    ran: list[str] = []
    second.runner.register("go", lambda command: ran.append(command.id))
    second.runner.start()
    if now in ("", before):
        wait_until(lambda: second.statuses("waiting") == ["succeeded"])
        assert (ran, second.statuses("answered"), second.statuses("begun")) == (["waiting"], ["succeeded"], ["failed"])
    second.runner.stop(timeout_s=5)
    if now not in ("", before):
        assert (ran, second.sent, second.store.unfinished()) == ([], [], [])
    second.store.close()

"""CommandRunner without a network: the real store, a list for the wire, a clock that the test moves."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from karma_device.commands import CommandRunner, Reply
from karma_device.link import IncomingRequest
from karma_device.messages import Command, Json, Topics
from karma_device.store import StateStore
from karma_device_testing.cloud import wait_until


class Bench:
    def __init__(self, path: Path, *, workers: int = 1, max_waiting: int = 2) -> None:
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
        )

    def receive(self, command_id: str, name: str = "go", *, expires_at: int = 5_000, topic: str | None = None) -> None:
        body = {
            "id": command_id,
            "command": name,
            "params": {},
            "issued_at": 0,
            "expires_at": expires_at,
            "serial": False,
        }
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
    wait_until(lambda: bench.statuses("late") == ["acknowledged", "failed"])
    assert bench.bodies("late")[1]["error"]["code"] == "EXPIRED"
    assert ran == ["first"]


@pytest.mark.parametrize("result", [[1], {"x": float("nan")}, {"x": object()}, {"x": "a" * 200_000}, {"x": "\ud800"}])
def test_a_result_that_cannot_be_sent_fails(bench: Bench, result: Any) -> None:
    def go(_command: Command) -> dict[str, Json]:
        answer: dict[str, Json] = result
        return answer

    bench.runner.register("go", go)
    bench.runner.start()
    bench.receive("a")
    wait_until(lambda: len(bench.bodies("a")) == 2)
    assert bench.bodies("a")[1]["error"]["code"] == "RESULT_INVALID"


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

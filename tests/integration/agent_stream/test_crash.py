"""The function's process dies before or after each of its AWS calls; another one goes on with the run, once.

The run makes every kind of call: it authenticates, reads its secrets, arms the watchdog, starts, asks a device to move
by a tool, commits messages, ends. The process that dies is the ASGI app's, served one captured request. What a crash
after call n leaves is what one before call n+1 leaves, so each state is met by the watchdog first and by the client
first; both ask for a process that goes on, which a consumer of the queue of executions starts.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from agent_stream import services
from karma.conversations.domain import ThreadKey
from karma.core.clock import epoch_ms
from karma.core.ids import RunId, ThreadId
from karma.devices.domain import CommandStatus
from karma.runs.domain import RunKey, RunStatus
from karma.runs.items import run_pk, segment_sk
from tests.fakes.devices import FakeClock
from tests.fakes.runs import events_of
from tests.integration.agent_stream.conftest import Streams
from tests.support.agui import verify
from tests.support.crash_processes import Processes, Side
from tests.support.devices import World
from tests.support.model_server import message, text, tool_use
from tests.support.seeds import dice
from tests.support.stack import Context, SqsEvent

ENTRY = f"{Path(__file__).with_name('crash_entry.py')}:serve"
EXECUTION = f"{Path(__file__).with_name('crash_entry.py')}:execute"
_ENDS_WITHIN_S = 60
STEP = 1 if os.environ.get("CRASHES") == "all" else 4
FIRST = dice("the first crash").randint(1, STEP)
"""A crash after call n leaves what one before call n+1 leaves: in steps of four, half of such states are met."""


@contextmanager
def device_that_obeys(
    world: World, device_id: Any, *, result: Mapping[str, object] = MappingProxyType({"moved": True})
) -> Iterator[None]:
    """Answer each command once it was published, as the device's own answer would be recorded."""
    stop = threading.Event()

    def obey() -> None:
        while not stop.wait(0.02):
            for command in world.command_repository.pending(device_id, limit=100):
                if command.status is CommandStatus.SENT:
                    world.command_repository.move(
                        device_id, command.id, CommandStatus.SUCCEEDED, at=datetime.now(UTC), result=dict(result)
                    )

    thread = threading.Thread(target=obey)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Scene:
    """A user's device and threads, and the events that may follow after a run's process died."""

    def __init__(self, streams: Streams, sqs_event: SqsEvent, context: Context) -> None:
        self.streams = streams
        self.sqs_event = sqs_event
        self.context = context
        self.store = services.run_store()
        self.world = World(streams.stack, user=streams.user_id, clock=FakeClock(datetime.now(UTC)))
        device = self.world.create()
        self.world.connect(device)
        self.device_id = device.current.device.id

    @property
    def _agents(self) -> str:
        return self.streams.stack.tables["agents"]

    def body(self, name: str, *, run: str = "run", said: str = "u1") -> dict[str, Any]:
        messages = [{"id": said, "role": "user", "content": "Move."}]
        return {"threadId": f"thread-{name}", "runId": f"{run}-{name}", "messages": messages}

    def script(self, name: str) -> None:
        """Script the model to ask for one move, distinct from all others, and then to end."""
        arguments = json.dumps({"device_id": self.device_id, "command": "move", "params": {"for": name}})

        def choose(request: dict[str, Any]) -> Iterable[bytes]:
            if request["messages"][-1]["content"][0]["type"] == "tool_result":
                return message(text("Moved."))
            return message(tool_use(f"c-{name}", "controlDevice", arguments), stop_reason="tool_use")

        self.streams.model.choose = choose

    def key(self, name: str) -> RunKey:
        return RunKey(self.streams.user_id, RunId(f"run-{name}"))

    def lease_ends(self, name: str) -> None:
        """Let the time pass that a dead process keeps its run."""
        tail = self.store.tail(self.key(name))
        if tail is not None:
            self.streams.stack.aws("dynamodb").update_item(
                TableName=self.streams.stack.tables["agents"],
                Key={"pk": {"S": run_pk(tail.key)}, "sk": {"S": segment_sk(tail.n)}},
                UpdateExpression="SET lease_until_ms = :past",
                ExpressionAttributeValues={":past": {"N": str(epoch_ms(datetime.now(UTC)) - 1)}},
            )

    def time_passes_for_limits(self) -> None:
        """Clear the rate limits, and let leases of dead processes' streams lapse: one user starts many runs here."""
        table, dynamodb = self.streams.stack.tables["identity"], self.streams.stack.aws("dynamodb")
        for item in self._places():
            key = {"pk": item["pk"], "sk": item["sk"]}
            dynamodb.delete_item(TableName=self._agents, Key=key)
        for item in dynamodb.scan(TableName=table, ConsistentRead=True)["Items"]:
            if item["pk"]["S"].startswith("LIMIT#"):
                dynamodb.delete_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]})

    def streams_open(self) -> list[str]:
        """Return the tokens of the streams that count as open."""
        return [
            value["S"].partition("#")[2]
            for item in self._places()
            for name, value in item.items()
            if name.startswith("place_")
        ]

    def _places(self) -> list[dict[str, Any]]:
        pages = self.streams.stack.aws("dynamodb").get_paginator("scan").paginate(TableName=self._agents)
        found = [item for page in pages for item in page["Items"]]
        return [each for each in found if each["pk"]["S"].startswith("LEASES#open_streams#")]

    def watchdog_looks(self, name: str) -> None:
        from background.runs import lambda_handler

        told = {"user_id": self.streams.user_id, "run_id": f"run-{name}"}
        answer: Any = lambda_handler(self.sqs_event([told]), self.context)
        assert answer == {"batchItemFailures": []}
        until = time.monotonic() + _ENDS_WITHIN_S
        while (run := self.store.run(self.key(name))) is not None and run.status is RunStatus.RUNNING:
            assert time.monotonic() < until, f"nobody went on with run-{name}"
            time.sleep(0.02)

    def request_is_repeated(self, name: str) -> None:
        """Repeat a request: a run that never started starts now; one that did is not started again, and its end is
        delivered."""
        self.script(name)
        answer = self.streams.run(self.streams.agent(self.body(name)))
        run = self.store.run(self.key(name))
        assert run is not None
        assert (answer.status, events_of(answer.data)[-1]["type"]) == (200, "RUN_FINISHED"), answer.data[-900:]
        assert run.status is RunStatus.FINISHED

    def moves(self, name: str) -> int:
        commands, _ = self.world.command_repository.page(self.device_id, limit=100)
        return [command.params for command in commands].count({"for": name})

    def armed(self) -> int:
        """Count the messages to the watchdog; on a slow machine the first are due before the last is sent."""
        names = ["ApproximateNumberOfMessagesDelayed", "ApproximateNumberOfMessages"]
        read = self.streams.stack.aws("sqs").get_queue_attributes
        found = read(QueueUrl=self.streams.stack.queues["runs"], AttributeNames=names)
        return sum(int(found["Attributes"][name]) for name in names)

    def assert_ended(self, name: str) -> str:
        """Check that the run has ended, its log is complete and its thread takes another run; return how it ended."""
        run = self.store.run(self.key(name))
        assert run is not None
        assert run.status is not RunStatus.RUNNING
        assert self.store.thread(ThreadKey(self.streams.user_id, ThreadId(f"thread-{name}"))).active_run_id is None
        log = self.streams.run(self.streams.make("GET", f"/api/v1/runs/{run.key.run_id}/events"))
        events = events_of(log.data)
        verify(events)
        assert events[-1]["type"] in {"RUN_FINISHED", "RUN_ERROR"}
        assert sum(event["type"] in {"RUN_FINISHED", "RUN_ERROR"} for event in events) == 1
        self.streams.model.choose = lambda _: message(text("Still here."))
        next_run = self.streams.run(self.streams.agent(self.body(name, run="next", said="u2")))
        assert events_of(next_run.data)[-1]["type"] == "RUN_FINISHED"
        return run.error_code or "finished"


@contextmanager
def executions(scene: Scene) -> Iterator[None]:
    """Give each message of the queue of executions to a process of its own, as the queue's trigger does."""
    stop = threading.Event()
    sqs, queue = scene.streams.stack.aws("sqs"), scene.streams.stack.queues["executions"]

    def consume(processes: Processes) -> None:
        while not stop.is_set():
            for told in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages", []):
                processes.run(scene.sqs_event([json.loads(told["Body"])]))
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=told["ReceiptHandle"])

    with Processes(EXECUTION) as processes:
        thread = threading.Thread(target=consume, args=[processes])
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def scene(streams: Streams, sqs_event: SqsEvent, lambda_context: Context) -> Scene:
    # The consumer reads a part of the streaming function's variables, so both work in this process at once.
    import background.runs

    background.runs.services.cache_clear()
    return Scene(streams, sqs_event, lambda_context)


@pytest.mark.parametrize(
    ("side", "then"),
    [
        pytest.param("before", [Scene.watchdog_looks, Scene.request_is_repeated], id="before a call, watchdog first"),
        pytest.param("after", [Scene.request_is_repeated, Scene.watchdog_looks], id="after a call, client first"),
    ],
)
def test_wherever_the_process_dies_the_run_ends_once(
    scene: Scene, side: Side, then: list[Callable[[Scene, str], None]]
) -> None:
    headers = {"authorization": f"Bearer {scene.streams.token}"}
    ends: list[str] = []
    obeying = device_that_obeys(scene.world, scene.device_id)
    with Processes(ENTRY) as processes, obeying, executions(scene):
        for n in range(FIRST, 80, STEP):
            name = str(n)
            scene.time_passes_for_limits()
            armed = scene.armed()
            scene.script(name)
            died = processes.run({"body": scene.body(name), "headers": headers}, die=(side, "", n))
            assert not died.error, f"{died.error}\n{processes.log()}"
            started = scene.store.run(scene.key(name)) is not None
            assert not started or scene.armed() > armed
            scene.lease_ends(name)
            left = set(scene.streams_open())
            assert len(left) <= 1
            for comes in then:
                comes(scene, name)
            ended = scene.assert_ended(name)
            assert scene.moves(name) == 1
            assert set(scene.streams_open()) == left, "the dead process's, until its lease lapses"
            ends.append(ended if started else "not started")
            if not died.crashed:
                break
        else:
            pytest.fail("the run never got through")

    assert {"dynamodb.TransactWriteItems", "sqs.SendMessage", "iot-data-plane.Publish"} <= set(died.calls)
    assert ends[0] == "not started"
    assert ends.count("finished") >= 10 / STEP
    assert set(ends) == {"not started", "finished"}

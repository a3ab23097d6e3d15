"""The function's process dies before or after each of its AWS calls; whoever comes next finds a run that ended.

The run makes every kind of call: it authenticates, reads its secrets, arms the watchdog, starts, asks a device to move
by a tool, commits messages, ends. The process that dies is the ASGI app's, served one captured request. What a crash
after call n leaves is what one before call n+1 leaves, so each state is met by the watchdog first and by the client
first.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent_stream import services
from karma.conversations.domain import ThreadKey
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
from tests.support.stack import Context, SqsEvent

ENTRY = f"{Path(__file__).with_name('crash_entry.py')}:serve"


@contextmanager
def device_that_obeys(world: World, device_id: Any) -> Iterator[None]:
    """Answer each command once it was published, as the device's own answer would be recorded."""
    stop = threading.Event()

    def obey() -> None:
        while not stop.wait(0.02):
            for command in world.command_repository.pending(device_id, limit=100):
                if command.status is CommandStatus.SENT:
                    world.command_repository.move(
                        device_id, command.id, CommandStatus.SUCCEEDED, at=datetime.now(UTC), result={"moved": True}
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

    def body(self, name: str, *, run: str = "run", said: str = "u1") -> dict[str, Any]:
        messages = [{"id": said, "role": "user", "content": "Move."}]
        return {"threadId": f"thread-{name}", "runId": f"{run}-{name}", "messages": messages}

    def script(self, name: str) -> None:
        """Script the model to ask for one move, distinct from all others, and then to end."""
        arguments = json.dumps({"device_id": self.device_id, "command": "move", "params": {"for": name}})
        self.streams.model.answers.clear()
        self.streams.model.answer(message(tool_use(f"c-{name}", "controlDevice", arguments), stop_reason="tool_use"))
        self.streams.model.answer(message(text("Moved.")))

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
                ExpressionAttributeValues={":past": {"N": "1"}},
            )

    def time_passes_for_limits(self) -> None:
        """Clear the rate limits: one user starts more runs here than allowed, and a dead process holds its streams for
        15 minutes."""
        table, dynamodb = self.streams.stack.tables["identity"], self.streams.stack.aws("dynamodb")
        for item in dynamodb.scan(TableName=table, ConsistentRead=True)["Items"]:
            if item["pk"]["S"].startswith(("LIMIT#", "LEASES#")):
                dynamodb.delete_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]})

    def watchdog_looks(self, name: str) -> None:
        from background.runs import lambda_handler

        told = {"user_id": self.streams.user_id, "run_id": f"run-{name}"}
        answer: Any = lambda_handler(self.sqs_event([told]), self.context)
        assert answer == {"batchItemFailures": []}

    def request_is_repeated(self, name: str) -> None:
        """Repeat a request: a run that never started starts now; one that did is not started again, and its end is
        delivered."""
        existed = self.store.run(self.key(name)) is not None
        self.script(name)
        answer = self.streams.run(self.streams.agent(self.body(name)))
        run = self.store.run(self.key(name))
        assert run is not None
        ends = {RunStatus.FINISHED: "RUN_FINISHED", RunStatus.FAILED: "RUN_ERROR"}
        assert (answer.status, events_of(answer.data)[-1]["type"]) == (200, ends[run.status])
        assert existed or run.status is RunStatus.FINISHED

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
        self.streams.model.answers.clear()
        self.streams.model.answer(message(text("Still here.")))
        next_run = self.streams.run(self.streams.agent(self.body(name, run="next", said="u2")))
        assert events_of(next_run.data)[-1]["type"] == "RUN_FINISHED"
        return run.error_code or "finished"


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
    with Processes(ENTRY) as processes, device_that_obeys(scene.world, scene.device_id):
        for n in range(1, 80):
            name = str(n)
            scene.time_passes_for_limits()
            armed = scene.armed()
            scene.script(name)
            died = processes.run({"body": scene.body(name), "headers": headers}, die=(side, n))
            assert not died.error, f"{died.error}\n{processes.log()}"
            started = scene.store.run(scene.key(name)) is not None
            assert not started or scene.armed() > armed
            scene.lease_ends(name)
            for comes in then:
                comes(scene, name)
            ended = scene.assert_ended(name)
            assert scene.moves(name) == 1 or (started and ended == "OWNER_LOST" and scene.moves(name) == 0)
            ends.append(ended if started else "not started")
            if not died.crashed:
                break
        else:
            pytest.fail("the run never got through")

    assert {"dynamodb.TransactWriteItems", "sqs.SendMessage", "iot-data-plane.Publish"} <= set(died.calls)
    assert ends[0] == "not started"
    assert ends[-1] == "finished"
    assert ends.count("OWNER_LOST") >= 10

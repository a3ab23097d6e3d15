"""The consumer of executions on real tables, queues and buckets: it does whatever a run needs that another began."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import pytest

from agent_stream import services
from karma.billing.plans import PlanName
from karma.conversations.domain import ThreadKey, TitleSource
from karma.conversations.repository import ThreadRepository
from karma.core.clock import epoch_ms
from karma.core.ids import ThreadId
from karma.identity.domain import Role
from karma.runs.domain import RunKey, RunStatus
from karma.runs.items import run_pk, segment_sk
from karma.runs.requests import parse_run_input
from karma.runs.watchdog import read_message, was_sent_on
from karma.tools.device_tools import DeviceTools
from tests.fakes.devices import FakeClock
from tests.fakes.runs import caller
from tests.integration.agent_stream.conftest import Streams
from tests.integration.agent_stream.test_attachments import LARGE, image, put_file
from tests.integration.agent_stream.test_attachments import user as user_with
from tests.integration.agent_stream.test_crash import device_that_obeys
from tests.support.devices import World
from tests.support.files import put_half
from tests.support.media import b64, pdf
from tests.support.model_server import message, text, tool_use
from tests.support.plans import subscribe
from tests.support.queues import delayed_messages
from tests.support.stack import Context, Drain, SqsEvent

ENDPOINT = {"IOT_DATA_ENDPOINT": ""}


class Lost:
    """A run that was begun, and whose process is gone; the function that goes on with it."""

    def __init__(self, streams: Streams, sqs_event: SqsEvent, context: Context) -> None:
        self.streams = streams
        self.sqs_event = sqs_event
        self.context = context
        self.key: RunKey

    def begin(self, *messages: dict[str, Any]) -> None:
        asked = parse_run_input(orjson.dumps({"threadId": "t1", "messages": list(messages)}))

        async def begin() -> None:
            asking = caller(Role.USER, self.streams.user_id)
            self.key = (await services.run_service().start(asking, asked)).key

        self.streams.serve(begin())

    def lose(self) -> None:
        self.streams.stack.aws("dynamodb").update_item(
            TableName=self.streams.stack.tables["agents"],
            Key={"pk": {"S": run_pk(self.key)}, "sk": {"S": segment_sk(1)}},
            UpdateExpression="SET lease_until_ms = :past",
            ExpressionAttributeValues={":past": {"N": str(epoch_ms(datetime.now(UTC)) - 1)}},
        )

    def go_on(self, **environment: str) -> None:
        """Let the function go on with the run, as the trigger of the runs of free plans does."""
        self.lose()
        self.hand(sent_on=True, **environment)

    def hand(self, *, sent_on: bool = False, **environment: str) -> None:
        from agent_stream import execution

        model = {"MODEL_BASE_URL": self.streams.model.url, "MODEL_ID": "claude-haiku-5-5"}
        self.streams.stack.use("agent_stream.execution", **model, **environment)
        body = {"user_id": self.key.user_id, "run_id": self.key.run_id, "sent_on": sent_on}
        answer: Any = execution.lambda_handler(self.sqs_event([body]), self.context)
        assert answer == {"batchItemFailures": []}
        with closing(execution.loop()) as loop:
            loop.run_until_complete(services.model().close())

    @property
    def status(self) -> RunStatus:
        run = services.run_store().run(self.key)
        assert run is not None
        return run.status

    def results(self) -> list[str]:
        thread = services.run_store().thread(ThreadKey(self.streams.user_id, ThreadId("t1")))
        return [str(each.content) for each in thread.messages if each.role == "tool"]


@pytest.fixture
def lost(streams: Streams, sqs_event: SqsEvent, lambda_context: Context) -> Lost:
    return Lost(streams, sqs_event, lambda_context)


def attached(streams: Streams) -> dict[str, Any]:
    name = put_file(streams.stack, streams.user_id, pdf())
    document = {"type": "document", "source": {"type": "file", "value": name, "mimeType": "application/pdf"}}
    return user_with("u1", {"type": "text", "text": "Look."}, image(b64(LARGE)), document)


def test_shows_the_model_what_the_user_had_attached(lost: Lost) -> None:
    lost.begin(attached(lost.streams))
    lost.streams.model.answer(message(text("I see.")))

    lost.go_on()

    assert lost.status is RunStatus.FINISHED
    shown = [part["type"] for part in lost.streams.model.requests[0]["messages"][0]["content"]]
    assert sorted(shown) == ["document", "image", "text"]


def test_asks_no_model_about_what_was_attached_and_not_kept(lost: Lost) -> None:
    lost.begin(attached(lost.streams))
    stack = lost.streams.stack
    kept = stack.aws("s3").list_objects_v2(Bucket=stack.bucket)["Contents"]
    name = next(each["Key"] for each in kept if each["Key"].startswith("attachments/"))
    stack.aws("s3").delete_object(Bucket=stack.bucket, Key=name)

    lost.go_on()

    assert lost.status is RunStatus.FAILED
    assert lost.streams.model.requests == []


def test_controls_devices_and_keeps_long_results(lost: Lost) -> None:
    streams = lost.streams
    world = World(streams.stack, user=streams.user_id, clock=FakeClock(datetime.now(UTC)))
    device = world.create()
    world.connect(device)
    arguments = json.dumps({"device_id": device.current.device.id, "command": "move"})
    streams.model.answer(message(tool_use("c1", "controlDevice", arguments), stop_reason="tool_use"))
    streams.model.answer(message(text("Moved.")))
    lost.begin(user_with("u1", {"type": "text", "text": "Move."}))

    with device_that_obeys(world, device.current.device.id, result={"log": "x" * 70_000}):
        lost.go_on()

    assert lost.status is RunStatus.FINISHED
    (result,) = lost.results()
    assert "beginning" in json.loads(result)


def test_waits_anew_for_a_file_that_is_being_uploaded(lost: Lost) -> None:
    streams = lost.streams
    device_id = put_half(streams.stack, streams.user_id, "today.txt")
    arguments = json.dumps({"device_id": device_id, "file": "/today.txt", "wait_s": 1})
    streams.model.answer(message(tool_use("c1", "waitForFile", arguments), stop_reason="tool_use"))
    streams.model.answer(message(text("Not yet.")))
    lost.begin(user_with("u1", {"type": "text", "text": "Is it there?"}))

    lost.go_on()

    assert lost.status is RunStatus.FINISHED
    assert json.loads(lost.results()[0])["uploaded_bytes"] == 5


def test_leaves_a_command_in_the_queue_of_a_device_that_cannot_be_reached(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in AWS, where the broker is looked up; here the name that is found leads nowhere."""
    streams = lost.streams
    clock = FakeClock(datetime.now(UTC))
    world = World(streams.stack, user=streams.user_id, clock=clock)
    device = world.create()
    world.connect(device)
    clock.pass_time(hours=-1)
    world.publisher.fails = True
    world.commands.send(streams.user_id, device.current.device.id, "move", ttl_s=60)
    for serial in (False, True):
        world.commands.send(streams.user_id, device.current.device.id, "move", ttl_s=3660, serial_order=serial)
    arguments = json.dumps({"device_id": device.current.device.id, "command": "move"})
    streams.model.answer(message(tool_use("c1", "controlDevice", arguments), stop_reason="tool_use"))
    streams.model.answer(message(text("Later.")))
    lost.begin(user_with("u1", {"type": "text", "text": "Move."}))
    monkeypatch.setattr("karma.tools.server_tools.DeviceTools", partial(DeviceTools, command_wait_s=0.1))

    lost.go_on(**ENDPOINT)

    assert lost.status is RunStatus.FINISHED
    assert "may still be carried out" in lost.results()[0]
    assert delayed_messages(streams.stack, "ingest") >= 1


def test_hands_a_run_over_that_its_time_is_too_short_for(
    lost: Lost, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = lost.streams
    lost.begin(user_with("u1", {"type": "text", "text": "Go."}))
    with monkeypatch.context() as short:
        short.setattr(type(lost.context), "get_remaining_time_in_millis", lambda _: 5_000)
        lost.go_on()

    (asked,) = drain(streams.stack.queues["executions"])
    assert read_message(asked["Body"]) == lost.key
    assert lost.status is RunStatus.RUNNING
    assert streams.model.requests == []


@pytest.mark.parametrize("plan", [PlanName.FREE, PlanName.PRO], ids=str)
def test_sends_a_run_of_a_free_plan_on_to_the_processes_of_these(lost: Lost, drain: Drain, plan: PlanName) -> None:
    """Of the processes of all plans they hold none: 25 free accounts had all 50."""
    if plan is not PlanName.FREE:
        subscribe(lost.streams.user_id, plan)
    lost.begin(user_with("u1", {"type": "text", "text": "Go."}))
    lost.lose()
    lost.streams.model.answer(message(text("Done.")))
    lost.hand()
    if plan is PlanName.FREE:
        assert lost.status is RunStatus.RUNNING
        (asked,) = drain(lost.streams.stack.queues["free_runs"])
        assert read_message(asked["Body"]) == lost.key
        assert lost.streams.model.requests == []
        lost.hand(sent_on=was_sent_on(asked["Body"]))
    assert lost.status is RunStatus.FINISHED


@pytest.mark.parametrize("times", [1, 2])
def test_lets_the_model_propose_a_title_once(lost: Lost, drain: Drain, times: int) -> None:
    from agent_stream import execution

    streams, key = lost.streams, ThreadKey(lost.streams.user_id, ThreadId("t1"))
    streams.model.answer(message(text("Two are online.")))
    streams.model.answer(message(text('"Devices online"')))
    user = user_with("u1", {"type": "text", "text": "Which are online?"})
    streams.run(streams.agent({"threadId": "t1", "runId": "r1", "messages": [user]}))
    threads = ThreadRepository()
    before = threads.get(key)
    assert before is not None
    assert (before.title, before.title_from) == ("Which are online?", TitleSource.WORDS)

    (asked,) = drain(streams.stack.queues["short_work"])
    model = {"MODEL_BASE_URL": streams.model.url, "MODEL_ID": "claude-haiku-5-5"}
    streams.stack.use("agent_stream.execution", **model)
    with closing(execution.loop()) as loop:
        for _ in range(times):
            answer: Any = execution.lambda_handler(lost.sqs_event([json.loads(asked["Body"])]), lost.context)
            assert answer == {"batchItemFailures": []}
        loop.run_until_complete(services.model().close())

    after = threads.get(key)
    assert after is not None
    assert (after.title, after.title_from) == ("Devices online", TitleSource.MODEL)
    assert len(streams.model.requests) == 2
    assert (after.updated_at, after.message_count) == (before.updated_at, 2)

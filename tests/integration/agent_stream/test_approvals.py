"""Approvals by the function that streams: its question, its answer, and the one call that follows, on real tables."""

import json
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.agents.domain import Agent
from karma.conversations.domain import ThreadKey
from karma.core.ids import ThreadId, new_id
from karma.runs.domain import RunKey, RunStatus
from karma.runs.interrupts import AnswerStatus
from karma.runs.repository import RunRepository
from karma.tools.domain import ApprovalPolicy, ApprovalRule, OnExpiry
from tests.fakes.devices import FakeClock
from tests.fakes.runs import events_of
from tests.integration.agent_stream.conftest import Streams
from tests.integration.agent_stream.test_background_runs import careful
from tests.integration.agent_stream.test_crash import device_that_obeys
from tests.support.agui import verify
from tests.support.devices import World
from tests.support.model_server import message, text, tool_use
from tests.support.stack import Context, Drain, SqsEvent


@pytest.fixture
def agent(streams: Streams) -> Agent:
    return careful()


def ask(streams: Streams, agent: Agent, thread: str, held: Sequence[str] = (), **more: Any) -> list[dict[str, Any]]:
    body = {"threadId": thread, "runId": new_id(), "protocolVersion": "1.0", "messages": [], **more}
    events = events_of(streams.run(streams.agent({**body, "forwardedProps": {"agent_id": agent.id}})).data)
    verify(events, held=held)
    return events


@pytest.mark.parametrize("is_approved", [True, False])
def test_a_call_is_made_once_it_is_approved(streams: Streams, agent: Agent, is_approved: bool) -> None:
    world = World(streams.stack, user=streams.user_id, clock=FakeClock(datetime.now(UTC)))
    device = world.create()
    world.connect(device)
    arguments = json.dumps({"device_id": device.current.device.id, "command": "move"})
    streams.model.answer(message(tool_use("c1", "controlDevice", arguments), stop_reason="tool_use"))
    streams.model.answer(message(text("Done.")))
    thread = new_id()

    asked = ask(streams, agent, thread, messages=[{"id": new_id(), "role": "user", "content": "Move."}])
    (question,) = asked[-1]["outcome"]["interrupts"]
    answer = {"interruptId": question["id"], "status": "resolved", "payload": {"approved": is_approved}}
    with device_that_obeys(world, device.current.device.id, result={"ok": True}):
        answered = ask(streams, agent, thread, [question["toolCallId"]], resume=[answer])

    assert answered[-1]["type"] == "RUN_FINISHED"
    assert answered[-1]["outcome"]["type"] == "success"
    (result,) = [event for event in answered if event["type"] == "TOOL_CALL_RESULT"]
    assert result["toolCallId"] == question["toolCallId"]
    assert json.loads(result["content"]).get("success", False) is is_approved
    commands = world.commands.list(streams.user_id, device.current.device.id)[0]
    assert len(commands) == is_approved


def handled(streams: Streams, context: Context, sqs_event: SqsEvent, bodies: Sequence[object]) -> None:
    """Let the consumer of executions handle messages in a process of its own."""
    from agent_stream import execution, services

    model = {"MODEL_BASE_URL": streams.model.url, "MODEL_ID": "claude-haiku-5-5"}
    streams.stack.use("agent_stream.execution", **model)
    with closing(execution.loop()) as loop:
        for body in bodies:
            answer: Any = execution.lambda_handler(sqs_event([body]), context)
            assert answer == {"batchItemFailures": []}
        loop.run_until_complete(services.model().close())


@pytest.mark.parametrize("on_expiry", OnExpiry)
def test_what_nobody_approves_in_time_is_refused_once_or_rests(
    streams: Streams, sqs_event: SqsEvent, lambda_context: Context, drain: Drain, on_expiry: OnExpiry
) -> None:
    agent = careful(ApprovalRule(policy=ApprovalPolicy.ALWAYS, expires_in_s=0, on_expiry=on_expiry))
    arguments = json.dumps({"device_id": new_id(), "command": "move"})
    streams.model.answer(message(tool_use("c1", "controlDevice", arguments), stop_reason="tool_use"))
    streams.model.answer(message(text("Then not.")))
    thread = ThreadKey(streams.user_id, ThreadId(new_id()))
    said = {"id": new_id(), "role": "user", "content": "Move."}
    (question,) = ask(streams, agent, thread.thread_id, messages=[said])[-1]["outcome"]["interrupts"]
    run_id, _, n = question["id"].rpartition("/")

    expired = {"expired": [streams.user_id, run_id, int(n)]}
    drain(streams.stack.queues["executions"], 0)
    handled(streams, lambda_context, sqs_event, [expired, expired])

    store = RunRepository()
    found = store.interrupts(streams.user_id, [question["id"]])[question["id"]]
    assert found.answer is not None
    assert (found.answer.status, found.has_lapsed) == (AnswerStatus.CANCELLED, on_expiry is OnExpiry.CANCEL)
    if on_expiry is OnExpiry.CANCEL:
        assert len(streams.model.requests) == 1
        assert store.thread(thread).active_run_id is None
        return
    sent = [json.loads(each["Body"]) for each in drain(streams.stack.queues["executions"], 1)]
    begun = {"user_id": streams.user_id, "run_id": found.answer.by}
    assert [each for each in sent if "run_id" in each] == [begun]
    handled(streams, lambda_context, sqs_event, [begun])
    (sent_on,) = drain(streams.stack.queues["free_runs"], 1)  # the account's plan is the free one
    handled(streams, lambda_context, sqs_event, [json.loads(sent_on["Body"])])
    run = store.run(RunKey(streams.user_id, found.answer.by))
    assert run is not None
    assert (run.status, run.parent_run_id) == (RunStatus.FINISHED, run_id)
    (result,) = [str(each.content) for each in store.thread(thread).messages if each.role == "tool"]
    assert "Nobody approved this call" in result
    assert len(streams.model.requests) == 2

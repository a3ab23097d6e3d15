"""Runs that the API's function begins and the function of executions executes: their handlers, on one set of tables."""

from __future__ import annotations

import json
from datetime import timedelta

import orjson
import pytest

from karma.agents.domain import Agent, AgentSpec
from karma.agents.repository import AgentRepository
from karma.agents.service import Catalogue
from karma.conversations.domain import ThreadKey
from karma.core.clock import SystemClock
from karma.core.dynamo.leases import DynamoLeases
from karma.core.ids import ThreadId, UserId
from karma.integrations.sqs import SqsQueue
from karma.runs.places import LEAST, Places
from karma.runs.watchdog import QueuedExecutions, read_message
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from tests.fakes.runs import events_of
from tests.integration.agent_stream.conftest import Background
from tests.integration.agent_stream.test_attachments import LARGE, image, put_file
from tests.support.agui import verify
from tests.support.media import b64, pdf
from tests.support.model_server import message, text, tool_use
from tests.support.queues import delayed_messages
from tests.support.stack import Drain

RUNS = "/api/v1/runs"
HOUR = timedelta(hours=1)


def careful(rule: ApprovalRule = ApprovalRule(policy=ApprovalPolicy.ALWAYS)) -> Agent:  # noqa: B008  frozen
    """Make an agent whose calls of controlDevice have to be approved."""
    tools = ("controlDevice",)
    catalogue = Catalogue(AgentRepository(), SystemClock(), models=("claude-haiku-5-5",), tools=tools)
    approvals = (ToolApproval(tool="controlDevice", rule=rule),)
    return catalogue.create(
        AgentSpec(name="Careful", model="claude-haiku-5-5", system_prompt="Ask.", tools=tools, approvals=approvals)
    )


def test_a_run_begins_with_the_answer_and_ends_without_a_client(background: Background) -> None:
    background.streams.model.answer(message(text("Two are online.")))

    status, data, headers = background.call("POST", RUNS, {"message": "Which are online?", "thread_id": "t1"})
    run_id = data["run"]["id"]
    assert (status, data["ended"], data["run"]["status"]) == (202, False, "running")
    assert headers["location"] == f"{RUNS}/{run_id}"
    assert delayed_messages(background.streams.stack, "runs") == 1
    background.execute()

    _, data, _ = background.call("GET", f"{RUNS}/{run_id}")
    assert (data["run"]["status"], data["run"]["turns"]) == ("finished", 1)
    events = background.events(run_id)
    verify(events)
    empty, snapshot = [event for event in events if event["type"] == "MESSAGES_SNAPSHOT"]
    assert empty["messages"] == []
    assert [each["content"] for each in snapshot["messages"]] == ["Which are online?"]
    said = "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")
    assert said == "Two are online."


def test_a_repeat_with_its_key_is_answered_by_the_run_as_it_is_by_then(background: Background) -> None:
    background.streams.model.answer(message(text("Yes.")))
    body = {"message": "Are they online?"}

    first = background.call("POST", RUNS, body, idempotency_key="k1")
    again = background.call("POST", RUNS, body, idempotency_key="k1")
    other = background.call("POST", RUNS, {"message": "Another"}, idempotency_key="k1")
    background.execute()
    ended = background.call("POST", RUNS, {**body, "wait_s": 1}, idempotency_key="k1")

    assert (first[0], again[0], ended[0]) == (202, 202, 200)
    assert first[1]["run"]["id"] == again[1]["run"]["id"] == ended[1]["run"]["id"]
    assert (other[0], other[1]["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert ended[1]["run"]["status"] == "finished"
    assert background.call("GET", RUNS)[1]["total"] == 1


def test_what_its_messages_attach_is_kept_for_the_process_that_executes_it(background: Background) -> None:
    streams = background.streams
    streams.model.answer(message(text("I see.")))
    name = put_file(streams.stack, streams.user_id, pdf())
    document = {"type": "document", "source": {"type": "file", "value": name, "mimeType": "application/pdf"}}
    said = {"role": "user", "content": [{"type": "text", "text": "Look."}, image(b64(LARGE)), document]}

    status, *_ = background.call("POST", RUNS, {"messages": [said]})
    background.execute()

    assert status == 202
    shown = [part["type"] for part in streams.model.requests[0]["messages"][0]["content"]]
    assert sorted(shown) == ["document", "image", "text"]


def test_a_request_that_waits_is_answered_when_its_time_is_over(background: Background) -> None:
    status, data, _ = background.call("POST", RUNS, {"message": "Go", "wait_s": 1})
    assert (status, data["ended"]) == (202, False)


def test_a_second_request_meets_a_busy_thread_or_takes_its_place(background: Background) -> None:
    body = {"message": "Go", "thread_id": "t1"}
    _, first, _ = background.call("POST", RUNS, body)
    status, error, _ = background.call("POST", RUNS, {"message": "Else", "thread_id": "t1"})
    assert (status, error["details"]) == (409, {"run_id": first["run"]["id"]})

    status, second, _ = background.call(
        "POST", RUNS, {"message": "Else", "thread_id": "t1", "multitask_strategy": "interrupt"}
    )

    assert status == 202
    _, data, _ = background.call("GET", f"{RUNS}/{first['run']['id']}")
    assert (data["run"]["status"], data["run"]["cost_micros"]) in {("failed", 0), ("cancelled", 0)}
    assert second["run"]["status"] == "running"


def test_a_stream_takes_the_place_of_a_run_in_the_background(background: Background) -> None:
    streams = background.streams
    _, first, _ = background.call("POST", RUNS, {"message": "Go", "thread_id": "t1"})
    streams.model.answer(message(text("Else.")))
    said = {"id": "u2", "role": "user", "content": "Else"}
    props = {"multitask_strategy": "interrupt"}
    body = {"threadId": "t1", "runId": "r2", "messages": [said], "forwardedProps": props}
    for_agui = {**body, "tools": [], "context": [], "state": {}}

    events = events_of(streams.run(streams.agent(for_agui)).data)

    assert events[-1]["type"] == "RUN_FINISHED"
    _, data, _ = background.call("GET", f"{RUNS}/{first['run']['id']}")
    assert data["run"]["status"] in {"failed", "cancelled"}


def test_one_that_waits_begins_when_its_turn_has_come(background: Background) -> None:
    model = background.streams.model
    model.answer(message(text("First.")))
    model.answer(message(text("Second.")))
    body = {"thread_id": "t1", "multitask_strategy": "enqueue"}
    _, first, _ = background.call("POST", RUNS, {**body, "message": "One"})
    status, second, _ = background.call("POST", RUNS, {**body, "message": "Two"})
    assert (status, first["run"]["status"], second["run"]["status"]) == (202, "running", "queued")
    paused, error, _ = background.call("POST", f"{RUNS}/{second['run']['id']}/pause")
    assert (paused, error["code"]) == (409, "RUN_QUEUED")

    background.execute()  # and asks for the next
    background.execute()

    _, data, _ = background.call("GET", f"{RUNS}/{second['run']['id']}")
    assert data["run"]["status"] == "finished"
    shown = [each["content"] for each in model.requests[1]["messages"]]
    assert str(shown[0]).count("One") == 1
    events = background.events(second["run"]["id"])
    verify(events)
    said = "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")
    assert said == "Second."


def test_one_that_waits_begins_when_what_the_run_before_it_asks_is_answered(background: Background) -> None:
    model = background.streams.model
    arguments = json.dumps({"device_id": "EOS-1", "command": "move"})
    model.answer(message(tool_use("c1", "controlDevice", arguments), stop_reason="tool_use"))
    body = {"thread_id": "t1", "agent_id": careful().id, "multitask_strategy": "enqueue"}
    _, first, _ = background.call("POST", RUNS, {**body, "message": "Move."})
    _, second, _ = background.call("POST", RUNS, {**body, "message": "And then?"})
    background.execute()
    background.execute()

    _, asked, _ = background.call("GET", f"{RUNS}/{first['run']['id']}")
    assert [each["status"] for each in asked["interrupts"]] == ["open"]
    _, data, _ = background.call("GET", f"{RUNS}/{second['run']['id']}")
    assert data["run"]["status"] == "queued"

    model.answer(message(text("As you like.")))
    model.answer(message(text("Nothing more.")))
    refused = [{"interruptId": asked["interrupts"][0]["id"], "status": "cancelled"}]
    status, _, _ = background.call("POST", RUNS, {"thread_id": "t1", "resume": refused})
    assert status == 202
    background.execute()  # and asks for the one that waits
    background.execute()
    _, data, _ = background.call("GET", f"{RUNS}/{second['run']['id']}")
    assert data["run"]["status"] == "finished"
    results = [part for each in model.requests[2]["messages"] for part in each["content"] if "tool_use_id" in part]
    assert len(results) == 1
    assert "went on without answering" not in json.dumps(results)


def test_one_that_waits_is_cancelled(background: Background) -> None:
    body = {"thread_id": "t1", "multitask_strategy": "enqueue"}
    background.call("POST", RUNS, {**body, "message": "One"})
    _, second, _ = background.call("POST", RUNS, {**body, "message": "Two"})
    status, data, _ = background.call("POST", f"{RUNS}/{second['run']['id']}/cancel", {"reason": "no"})
    assert (status, data["run"]["status"], data["run"]["cost_micros"]) == (200, "cancelled", 0)


def test_one_that_rolls_back_begins_where_the_active_one_had_begun(background: Background) -> None:
    _, first, _ = background.call("POST", RUNS, {"message": "One", "thread_id": "t1"})
    body = {"message": "Two", "thread_id": "t1", "multitask_strategy": "rollback"}
    status, second, _ = background.call("POST", RUNS, body)
    assert (status, second["rolled_back"]) == (202, {"run_id": first["run"]["id"], "effects": []})
    background.streams.model.answer(message(text("Yes.")))
    background.execute()
    assert [each["content"] for each in background.streams.model.requests[0]["messages"]] in (
        ["Two"],
        [[{"type": "text", "text": "Two"}]],
    )


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 422, "message"),
        ({"message": "a", "messages": [{"role": "user", "content": "a"}]}, 422, "messages"),
        ({"message": " "}, 422, "message"),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"role": "robot"}]}, 422, "messages.0.role"),
        ({"message": "a", "thread_id": "a b"}, 422, "thread_id"),
        ({"message": "a", "wait_s": 21}, 422, "wait_s"),
        ({"message": "a", "multitask_strategy": "later"}, 422, "multitask_strategy"),
        ({"message": "a", "tools": [{"name": "controlDevice"}]}, 422, "tools.0.name"),
        ({"message": "a", "agent_id": "nobody"}, 404, None),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_stored(
    background: Background, body: dict[str, object], status: int, told: str | None
) -> None:
    answer, error, _ = background.call("POST", RUNS, body)
    assert answer == status
    if told is not None:
        assert [entry["field"] for entry in error["details"]] == [told]
    assert [item for item in background.streams.items() if item["type"]["S"] in {"run", "thread", "segment"}] == []


def test_an_execution_names_the_run(background: Background, drain: Drain) -> None:
    _, data, _ = background.call("POST", RUNS, {"message": "Go"})
    (asked,) = drain(background.streams.stack.queues["executions"])
    key = read_message(asked["Body"])
    assert (key.run_id, key.user_id) == (data["run"]["id"], background.streams.user_id)
    assert asked["Attributes"]["MessageGroupId"] == key.user_id, "accounts take turns in the queue"
    assert orjson.loads(asked["Body"]) == {"user_id": key.user_id, "run_id": key.run_id}


def test_the_thread_shows_what_was_asked_at_once(background: Background) -> None:
    from agent_stream import services

    background.call("POST", RUNS, {"message": "Go", "thread_id": "t1"})
    key = ThreadKey(UserId(background.streams.user_id), ThreadId("t1"))
    assert [each.content for each in services.run_store().thread(key).messages] == ["Go"]


def test_one_account_s_runs_hold_two_processes_and_the_next_begins_when_one_ends(background: Background) -> None:
    streams = background.streams
    for said in ("First.", "Second."):
        streams.model.answer(message(text(said)))
    held = [
        DynamoLeases("agents").take(LEAST, streams.user_id, now=SystemClock().now(), until=SystemClock().now() + HOUR)
        for _ in range(LEAST.places)
    ]
    _, first, _ = background.call("POST", RUNS, {"message": "One"})
    _, second, _ = background.call("POST", RUNS, {"message": "Two"})
    background.execute()
    assert {background.call("GET", f"{RUNS}/{each['run']['id']}")[1]["run"]["status"] for each in (first, second)} == {
        "running"
    }
    assert delayed_messages(streams.stack, "executions") == 0, "neither holds a message"
    assert not streams.model.requests

    services = Places(
        DynamoLeases("agents"),
        SystemClock(),
        plan_of=lambda _: "free",
        executions=QueuedExecutions(SqsQueue(streams.stack.queues["executions"])),
        workers=50,
    )
    services.leave(held[0])
    background.execute()  # the one that was started first; its end wakes the other one
    assert background.call("GET", f"{RUNS}/{first['run']['id']}")[1]["run"]["status"] == "finished"
    assert background.call("GET", f"{RUNS}/{second['run']['id']}")[1]["run"]["status"] == "running"
    background.execute()
    assert background.call("GET", f"{RUNS}/{second['run']['id']}")[1]["run"]["status"] == "finished"

"""Titles and expired questions of an account that has no place for them come again later, and are then done once."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from agent_stream import execution, services
from karma.conversations.domain import ThreadKey, TitleSource
from karma.conversations.repository import ThreadRepository
from karma.core.clock import SystemClock
from karma.core.dynamo.leases import DynamoLeases
from karma.core.ids import ThreadId, new_id
from karma.core.leases import Lease
from karma.runs.interrupts import AnswerStatus
from karma.runs.places import SHORT_WORK
from karma.runs.repository import RunRepository
from karma.tools.domain import ApprovalPolicy, ApprovalRule, OnExpiry
from tests.integration.agent_stream.conftest import Streams
from tests.integration.agent_stream.test_approvals import ask
from tests.integration.agent_stream.test_attachments import user
from tests.integration.agent_stream.test_background_runs import careful
from tests.support.model_server import message, text, tool_use
from tests.support.queues import delayed_messages
from tests.support.stack import Context, Drain, SqsEvent


class ShortWork:
    """The queue of short work of one account, and its consumer."""

    def __init__(self, streams: Streams, context: Context, sqs_event: SqsEvent, drain: Drain) -> None:
        self.streams = streams
        self._context = context
        self._sqs_event = sqs_event
        self._drain = drain
        self.url = streams.stack.queues["short_work"]

    def hold_places(self) -> list[Lease]:
        """Take the account's places for short work, as processes do that are at it."""
        services.execution_settings()  # names the tables
        now, leases = SystemClock().now(), DynamoLeases("agents")
        until = now + timedelta(minutes=1)
        return [leases.take(SHORT_WORK, self.streams.user_id, now=now, until=until) for _ in range(SHORT_WORK.places)]

    def taken(self) -> dict[str, Any]:
        """Take the one message of the queue."""
        (told,) = self._drain(self.url)
        assert told["Attributes"]["MessageGroupId"] == self.streams.user_id, "it waits behind its own account's alone"
        found: dict[str, Any] = json.loads(told["Body"])
        return found

    def handle(self, asked: dict[str, Any]) -> None:
        """Hand a message to the function, as the queue's trigger does."""
        model = {"MODEL_BASE_URL": self.streams.model.url, "MODEL_ID": "claude-haiku-5-5"}
        self.streams.stack.use("agent_stream.execution", **model)
        with closing(execution.loop()) as loop:
            answer: Any = execution.lambda_handler(self._sqs_event([asked]), self._context)
            loop.run_until_complete(services.model().close())
        execution.loop.cache_clear()
        assert answer == {"batchItemFailures": []}, "it counts as no failed receive"

    def finds_no_place(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Handle a message twice without a place; return it as it comes again."""
        requests, held = len(self.streams.model.requests), self.hold_places()
        for times in (1, 2):
            self.handle(asked)
            again = self.taken()
            assert again == {**asked, "put_offs": times}
            asked = again
        assert len(self.streams.model.requests) == requests, "no model was asked"
        for lease in held:
            DynamoLeases("agents").give_back(lease)
        return asked


@pytest.fixture
def work(
    streams: Streams, lambda_context: Context, sqs_event: SqsEvent, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> ShortWork:
    monkeypatch.setattr("karma.runs.watchdog._FIRST_PUT_OFF_S", 0)  # it comes again at once
    return ShortWork(streams, lambda_context, sqs_event, drain)


def test_a_title_waits_for_a_place_and_is_proposed_once(work: ShortWork) -> None:
    streams = work.streams
    streams.model.answer(message(text("Two are online.")))
    streams.model.answer(message(text("Devices online")))
    said = user("u1", {"type": "text", "text": "Which are online?"})
    streams.run(streams.agent({"threadId": "t1", "runId": "r1", "messages": [said]}))
    again = work.finds_no_place(work.taken())
    for _ in range(2):
        work.handle(again)
    thread = ThreadRepository().get(ThreadKey(streams.user_id, ThreadId("t1")))
    assert thread is not None
    assert (thread.title, thread.title_from) == ("Devices online", TitleSource.MODEL)
    assert len(streams.model.requests) == 2


@pytest.mark.parametrize("on_expiry", list(OnExpiry))
def test_an_expired_question_waits_for_a_place_and_is_dealt_with_once(work: ShortWork, on_expiry: OnExpiry) -> None:
    streams = work.streams
    agent = careful(ApprovalRule(policy=ApprovalPolicy.ALWAYS, expires_in_s=0, on_expiry=on_expiry))
    arguments = json.dumps({"device_id": new_id(), "command": "move"})
    streams.model.answer(message(tool_use("c1", "controlDevice", arguments), stop_reason="tool_use"))
    said = {"id": new_id(), "role": "user", "content": "Move."}
    (question,) = ask(streams, agent, new_id(), messages=[said])[-1]["outcome"]["interrupts"]
    run_id, _, n = question["id"].rpartition("/")
    work.taken()  # the conversation's title is asked for, too
    again = work.finds_no_place({"expired": [streams.user_id, run_id, int(n)]})
    store, name = RunRepository(), question["id"]
    assert store.interrupts(streams.user_id, [name])[name].answer is None
    for _ in range(2):
        work.handle(again)
    found = store.interrupts(streams.user_id, [name])[name]
    assert found.answer is not None
    assert (found.answer.status, found.has_lapsed) == (AnswerStatus.CANCELLED, on_expiry is OnExpiry.CANCEL)
    assert store.count(streams.user_id) == (1 if on_expiry is OnExpiry.CANCEL else 2)


def test_what_is_put_back_comes_ever_later(work: ShortWork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.watchdog._FIRST_PUT_OFF_S", 15)
    work.hold_places()
    work.handle({"user_id": work.streams.user_id, "thread_id": "t1"})
    assert delayed_messages(work.streams.stack, "short_work") == 1

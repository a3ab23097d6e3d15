"""The thread of a queued run when its turn comes: calls that were at work, questions, and calls of the client's.

SEED plays a failure again; INTERLEAVINGS plays so many conversations.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import orjson
import pytest

from karma.agents.domain import MultitaskStrategy
from karma.conversations.domain import Message, Thread, ToolCall
from karma.conversations.history import STOPPED
from karma.core.errors import AppError, ValidationFailed
from karma.core.ids import RunId
from karma.mcp.domain import call_name
from karma.runs.domain import LEASE, RunKey, RunStatus
from karma.runs.effects import Acting, acting, effects_of
from karma.runs.interrupts import AnswerStatus
from karma.runs.replay import read
from karma.runs.watchdog import GIVE_UP_AFTER, Inspector
from tests.support.agui import verify
from tests.support.agui_client import HeldMessages
from tests.support.lost_runs import THREAD, Life
from tests.support.run_world import user
from tests.support.talks import FRONTEND, USER, Plan, Talk

INTERLEAVINGS = int(os.environ.get("INTERLEAVINGS") or 36)


@pytest.fixture(autouse=True)
def _runs_that_listen_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


class TestItsTurn:
    def test_finds_the_result_of_a_call_that_was_at_work_when_it_was_asked_for(self) -> None:
        talk = Talk([("again", "1"), ("look", "2")])
        talk.at_work = lambda: talk.say("and then?")
        talk.say("move it")
        talk.execute()

        assert talk.results() == [("c1", talk.made["c1"]), ("c2", talk.made["c2"])]
        assert " ".join(each.role for each in talk.branch()) == "user assistant tool tool assistant user assistant"

    def test_brings_the_result_of_a_call_of_the_client_and_leaves_what_is_asked_beside_it_open(self) -> None:
        talk = Talk([("look", "1"), ("again", "ask"), (FRONTEND, "x")])
        talk.at_work = lambda: talk.give("c3")
        first = talk.say("move it")
        talk.execute()

        assert talk.status(first) is RunStatus.FINISHED
        assert talk.status(replace(first, key=RunKey(USER, RunId("r2")))) is RunStatus.INTERRUPTED
        assert talk.results() == [("c1", talk.made["c1"]), ("c3", "picked c3")]
        (question,) = talk.open()
        assert question.answer is None
        talk.approve([question])
        talk.execute()
        assert dict(talk.results()) == {**talk.made, **talk.answered}

    def test_keeps_one_result_where_two_bring_it(self) -> None:
        talk = Talk([(FRONTEND, "x"), ("look", "1")])

        def twice() -> None:
            talk.give("c1")
            talk.give("c1")

        talk.at_work = twice
        talk.say("pick")
        talk.execute()
        assert sorted(talk.results()) == [("c1", "picked c1"), ("c2", talk.made["c2"])]
        assert talk.active() == []

    def test_behind_a_paused_run_comes_after_its_results(self) -> None:
        talk = Talk([("again", "1")], [("look", "2")])

        def paused() -> None:
            talk.control(Life(None)).pause(USER, RunId("r1"))
            talk.say("and then?")

        talk.at_work = paused
        first = talk.say("move it")
        talk.execute()
        assert talk.status(first) is RunStatus.PAUSED
        talk.settle()
        assert talk.results() == [("c1", talk.made["c1"]), ("c2", talk.made["c2"])]

    def test_an_answer_is_not_spent_on_a_call_that_the_conversation_has_left_behind(self) -> None:
        """As it was stored before a turn passed questions over."""
        talk = Talk([("again", "ask")])
        talk.say("move it")
        talk.execute()
        thread = talk.store.thread(THREAD)
        more = (Message(id="u2", role="user", content="Well?"), Message(id="a2", role="assistant", content="Well."))
        size = thread.next_message + len(more)
        talk.store.threads[THREAD] = replace(thread, messages=(*thread.messages, *more), next_message=size)
        (question,) = talk.open()
        with pytest.raises(ValidationFailed):
            talk.approve([question])
        assert [each.answer for each in talk.open()] == [None]
        assert talk.active() == []

    @pytest.mark.parametrize("ends", ["cancelled", "given up"])
    def test_tells_once_of_a_call_whose_process_was_lost(self, ends: str) -> None:
        talk = Talk([("ask", "1")])
        life = Life(None)

        def dies() -> None:
            talk.say("and then?")
            life.left = 1

        talk.at_work = dies
        first = talk.say("move it")
        talk.execute(lambda: life)
        assert talk.status(first) is RunStatus.RUNNING
        if ends == "cancelled":
            talk.clock.pass_by(LEASE * 2)
            talk.control(Life(None)).cancel(USER, first.key.run_id)
        else:
            talk.clock.pass_by(LEASE + GIVE_UP_AFTER)
            Inspector(talk.store, talk.executions, talk.clock).look(first.key)
            Inspector(talk.store, talk.executions, talk.clock).look(RunKey(USER, RunId("r2")))
        talk.execute()
        assert talk.results() == [("c1", STOPPED)]
        assert talk.active() == []

    def test_shows_a_client_that_holds_its_new_message_alone_the_conversation_in_order(self) -> None:
        talk = Talk([("look", "1")], (), [("look", "2")])
        talk.say("one")
        talk.execute()
        talk.at_work = lambda: talk.request(user("three", "u3"), strategy=MultitaskStrategy.ENQUEUE)
        talk.say("two")
        talk.execute()

        client = HeldMessages([{"id": "u3", "role": "user", "content": "three"}])
        segments = read(talk.store, RunKey(USER, RunId("r3")), after=0, limit=10**6, link=list)
        events = [orjson.loads(data) for segment in segments for data in segment.events]
        verify(events)
        for event in events:
            client.take(event)
        assert [each["id"] for each in client.messages] == [each.id for each in talk.branch()]


class TestEffects:
    @pytest.mark.parametrize("status", ["succeeded", "failed"])
    def test_are_calls_of_tools_that_act_and_of_all_mcp_tools(self, status: str) -> None:
        tools = Talk().tools(Life(None))
        tools = [replace(each, permission="device:control") if each.name == "again" else each for each in tools]
        calls = [
            ("c1", "again"),
            ("c2", "look"),
            ("c3", call_name("notes", "add")),
            ("c4", call_name("my notes!", "x" * 80)),
        ]
        calls += [("c5", "pick"), ("c6", "client__pick"), ("c7", call_name("notes", "open"))]
        said = Message(id="a", role="assistant", tool_calls=tuple(ToolCall(*each, "{}") for each in calls))
        failed = status == "failed"
        given = [Message(id=i, role="tool", tool_call_id=i, failed=failed) for i, _ in calls if i != "c7"]

        thread = Thread(key=THREAD, messages=(said, *given), next_message=1 + len(given))
        of = Acting(frozenset({"again"}), frozenset({"pick", "client__pick"}))
        assert acting(tools, []).names == of.names
        found = effects_of(thread, range(thread.next_message), of)
        assert [(each.tool_call_id, each.status) for each in found] == [(i, status) for i in ("c1", "c3", "c4")]


class Party:
    """A client, its user, processes that die, and what the dice have them do."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.talk = Talk(plan=self._plan)
        self.lost: set[str] = set()

    def _plan(self) -> Plan:
        if self.dice.random() < 0.45:
            return ()
        kinds = [("again", "1"), ("look", "2"), ("ask", "3"), ("again", "ask"), (FRONTEND, "x")]
        return [self.dice.choice(kinds) for _ in range(self.dice.randint(1, 3))]

    def _life(self) -> Life:
        return (
            Life(self.dice.randint(1, 25), after=self.dice.random() < 0.5) if self.dice.random() < 0.25 else Life(None)
        )

    def _pending(self) -> list[str]:
        given = {each.tool_call_id for each in self.talk.branch() if each.role == "tool"}
        calls = [call for each in self.talk.branch() for call in each.tool_calls if call.name == FRONTEND]
        return [call.id for call in calls if call.id not in given and call.id not in self.talk.answered]

    def _happens(self) -> None:
        """Do something that comes from outside; what is refused changes nothing."""
        talk, dice = self.talk, self.dice
        with suppress(AppError):
            match dice.choice(["say", "say", "give", "pause", "interrupt", "approve"]):
                case "say":
                    talk.say("more", dice.choice([MultitaskStrategy.ENQUEUE, MultitaskStrategy.ENQUEUE, None]))
                case "give" if pending := self._pending():
                    talk.give(dice.choice(pending))
                case "pause" if active := talk.active():
                    talk.control(Life(None)).pause(USER, active[0].key.run_id)
                case "interrupt" if talk.at_work is None and not talk.unsure:
                    talk.clock.pass_by(LEASE * 2)
                    talk.say("stop", MultitaskStrategy.INTERRUPT)
                case "approve" if questions := talk.open():
                    talk.approve(questions)
                case _:
                    pass

    def play(self) -> None:
        talk, dice = self.talk, self.dice
        talk.say("begin")
        for _ in range(dice.randint(3, 9)):
            talk.at_work = self._beside if dice.random() < 0.5 else None
            talk.execute(self._life)
            self.lost |= talk.unsure
            talk.unsure.clear()
            talk.at_work = None
            self._happens()
            if dice.random() < 0.3:
                talk.settle()
        talk.rest(dice)

    def _beside(self) -> None:
        for _ in range(self.dice.randint(1, 3)):
            with suppress(AppError):
                if self.dice.random() < 0.3 and (active := self.talk.active()):
                    self.talk.control(Life(None)).pause(USER, active[0].key.run_id)
                else:
                    self.talk.say("meanwhile")


@pytest.mark.parametrize("nth", range(INTERLEAVINGS))
def test_each_call_has_one_result_in_the_branch_and_it_is_the_true_one(nth: int, seed: int) -> None:
    party = Party(seed)
    party.play()
    talk = party.talk

    assert talk.active() == []
    branch = talk.branch()
    given = Counter(each.tool_call_id for each in branch if each.role == "tool")
    waits = {each.awaited.id for each in talk.open()}
    results = {each.tool_call_id: each for each in branch if each.role == "tool"}
    for call in (call for each in branch for call in each.tool_calls):
        if call.name == FRONTEND:
            assert given[call.id] == (call.id in talk.answered), call
            continue
        assert given[call.id] == (call.id not in waits), call
        if call.id in waits:
            assert call.id not in talk.made or call.id in party.lost
            continue
        result = results[call.id]
        if call.id in talk.made and call.id not in party.lost:
            assert result.content == talk.made[call.id]
        elif call.id not in talk.made:
            assert result.failed
    for question in talk.store.interrupts_by_id.values():
        is_approved = question.answer is not None and question.answer.status is AnswerStatus.RESOLVED
        assert question.awaited.id not in talk.made or is_approved or question.awaited.arguments != '{"word":"ask"}'

"""Calls that a person has to approve: what is asked, and what each answer makes of the call."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import orjson
import pytest

from karma.core.errors import AppError, ValidationFailed
from karma.models.ports import StopReason
from karma.runs.answers import interrupt_view
from karma.runs.domain import RunStatus
from karma.runs.events import CURRENT
from karma.runs.interrupts import MAX_INTERRUPTS
from karma.runs.opening import shown
from karma.runs.requests import RunInput
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from tests.fakes.runs import ended, text, tool
from tests.support.effects import verify_effects
from tests.support.run_world import FIND_TOOL, World, asked, spec, user

pytestmark = pytest.mark.usefixtures("no_blocking_calls")

ALWAYS = ApprovalRule(policy=ApprovalPolicy.ALWAYS)


def calls(*words: str, also: list[Any] | None = None) -> list[Any]:
    """Script a turn that calls `echo` with each word, under the ids c1, c2, ..., and other tools."""
    made = [step for i, word in enumerate(words, 1) for step in tool(f"c{i}", "echo", f'{{"word":"{word}"}}')]
    return [*made, *(also or []), *ended(StopReason.TOOL_USE)]


class Approving(World):
    """A world with an agent whose calls of `echo` have to be approved."""

    def __init__(self, *turns: Any, rule: ApprovalRule = ALWAYS) -> None:
        super().__init__(*turns)
        approvals = (ToolApproval(tool="echo", rule=rule),)
        self.agent = self.agents.create(spec(tools=("echo",), approvals=approvals))

    def ask(self, *messages: dict[str, Any], resume: dict[str, Any] | None = None, **more: Any) -> RunInput:
        """Make a request; `resume` has a payload, or None to cancel, by the number of the first run's question."""
        entries = [
            {"interruptId": name, "status": "cancelled"}
            if payload is None
            else {"interruptId": name, "status": "resolved", "payload": payload}
            for name, payload in (resume or {}).items()
        ]
        props = {"agent_id": self.agent.id}
        if entries:
            more["resume"] = entries
        return asked(*messages, forwardedProps=props, **more)

    def results(self) -> list[str]:
        """Return the results of calls in the thread's current branch, in order."""
        thread = self.thread()
        branch = [thread.messages[at] for at in thread.path_to(thread.latest)]
        verify_effects(branch)
        return [str(each.content) for each in branch if each.role == "tool"]

    def held(self) -> list[dict[str, Any]]:
        """Return the messages of the thread as a client holds them."""
        return [dict(shown(message, CURRENT)) for message in self.thread().messages]

    def shown(self) -> list[tuple[str, str]]:
        """Return what the model was shown last."""
        return [(message.role, str(message.content)) for message in self.model.requests[-1].messages]


def open_in(events: list[dict[str, Any]]) -> list[str]:
    """Return the ids of the questions with which a run ends."""
    outcome = events[-1]["outcome"]
    assert outcome["type"] == "interrupt"
    return [each["id"] for each in outcome["interrupts"]]


SAID = '{"said":"hi","to":"Ada"}'
DONE = [*text("Done."), *ended()]


class TestARunThatAsks:
    def test_ends_with_its_question_and_makes_no_call(self) -> None:
        world = Approving(calls("hi"))
        request = world.ask(user("go", "u1"), run="r1")

        events = world.run(request)

        (question,) = events[-1]["outcome"]["interrupts"]
        assert (question["id"], question["reason"], question["toolCallId"]) == ("r1/1", "tool_call", "c1")
        assert question["message"] == "Allow the call of echo?"
        assert question["expiresAt"] == "2026-11-28T12:00:00.000Z"
        assert question["metadata"] == {"toolName": "echo", "arguments": '{"word":"hi"}'}
        schema = question["responseSchema"]
        assert schema["required"] == ["approved"]
        assert schema["properties"]["editedArgs"]["properties"]["word"]["type"] == "string"
        run = world.stored(request)
        assert (run.status, run.interrupt_ids, world.results()) == (RunStatus.INTERRUPTED, ("r1/1",), [])
        assert world.thread().active_run_id is None

    @pytest.mark.parametrize(
        ("rule", "words", "asks"),
        [
            (ApprovalRule(), ("hi",), []),
            (ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.word == 'hi'"), ("hi", "ho"), ["c1"]),
            (ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.word.size() > 2"), ("hi", "hoho"), ["c2"]),
            (ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.nothing == 1"), ("hi",), ["c1"]),
        ],
        ids=["never", "when it holds", "when it holds of another", "when it has no answer"],
    )
    def test_asks_only_what_its_rule_says(self, rule: ApprovalRule, words: tuple[str, ...], asks: list[str]) -> None:
        world = Approving(calls(*words), DONE, rule=rule)

        events = world.run(world.ask(user("go", "u1"), run="r1"))

        told = [event["toolCallId"] for event in events if event["type"] == "TOOL_CALL_RESULT"]
        assert told == [f"c{i}" for i in range(1, len(words) + 1) if f"c{i}" not in asks]
        asked_about = [each["toolCallId"] for each in events[-1]["outcome"].get("interrupts", [])]
        assert asked_about == asks

    def test_does_not_ask_about_arguments_that_the_tool_does_not_take(self) -> None:
        world = Approving([*tool("c1", "echo", '{"wrod":1}'), *ended(StopReason.TOOL_USE)], DONE)

        events = world.run(world.ask(user("go", "u1")))

        assert events[-1]["outcome"] == {"type": "success"}
        assert "Unknown argument" in world.results()[0]

    def test_asks_about_so_many_calls_of_one_turn_and_fails_the_others(self) -> None:
        world = Approving(calls(*["hi"] * (MAX_INTERRUPTS + 2)))

        events = world.run(world.ask(user("go", "u1"), run="r1"))

        assert len(open_in(events)) == MAX_INTERRUPTS
        assert ["Too many calls" in each for each in world.results()] == [True, True]

    @pytest.mark.parametrize(("size", "asks"), [(16_001, 1), (5_000, MAX_INTERRUPTS)], ids=["one", "many"])
    def test_shows_so_much_of_the_arguments_and_says_that_there_is_more(self, size: int, asks: int) -> None:
        world = Approving(calls(*["x" * size] * asks))

        events = world.run(request := world.ask(user("go", "u1"), run="r1"))

        told = [each["metadata"] for each in events[-1]["outcome"]["interrupts"]]
        most = 16_000 if asks == 1 else 4_096
        assert [(len(each["arguments"]), each["argumentsCut"]) for each in told] == [(most, True)] * asks
        stored = world.store.interrupts(world.stored(request).key.user_id, ["r1/1"])["r1/1"]
        view = interrupt_view(stored, now=world.clock.now())
        whole = f'{{"word":"{"x" * size}"}}'
        assert (view["arguments"], view["arguments_cut"]) == (whole[:16_000], len(whole) > 16_000)

    def test_tells_an_older_client_by_the_event_that_such_clients_know(self) -> None:
        world = Approving(calls("hi"))

        events = world.run(world.ask(user("go", "u1"), run="r1", protocolVersion=None))

        assert (events[-2]["type"], events[-2]["name"]) == ("CUSTOM", "on_interrupt")
        assert [each["id"] for each in events[-2]["value"]] == ["r1/1"]
        assert "outcome" not in events[-1]


class TestAnAnswer:
    def test_that_approves_lets_the_call_be_made_once_and_the_model_goes_on(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))

        events = world.run(world.ask(*world.held(), resume={"r1/1": {"approved": True}}, run="r2"))

        assert [event["type"] for event in events if event["type"].startswith("TOOL_CALL")] == ["TOOL_CALL_RESULT"]
        assert events[-1]["outcome"] == {"type": "success"}
        assert world.results() == [SAID]
        assert world.shown() == [("user", "go"), ("assistant", ""), ("tool", SAID)]
        assert world.thread().interrupts == ()

    @pytest.mark.parametrize("messages", [[], [user("go", "u1")]], ids=["alone", "with the history"])
    def test_may_come_with_or_without_the_history(self, messages: list[dict[str, Any]]) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        world.run(world.ask(*messages, resume={"r1/1": {"approved": True}}))
        assert world.results() == [SAID]

    def test_that_refuses_is_told_to_the_model_with_its_reason(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))

        world.run(world.ask(resume={"r1/1": {"approved": False, "reason": "too loud"}}))

        (result,) = world.results()
        assert orjson.loads(result) == {"error": "The user refused this call: it was not made.", "reason": "too loud"}
        assert world.thread().messages[-2].failed

    def test_that_edits_the_arguments_calls_with_those_and_says_so(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))

        world.run(world.ask(resume={"r1/1": {"approved": True, "editedArgs": {"word": "ho"}}}))

        (result,) = world.results()
        told = {"arguments_changed_by_user": {"word": "ho"}, "result": {"said": "ho", "to": "Ada"}}
        assert orjson.loads(result) == told

    def test_that_cancels_is_told_to_the_model(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        world.run(world.ask(resume={"r1/1": None}))
        assert "cancelled this call" in world.results()[0]

    def test_to_some_of_several_leaves_the_others_open_under_their_ids(self) -> None:
        world = Approving(calls("hi", "ho", "hu"), DONE)
        first = world.run(world.ask(user("go", "u1"), run="r1"))

        second = world.run(world.ask(resume={"r1/2": {"approved": True}}, run="r2"))
        assert (open_in(first), open_in(second)) == (["r1/1", "r1/2", "r1/3"], ["r1/1", "r1/3"])
        assert len(world.model.requests) == 1, "the model is asked before all questions are answered"

        last = world.run(world.ask(resume={"r1/3": {"approved": False}, "r1/1": {"approved": True}}, run="r3"))

        assert last[-1]["outcome"] == {"type": "success"}
        results = {m.tool_call_id: m.failed for m in world.thread().messages if m.role == "tool"}
        assert results == {"c1": False, "c2": False, "c3": True}

    def test_without_an_agent_goes_on_with_the_one_that_asked(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))

        answer = [{"interruptId": "r1/1", "status": "resolved", "payload": {"approved": True}}]
        request = asked(user("go", "u1"), resume=answer, run="r2")
        world.run(request)

        assert (world.results(), world.stored(request).agent_id) == ([SAID], world.agent.id)
        again = asked(user("go", "u1"), resume=answer, run="r3")
        assert (_stream(world, again)[0]["runId"], world.stored(again)) == ("r2", None)

    @pytest.mark.parametrize("named", ["karma", "other"])
    def test_with_another_agent_is_refused_by_name_and_spends_nothing(self, named: str) -> None:
        world = Approving(calls("hi"), DONE)
        world.agents.create(spec(name="other", tools=("echo",)))
        world.run(world.ask(user("go", "u1"), run="r1"))

        props = {"agent_id": named}
        answer = [{"interruptId": "r1/1", "status": "resolved", "payload": {"approved": True}}]
        request = asked(resume=answer, forwardedProps=props)
        met = _refused(world, request)

        assert (met.code, met.status) == ("INTERRUPT_OF_ANOTHER_AGENT", 409)
        assert met.details == {"field": "agent_id", "interrupt_id": "r1/1", "agent_id": world.agent.id}
        assert (world.stored(request), world.thread().interrupts) == (None, ("r1/1",))
        world.run(world.ask(resume={"r1/1": {"approved": True}}))
        assert world.results() == [SAID]

    def test_with_another_agent_may_cancel_and_goes_on_with_that(self) -> None:
        world = Approving(calls("hi"), DONE)
        other = world.agents.create(spec(name="other"))
        world.run(world.ask(user("go", "u1"), run="r1"))
        cancel = [{"interruptId": "r1/1", "status": "cancelled"}]
        request = asked(resume=cancel, forwardedProps={"agent_id": "other"})
        world.run(request)
        assert world.stored(request).agent_id == other.id

    def test_the_same_twice_gets_the_answer_of_the_first(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        answer = {"r1/1": {"approved": True}}
        world.run(world.ask(user("go", "u1"), resume=answer, run="r2"))

        again = world.ask(user("go", "u1"), resume=answer, run="r3")
        frames = _stream(world, again)

        assert (world.stored(again), len(world.model.requests)) == (None, 2)
        assert frames[0]["runId"] == "r2"
        assert [each["content"] for each in frames[1]["messages"] if each["role"] == "tool"] == [SAID]

    def test_that_differs_from_the_one_before_is_refused(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        world.run(world.ask(resume={"r1/1": {"approved": True}}, run="r2"))

        for other in ({"approved": False}, None):
            met = _refused(world, world.ask(resume={"r1/1": other}))
            assert (met.code, met.status) == ("INTERRUPT_ANSWERED", 409)
            assert met.details == {"interrupt_id": "r1/1", "run_id": "r2", "status": "resolved"}

    @pytest.mark.parametrize("name", ["r1/2", "r2/1", "r1", "r1/", "r1/x", "/1", "r1/1/1", "r1/٣"])
    def test_to_nothing_that_was_asked_is_refused(self, name: str) -> None:
        world = Approving(calls("hi"))
        world.run(world.ask(user("go", "u1"), run="r1"))
        met = _refused(world, world.ask(resume={name: {"approved": True}}))
        assert (met.code, met.status) == ("INTERRUPT_NOT_FOUND", 404)

    def test_to_a_question_of_another_thread_is_refused(self) -> None:
        world = Approving(calls("hi"))
        world.run(world.ask(user("go", "u1"), run="r1"))
        met = _refused(world, world.ask(user("hello"), thread="t2", resume={"r1/1": {"approved": True}}))
        assert met.code == "INTERRUPT_NOT_FOUND"

    def test_that_comes_too_late_can_only_cancel(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        world.clock.pass_by(timedelta(days=7))

        met = _refused(world, world.ask(resume={"r1/1": {"approved": True}}))
        assert (met.code, met.status) == ("INTERRUPT_EXPIRED", 410)
        world.run(world.ask(resume={"r1/1": None}))
        assert "Nobody approved this call" in world.results()[0]

    @pytest.mark.parametrize(
        ("payload", "field"),
        [
            (True, "payload"),
            ({}, "payload.approved"),
            ({"approved": "yes"}, "payload.approved"),
            ({"approved": False, "reason": 1}, "payload.reason"),
            ({"approved": False, "reason": "x" * 1001}, "payload.reason"),
            ({"approved": True, "more": 1}, "payload.more"),
            ({"approved": True, "editedArgs": {"wrod": "x"}}, "payload.editedArgs"),
            ({"approved": True, "editedArgs": []}, "payload.editedArgs"),
            ({"approved": True, "editedArgs": {"word": "x" * 20_000}}, "payload.editedArgs"),
        ],
    )
    def test_that_is_none_is_named_and_changes_nothing(self, payload: object, field: str) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))

        request = world.ask(resume={"r1/1": payload})
        met = _refused(world, request)

        assert isinstance(met, ValidationFailed)
        assert f"'field': 'resume.0.{field}'" in str(met.details)
        assert world.stored(request) is None
        world.run(world.ask(resume={"r1/1": {"approved": True}}))
        assert world.results() == [SAID]


class TestAUserWhoGoesOn:
    def test_without_an_answer_has_passed_the_question_over(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))

        world.run(world.ask(*world.held(), user("never mind", "u2"), run="r2"))

        assert [role for role, _ in world.shown()] == ["user", "assistant", "tool", "user"]
        assert "went on without answering" in world.results()[0]
        met = _refused(world, world.ask(resume={"r1/1": {"approved": True}}))
        assert (met.code, world.thread().interrupts) == ("INTERRUPT_ANSWERED", ())

    def test_after_a_question_has_expired_is_told_of_that(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        world.clock.pass_by(timedelta(days=8))
        world.run(world.ask(user("hello again", "u2")))
        assert "Nobody approved this call until 2026-11-28" in world.results()[0]

    def test_and_cancels_as_the_stock_client_has_to_is_heard(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        world.run(world.ask(*world.held(), user("never mind", "u2"), resume={"r1/1": None}))
        assert [role for role, _ in world.shown()] == ["user", "assistant", "tool", "user"]
        assert "cancelled this call" in world.results()[0]

    def test_and_approves_in_the_same_request_is_heard_with_both(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        world.run(world.ask(*world.held(), user("quickly", "u2"), resume={"r1/1": {"approved": True}}))
        assert world.results() == [SAID]
        assert "quickly" in str(world.shown())
        assert SAID in str(world.shown())

    def test_who_asks_for_another_answer_leaves_the_question_behind(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        world.run(world.ask(user("go differently", "u1"), run="r2"))
        assert world.shown() == [("user", "go differently")]
        assert world.thread().interrupts == ()
        assert _refused(world, world.ask(resume={"r1/1": {"approved": True}})).code == "INTERRUPT_ANSWERED"

    def test_who_asks_for_another_answer_and_approves_has_to_choose(self) -> None:
        world = Approving(calls("hi"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        met = _refused(world, world.ask(user("go differently", "u1"), resume={"r1/1": {"approved": True}}))
        assert isinstance(met, ValidationFailed)
        assert "not part of the conversation" in met.first
        world.run(world.ask(user("go differently", "u1"), resume={"r1/1": None}))
        assert world.shown() == [("user", "go differently")]

    def test_who_sends_nothing_new_is_asked_again(self) -> None:
        world = Approving(calls("hi"))
        world.run(world.ask(user("go", "u1"), run="r1"))
        again = world.run(world.ask(*world.held(), run="r2"))
        assert open_in(again) == ["r1/1"]
        assert len(world.model.requests) == 1


class TestCallsOfAllKindsInOneTurn:
    def test_are_made_asked_about_and_left_to_the_client(self) -> None:
        rule = ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.word == 'ho'")
        world = Approving(calls("hi", "ho", also=tool("f1", "askUser", "{}")), DONE, rule=rule)

        request = world.ask(user("go", "u1"), tools=[FIND_TOOL], run="r1")
        first = world.run(request)
        assert [event["toolCallId"] for event in first if event["type"] == "TOOL_CALL_RESULT"] == ["c1"]
        assert first[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["f1"]}
        run = world.stored(request)
        assert (run.status, run.pending_tool_call_ids, run.interrupt_ids) == (RunStatus.FINISHED, ("f1",), ("r1/1",))

        answer = {"id": "a1", "role": "tool", "toolCallId": "f1", "content": "blue"}
        second = world.run(world.ask(answer, tools=[FIND_TOOL], run="r2"))
        assert open_in(second) == ["r1/1"]
        assert len(world.model.requests) == 1

        third = world.run(world.ask(resume={"r1/1": {"approved": True}}, tools=[FIND_TOOL], run="r3"))
        assert third[-1]["outcome"] == {"type": "success"}
        shown = [m.tool_call_id for m in world.model.requests[-1].messages if m.role == "tool"]
        assert shown == ["c1", "c2", "f1"]

    def test_whose_questions_are_answered_before_the_client_s_calls_wait_for_those(self) -> None:
        world = Approving(calls("hi", also=tool("f1", "askUser", "{}")), DONE)
        world.run(world.ask(user("go", "u1"), tools=[FIND_TOOL], run="r1"))

        second = world.run(world.ask(resume={"r1/1": {"approved": True}}, tools=[FIND_TOOL], run="r2"))
        assert second[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["f1"]}

        answer = {"id": "a1", "role": "tool", "toolCallId": "f1", "content": "blue"}
        third = world.run(world.ask(answer, tools=[FIND_TOOL]))
        assert third[-1]["outcome"] == {"type": "success"}

    def test_may_be_answered_together(self) -> None:
        world = Approving(calls("hi", also=tool("f1", "askUser", "{}")), DONE)
        world.run(world.ask(user("go", "u1"), tools=[FIND_TOOL], run="r1"))
        answer = {"id": "a1", "role": "tool", "toolCallId": "f1", "content": "blue"}
        last = world.run(world.ask(answer, tools=[FIND_TOOL], resume={"r1/1": {"approved": True}}))
        assert last[-1]["outcome"] == {"type": "success"}
        assert sorted(world.results()) == sorted([SAID, "blue"])


def _stream(world: World, request: RunInput) -> list[dict[str, Any]]:
    return asyncio.run(world.go(request)).events


def _refused(world: World, request: RunInput) -> AppError:
    with pytest.raises(AppError) as met:
        _stream(world, request)
    return met.value

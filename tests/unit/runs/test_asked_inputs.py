"""Tools that ask their user for something after they were called: what is asked, and what each answer makes of it."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from karma.conversations.domain import Json
from karma.core.errors import AppError, ValidationFailed
from karma.core.ids import RunId
from karma.runs.domain import RunKey, RunStatus
from karma.runs.gate import MAX_ASKED_BYTES
from karma.runs.interrupts import Interrupt, Reason
from karma.runs.wishes import Wish
from karma.tools.domain import ApprovalPolicy, ApprovalRule, OnExpiry
from karma.tools.inputs import Form, InputRequest, InputRequired
from karma.tools.toolbox import Tool, ToolContext
from tests.fakes.runs import caller, ended, text, tool
from tests.support.lost_runs import THREAD, Life, Nothing
from tests.support.run_world import ECHO, FIND_TOOL, Echo, World, user
from tests.support.subagents import Delegating, SubagentWorld
from tests.unit.runs.test_interrupted_runs import Approving as Killed
from tests.unit.runs.test_interrupted_runs import Person
from tests.unit.runs.test_interrupts import DONE, Approving, calls, open_in
from tests.unit.runs.test_subagents import asks, kinds, lead, questions, results, says

FORM: Json = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean", "title": "Really?"},
        "size": {"type": "string", "enum": ["small", "large"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
        "colours": {"type": "array", "items": {"type": "string", "enum": ["red", "blue"]}, "maxItems": 1},
    },
    "required": ["ok"],
}
SECRET = "opaque-state"
YES = {"sure": {"action": "accept", "content": {"ok": True}}}
NO: dict[str, dict[str, object]] = {"sure": {"action": "decline"}}


class Shop:
    """A tool that asks before it does something, as often as its word says, and keeps what it is told."""

    def __init__(self, *, padding: int = 0, form: Json = FORM) -> None:
        self.told: list[tuple[str, Json | None]] = []
        self.for_runs: set[str] = set()
        self._padding = padding
        self._form = form

    async def run(self, asked: Echo, context: ToolContext) -> object:
        word, _, times = asked.word.partition(" ")
        given, state = context.given, f"{SECRET} of {context.call_id}"
        self.told.append((asked.word, given.answers if given else None))
        self.for_runs.add(context.run_id)
        rounds = given.rounds if given else 0
        if given is not None and rounds:
            assert given.kept == {"state": f"{state} {rounds - 1}{'x' * self._padding}"}
        if given is None or rounds >= int(times or 0):
            return {"done": word}
        raise InputRequired(
            InputRequest(
                message=f"echo asks: {word}?",
                forms={"sure": Form(message=f"{word}?", schema=self._form)},
                kept={"state": f"{state} {rounds}{'x' * self._padding}"},
            )
        )


class Asking(Approving):
    """A world whose tool asks, and whose agent needs no approval but for what begins with `careful`."""

    def __init__(self, *turns: Any, shop: Shop | None = None, **rule: Any) -> None:
        condition = {"policy": ApprovalPolicy.WHEN, "when": "args.word.startsWith('careful')"}
        super().__init__(*turns, rule=ApprovalRule(**{**condition, **rule}))
        self.shop = shop or Shop()
        self.tools = [replace(ECHO, run=self.shop.run)]


def refused(world: World, request: Any) -> AppError:
    with pytest.raises(AppError) as met:
        asyncio.run(world.go(request))
    return met.value


class TestATool:
    def test_that_asks_ends_the_run_with_its_forms_and_shows_nobody_its_state(self) -> None:
        world = Asking(calls("tea 1", "now"))
        request = world.ask(user("go", "u1"), run="r1")

        events = world.run(request)

        (question,) = events[-1]["outcome"]["interrupts"]
        assert (question["id"], question["reason"], question["toolCallId"]) == ("r1/1", "input_required", "c1")
        assert (question["message"], question["metadata"]) == (
            "echo asks: tea?",
            {"toolName": "echo", "arguments": '{"word":"tea 1"}'},
        )
        assert question["responseSchema"]["required"] == ["sure"]
        sure = question["responseSchema"]["properties"]["sure"]
        assert (sure["description"], sure["properties"]["content"]) == ("tea?", FORM)
        assert question["expiresAt"] == "2026-11-28T12:00:00.000Z"
        assert world.results() == ['{"done":"now"}']
        run = world.stored(request)
        assert (run.status, run.interrupt_ids) == (RunStatus.INTERRUPTED, ("r1/1",))
        assert SECRET not in orjson.dumps(events).decode()
        assert SECRET not in str(world.log(request))

    def test_goes_on_with_the_answer_and_its_state_for_the_run_that_called_it(self) -> None:
        world = Asking(calls("tea 1"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))

        last = world.run(world.ask(*world.held(), resume={"r1/1": YES}, run="r2"))

        assert last[-1]["outcome"] == {"type": "success"}
        assert world.results() == ['{"done":"tea"}']
        assert world.shop.told == [("tea 1", None), ("tea 1", YES)]
        assert world.shop.for_runs == {"r1"}
        assert world.thread().interrupts == ()

    @pytest.mark.parametrize("answer", [NO, {"sure": {"action": "cancel"}}, {"sure": {**NO["sure"], "content": None}}])
    def test_is_told_that_its_user_declines(self, answer: Json) -> None:
        world = Asking(calls("tea 1"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        world.run(world.ask(resume={"r1/1": answer}))
        told: Any = answer["sure"]
        assert world.shop.told[-1] == ("tea 1", {"sure": {"action": told["action"]}})

    def test_may_ask_again(self) -> None:
        world = Asking(calls("tea 3"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        assert open_in(world.run(world.ask(resume={"r1/1": YES}, run="r2"))) == ["r2/1"]
        assert open_in(world.run(world.ask(resume={"r2/1": YES}, run="r3"))) == ["r3/1"]
        assert len(world.model.requests) == 1
        world.run(world.ask(resume={"r3/1": YES}, run="r4"))
        assert (world.results(), world.shop.for_runs) == (['{"done":"tea"}'], {"r1"})

    def test_is_made_for_older_clients_without_anybody_to_ask(self) -> None:
        world = Asking(calls("tea 1"), DONE)
        events = world.run(world.ask(user("go", "u1"), run="r1", protocolVersion=None))
        assert "outcome" not in events[-1]
        assert world.shop.told == [("tea 1", None)]
        assert world.results() == ['{"done":"tea"}']

    def test_that_asks_too_much_in_one_turn_fails(self) -> None:
        world = Asking(calls(*["tea 1"] * 5), DONE, shop=Shop(padding=MAX_ASKED_BYTES // 4))
        events = world.run(world.ask(user("go", "u1"), run="r1"))
        assert open_in(events) == ["r1/1", "r1/2", "r1/3"]
        assert ["Too much is asked for" in each for each in world.results()] == [True, True]

    def test_whose_run_ends_otherwise_meanwhile_has_no_result_but_that(self) -> None:
        world = Asking([*calls("tea 1", "hang")], DONE)

        async def hang(asked: Echo, context: ToolContext) -> object:
            if asked.word == "hang":
                world.store.wish(request_key, Wish.CANCEL, at=world.clock.now())
                await asyncio.Event().wait()
            return await world.shop.run(asked, context)

        world.tools = [replace(ECHO, run=hang, timeout_s=5)]
        request_key = RunKey(caller().user_id, RunId("r1"))
        events = asyncio.run(world.go(world.ask(user("go", "u1"), run="r1"))).events
        assert events[-1]["outcome"]["type"] == "cancelled"
        assert all("error" in orjson.loads(each) for each in world.results()), world.results()
        assert len(world.results()) == 2


class TestAnAnswer:
    @pytest.mark.parametrize(
        ("payload", "field"),
        [
            (True, "payload"),
            ({}, "payload.sure"),
            ({"sure": "yes"}, "payload.sure"),
            ({"sure": {}}, "payload.sure.action"),
            ({"sure": {"action": "agree"}}, "payload.sure.action"),
            ({"sure": {"action": "accept"}}, "payload.sure.content"),
            ({"sure": {"action": "accept", "content": []}}, "payload.sure.content"),
            ({"sure": {"action": "decline", "content": {"ok": True}}}, "payload.sure.content"),
            ({"sure": {"action": "accept", "content": {}}}, "payload.sure.content.ok"),
            ({"sure": {"action": "accept", "content": {"ok": "yes"}}}, "payload.sure.content.ok"),
            ({"sure": {"action": "accept", "content": {"ok": True, "size": "huge"}}}, "payload.sure.content.size"),
            ({"sure": {"action": "accept", "content": {"ok": True, "count": 10}}}, "payload.sure.content.count"),
            (
                {"sure": {"action": "accept", "content": {"ok": True, "colours": ["red", "blue"]}}},
                "payload.sure.content.colours",
            ),
            ({"sure": {"action": "accept", "content": {"ok": True, "more": 1}}}, "payload.sure.content.more"),
            ({"sure": {"action": "accept", "content": {"ok": True, "size": "x" * 20_000}}}, "payload.sure.content"),
            ({**YES, "other": {"action": "decline"}}, "payload.other"),
            ({"sure": {"action": "decline", "why": "no"}}, "payload.sure.why"),
        ],
    )
    def test_that_is_none_is_named_and_changes_nothing(self, payload: object, field: str) -> None:
        world = Asking(calls("tea 1"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))

        request = world.ask(resume={"r1/1": payload})
        met = refused(world, request)

        assert isinstance(met, ValidationFailed)
        assert f"'field': 'resume.0.{field}'" in str(met.details)
        assert (world.stored(request), len(world.shop.told)) == (None, 1)
        world.run(world.ask(resume={"r1/1": YES}))
        assert world.results() == ['{"done":"tea"}']

    def test_the_same_twice_gets_the_answer_of_the_first_and_another_is_refused(self) -> None:
        world = Asking(calls("tea 1"), DONE)
        world.run(world.ask(user("go", "u1"), run="r1"))
        world.run(world.ask(user("go", "u1"), resume={"r1/1": YES}, run="r2"))

        again = world.ask(user("go", "u1"), resume={"r1/1": YES}, run="r3")
        assert asyncio.run(world.go(again)).events[0]["runId"] == "r2"
        assert len(world.shop.told) == 2
        assert refused(world, world.ask(resume={"r1/1": NO})).code == "INTERRUPT_ANSWERED"

    def test_that_cancels_or_is_none_or_comes_too_late_is_told_to_the_model_alone(self) -> None:
        for request, words, days in (
            ({"resume": {"r1/1": None}}, "did not give", 0),
            ({"messages": (user("never mind", "u2"),)}, "went on without giving", 0),
            ({"resume": {"r1/1": None}}, "Nobody gave what this call asked for until 2026-11-28", 8),
        ):
            world = Asking(calls("tea 1"), DONE)
            world.run(world.ask(user("go", "u1"), run="r1"))
            world.clock.pass_by(timedelta(days=days))
            if days:
                assert refused(world, world.ask(resume={"r1/1": YES})).code == "INTERRUPT_EXPIRED"
            more: Any = request
            world.run(world.ask(*more.get("messages", ()), resume=more.get("resume"), run="r2"))
            assert words in world.results()[0]
            assert len(world.shop.told) == 1

    def test_waits_as_long_as_the_rule_of_its_tool_says(self) -> None:
        world = Asking(calls("tea 1"), expires_in_s=60, on_expiry=OnExpiry.REFUSE)
        (question,) = world.run(world.ask(user("go", "u1"), run="r1"))[-1]["outcome"]["interrupts"]
        assert question["expiresAt"] == "2026-11-21T12:01:00.000Z"
        (stored,) = world.store.interrupts_by_id.values()
        assert stored.on_expiry is OnExpiry.REFUSE


class TestCallsOfAllKindsInOneTurn:
    def test_are_approved_asked_about_and_left_to_the_client(self) -> None:
        world = Asking(calls("careful 1", "tea 1", "now", also=tool("f1", "askUser", "{}")), DONE)

        first = world.run(world.ask(user("go", "u1"), tools=[FIND_TOOL], run="r1"))
        assert first[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["f1"]}
        answer = {"id": "a1", "role": "tool", "toolCallId": "f1", "content": "blue"}
        second = world.run(world.ask(answer, tools=[FIND_TOOL], run="r2"))
        asked = {each["toolCallId"]: each for each in second[-1]["outcome"]["interrupts"]}
        assert {name: each["reason"] for name, each in asked.items()} == {"c1": "tool_call", "c2": "input_required"}

        edited = {"approved": True, "editedArgs": {"word": "gentle 1"}}
        third = world.run(world.ask(resume={asked["c1"]["id"]: edited}, tools=[FIND_TOOL], run="r3"))
        reasons = {each["toolCallId"]: each["reason"] for each in third[-1]["outcome"]["interrupts"]}
        assert reasons == {"c1": "input_required", "c2": "input_required"}
        assert len(world.model.requests) == 1

        ids = {each["toolCallId"]: each["id"] for each in third[-1]["outcome"]["interrupts"]}
        last = world.run(world.ask(resume={ids["c1"]: YES, ids["c2"]: NO}, tools=[FIND_TOOL], run="r4"))
        assert last[-1]["outcome"] == {"type": "success"}
        assert world.shop.told[-2:] == [("gentle 1", YES), ("tea 1", NO)]
        made = [each for each in world.thread().messages if each.role == "tool" and each.tool_call_id != "f1"]
        shown = {each.tool_call_id: orjson.loads(str(each.content)) for each in made}
        assert shown["c1"] == {"arguments_changed_by_user": {"word": "gentle 1"}, "result": {"done": "gentle"}}
        assert (shown["c2"], shown["c3"]) == ({"done": "tea"}, {"done": "now"})
        assert world.shop.for_runs == {"r1"}


class TestASubagentsTool:
    def test_asks_as_the_run_does_and_goes_on_within_it(self) -> None:
        shop, world = Shop(), SubagentWorld()
        world.tools = [replace(ECHO, run=shop.run)]
        world.agent("scout", tools=("echo",))
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], [*text("Found."), *ended()])
        world.script("scout", [*says("tea 2", "s1"), *says("now", "s2"), *ended()], [*text("It is there."), *ended()])

        first = world.run(lead(user("go", "u1")))
        (question,) = questions(first)
        assert (question["reason"], question["toolCallId"]) == ("input_required", "s1")
        assert kinds(first) == ["STARTED", "FINISHED"]
        assert question["subagentRunId"]
        second = world.run(lead(run="r2", resume={question["id"]: YES}))
        (again,) = questions(second)
        last = world.run(lead(run="r3", resume={again["id"]: YES}))

        assert last[-1]["outcome"] == {"type": "success"}
        assert results(world) == [("It is there.", False)]
        assert shop.told == [("tea 2", None), ("now", None), ("tea 2", YES), ("tea 2", YES)]


class Forms(Killed):
    """A world of processes that die, whose tools ask: one of them twice, and only then do they anything."""

    def tools(self, life: Life) -> list[Tool]:
        return [replace(tool, approval=ApprovalRule(), run=self._asking(tool, life)) for tool in super().tools(life)]

    def _asking(self, tool: Tool, life: Life) -> Callable[[Any, ToolContext], Any]:
        async def run(arguments: Nothing, context: ToolContext) -> object:
            life.before()
            given = context.given
            assert given is not None
            rounds = {"again": 2, "ask": 1, "look": 1}[tool.name]
            if given.rounds < rounds:
                life.afterwards()
                kept = {"state": f"{context.run_id} {context.call_id} {given.rounds}"}
                forms = {"sure": Form(message="Sure?", schema=FORM)}
                raise InputRequired(InputRequest(message="Sure?", forms=forms, kept=kept))
            assert given.kept == {"state": f"{context.run_id} {context.call_id} {rounds - 1}"}
            assert given.answers == YES
            self.effect(tool.name, f"{context.run_id} {context.call_id}" if tool.name == "again" else context.call_id)
            life.afterwards()
            return {"done": tool.name}

        return run

    def answer(self, question: Interrupt) -> dict[str, Any]:
        if question.reason is Reason.INPUT_REQUIRED:
            return {"interruptId": question.id, "status": "resolved", "payload": YES}
        return super().answer(question)


class FormsOfFamily(Delegating, Forms):
    """As `Forms`, and its agents call each other."""


@pytest.mark.parametrize("made", [Forms, FormsOfFamily], ids=["of a run", "of its subagents, too"])
@pytest.mark.parametrize("nth", range(int(os.environ.get("KILLS") or 15)))
def test_wherever_processes_die_each_answered_call_has_its_effect_once(made: type[Forms], nth: int, seed: int) -> None:
    dice = random.Random(seed)
    expected = made()
    alone = Person(expected, random.Random(seed), 0)
    alone.finish()
    assert len(alone.runs) > 1, "nothing was asked"
    world = made()
    person = Person(world, dice, dice.randint(1, 6))

    last = person.finish()

    assert set(world.effects.values()) <= {1}
    for run in person.runs:
        log = world.store.segments(run.key, after=0, limit=10**6)
        assert [each.terminal for each in log] == [False] * (len(log) - 1) + [True]
    if all(run.status is not RunStatus.FAILED for run in person.runs):
        assert last.status is RunStatus.FINISHED
        assert Counter(name for name, _ in world.effects) == Counter(name for name, _ in expected.effects)
        assert sorted(world.told()) == sorted(expected.told()), "another conversation"
        assert world.store.thread(THREAD).interrupts == ()

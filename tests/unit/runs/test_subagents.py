"""A run whose agent calls other agents: their turns are part of its log, and of nobody's conversation."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from karma.agents.domain import Agent, Subagent
from karma.core.ids import AgentId
from karma.models.budgets import Budget
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelFailed, StopReason, TextDelta
from karma.runs.domain import RunStatus
from karma.runs.events import CURRENT
from karma.runs.interrupts import MAX_INTERRUPTS
from karma.runs.opening import shown
from karma.runs.requests import RunInput
from karma.runs.wishes import Wish
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from tests.fakes.runs import caller, ended, text, tool
from tests.support.run_world import FIND_TOOL, asked, user
from tests.support.subagents import SubagentWorld

ALWAYS = (ToolApproval(tool="echo", rule=ApprovalRule(policy=ApprovalPolicy.ALWAYS)),)
DONE = [*text("Done."), *ended()]
YES = {"approved": True}


def asks(name: str, words: str = "look", call_id: str = "c1") -> list[Any]:
    """Script a call of a subagent."""
    return tool(call_id, name, orjson.dumps({"task": words}).decode())


def says(word: str, call_id: str = "c1") -> list[Any]:
    """Script a call of `echo`."""
    return tool(call_id, "echo", orjson.dumps({"word": word}).decode())


def lead(*messages: dict[str, Any], run: str = "r1", resume: dict[str, Any] | None = None, **more: Any) -> RunInput:
    """Make a request for the agent `lead`; `resume` has payloads by interrupt, None cancels."""
    entries = [
        {"interruptId": name, "status": "cancelled"}
        if payload is None
        else {"interruptId": name, "status": "resolved", "payload": payload}
        for name, payload in (resume or {}).items()
    ]
    props = {"agent_id": "lead", **more.pop("props", {})}
    if entries:
        more["resume"] = entries
    return asked(*messages, run=run, forwardedProps=props, **more)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [each["type"].removeprefix("SUBAGENT_") for each in events if each["type"].startswith("SUBAGENT_")]


def results(world: SubagentWorld) -> list[tuple[str, bool]]:
    thread = world.thread()
    path = [thread.messages[at] for at in thread.path_to(thread.latest)]
    return [(str(each.content), each.failed) for each in path if each.role == "tool"]


def questions(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert events[-1]["outcome"]["type"] == "interrupt"
    return list(events[-1]["outcome"]["interrupts"])


class TestASubagent:
    def test_answers_its_caller_alone(self) -> None:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",), description="Looks around")
        world.agent("lead", "scout")
        world.script("lead", [*text("I ask."), *asks("scout"), *ended()], [*text("Found."), *ended()])
        world.script("scout", [*text("Looking."), *says("hi"), *ended()], [*text("It is there."), *ended()])

        events = world.run(lead(user("go", "u1")))

        assert kinds(events) == ["STARTED", "FINISHED"]
        begun = next(each for each in events if each["type"] == "SUBAGENT_STARTED")
        assert (begun["name"], begun["parentToolCallId"], "parentSubagentRunId" in begun) == ("scout", "c1", False)
        said = [(each["delta"], each.get("subagentRunId")) for each in events if each["type"] == "TEXT_MESSAGE_CONTENT"]
        own = begun["subagentRunId"]
        assert said == [("I ask.", None), ("Looking.", own), ("It is there.", own), ("Found.", None)]
        assert [str(each.content) for each in world.thread().messages] == ["go", "I ask.", "It is there.", "Found."]
        # Each is asked with its own prompt and tools; the subagent sees nothing but its task.
        (first, _), (asked_of,) = world.models.by_agent["lead"], world.models.by_agent["scout"][:1]
        assert [each.name for each in first.tools] == ["scout"]
        assert [each.name for each in asked_of.tools] == ["echo"]
        assert [each.content for each in asked_of.messages] == ["look"]
        run = world.stored(lead(user("go")))
        assert (run.status, run.usage["totalTokens"], run.turns) == (RunStatus.FINISHED, 60, 2)
        (scout,) = run.delegated
        assert (scout["calls"], scout["turns"], scout["tokens"]) == (1, 2, 30)
        assert scout["cost_micros"] * 2 == run.cost_micros

    def test_is_not_heard_by_clients_from_before_1_0(self) -> None:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",))
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", [*text("Looking."), *says("hi"), *ended()], [*text("It is there."), *ended()])
        events = world.run(lead(user("go"), protocolVersion=None))
        assert kinds(events) == []
        assert "Looking." not in str(events)
        assert results(world) == [("It is there.", False)]

    def test_s_messages_come_back_with_the_client_s_and_are_left_out(self) -> None:
        world = SubagentWorld()
        world.agent("scout")
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE, DONE)
        world.script("scout", [*text("It is there."), *ended()])
        events = world.run(lead(user("go", "u1")))
        subagent = next(each["subagentRunId"] for each in events if each["type"] == "SUBAGENT_STARTED")
        held = [dict(shown(message, CURRENT)) for message in world.thread().messages]
        theirs = {"id": "x1", "role": "assistant", "content": "It is there.", "subagentRunId": subagent}
        again = world.run(lead(*held[:2], theirs, *held[2:], user("more", "u2"), run="r2"))
        assert "karma.input_ignored" not in str(again)
        assert "MESSAGES_SNAPSHOT" not in str(again)
        assert [str(each.content) for each in world.thread().messages][-2:] == ["more", "Done."]

    def test_calls_others_two_levels_deep_and_two_at_once(self) -> None:
        world = SubagentWorld()
        world.agent("digger")
        world.agent("scout", "digger")
        world.agent("lead", "scout", "digger")
        world.script("lead", [*asks("scout"), *asks("digger", call_id="c2"), *ended()], DONE)
        world.script("scout", [*asks("digger"), *ended()], [*text("scouted"), *ended()])
        world.script("digger", [*text("dug"), *ended()], [*text("dug"), *ended()])
        events = world.run(lead(user("go")))
        begun = [each for each in events if each["type"] == "SUBAGENT_STARTED"]
        by_name = {each["name"]: each for each in begun if "parentSubagentRunId" not in each}
        (below,) = [each for each in begun if "parentSubagentRunId" in each]
        assert below["parentSubagentRunId"] == by_name["scout"]["subagentRunId"]
        assert results(world) == [("scouted", False), ("dug", False)]
        assert len({each["subagentRunId"] for each in begun}) == 3

    def test_has_a_result_as_long_as_a_tool_s(self) -> None:
        world = SubagentWorld()
        world.agent("scout")
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", [*text("x" * 200_000), *ended()])
        world.run(lead(user("go")))
        ((content, failed),) = results(world)
        assert not failed
        assert 1_000 < len(content) < 80_000

    def test_has_no_more_rights_than_its_caller(self) -> None:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",))
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", DONE)
        world.run(lead(user("go"), tools=[FIND_TOOL]))
        names = {each.name for each in world.models.by_agent["scout"][0].tools}
        assert names <= {"echo"}, "a client's tools are the run's own agent's"


class TestASubagentThatFails:
    @pytest.mark.parametrize(
        ("turns", "code"),
        [
            ([[*text("No."), *ended(StopReason.REFUSED)]], "MODEL_REFUSED"),
            ([[*text("x"), *says("a"), *ended(StopReason.MAX_TOKENS)]], "MAX_TOKENS"),
            ([[ModelFailed(ModelErrorCode.MODEL_OVERLOADED)]], "MODEL_OVERLOADED"),
            ([[[TextDelta("half")], ModelFailed(ModelErrorCode.MODEL_REJECTED, usage=Usage(10))]], "MODEL_REJECTED"),
            ([[*says("a"), *ended()], [*says("b"), *ended()]], "MAX_TURNS"),
            ([[*text("x"), *ended(StopReason.CONTEXT_FULL)]], "CONTEXT_WINDOW_EXCEEDED"),
        ],
    )
    def test_is_a_failed_result_and_the_run_goes_on(self, turns: list[Any], code: str) -> None:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",), max_steps=2)
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", *turns)
        events = world.run(lead(user("go")))
        assert kinds(events) == ["STARTED", "ERROR"]
        error = next(each for each in events if each["type"] == "SUBAGENT_ERROR")
        assert error["code"] == code
        ((content, failed),) = results(world)
        assert failed
        assert orjson.loads(content) == {"error": error["message"], "code": code}
        assert world.stored(lead(user("go"))).status is RunStatus.FINISHED

    def test_begins_an_answer_anew_that_broke_off(self) -> None:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",))
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE)
        broken = ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=Usage(10), is_transient=True)
        world.script("scout", [*text("half"), *says("hi")[:2], broken], [*text("It is there."), *ended()])
        world.run(lead(user("go")))
        assert results(world) == [("It is there.", False)]

    def test_was_deleted_is_disabled_or_asked_for_nothing(self) -> None:
        world = SubagentWorld()
        gone = world.agent("scout")
        world.agent("lead", "scout")
        world.agents.delete(gone.id)
        world.script("lead", [*asks("scout"), *asks("scout", " ", "c2"), *ended()], DONE)
        events = world.run(lead(user("go")))
        assert kinds(events) == []
        assert [orjson.loads(content)["code"] for content, _ in results(world)] == ["AGENT_NOT_FOUND", "INVALID_TASK"]

    def test_would_be_its_own_caller_or_too_deep(self) -> None:
        # The catalogue refuses both; two changes at once may come to it.
        world = SubagentWorld()
        names = ["a0", "a1", "a2", "a3", "a4"]
        agents = [world.agent(name) for name in names]
        _call_each_other(world, agents)
        world.script("a0", [*asks("down"), *ended()], DONE)
        world.script("a1", [*asks("down"), *asks("up", call_id="c2"), *ended()], DONE)
        world.script("a2", [*asks("down"), *ended()], DONE)
        world.script("a3", [*asks("down"), *ended()], DONE)
        request = asked(user("go"), run="r1", forwardedProps={"agent_id": "a0"})
        events = world.run(request)
        codes = [
            orjson.loads(each["content"])["code"]
            for each in events
            if each["type"] == "TOOL_CALL_RESULT" and each.get("metadata")
        ]
        assert sorted(codes) == ["SUBAGENTS_TOO_DEEP", "SUBAGENT_CYCLE"]


def _call_each_other(world: SubagentWorld, agents: list[Agent]) -> None:
    """Store agents that call the next one `down`, and the one before `up`, without the catalogue's checks."""
    for i, agent in enumerate(agents):
        near = [("down", i + 1), ("up", i - 1)]
        found = [(name, agents[at].id) for name, at in near if 0 <= at < len(agents)]
        called = tuple(Subagent(agent_id=AgentId(each), name=name, description="") for name, each in found)
        store: Any = world.agents._store
        store.agents[agent.id] = replace(agent, spec=replace(agent.spec, subagents=called))


class Approving(SubagentWorld):
    """A lead with a scout whose calls of `echo` have to be approved."""

    def __init__(self, *, below: bool = False) -> None:
        super().__init__()
        if below:
            self.agent("digger", tools=("echo",), approvals=ALWAYS)
            self.agent("scout", "digger")
        else:
            self.agent("scout", tools=("echo",), approvals=ALWAYS)
        self.agent("lead", "scout", tools=("echo",))
        self.script("lead", [*asks("scout"), *says("own", "c2"), *ended()], DONE)
        if below:
            self.script("scout", [*asks("digger"), *ended()], [*text("scouted"), *ended()])
            self.script("digger", [*text("May I?"), *says("hi"), *ended()], [*text("dug"), *ended()])
        else:
            self.script("scout", [*text("May I?"), *says("hi"), *ended()], [*text("It is there."), *ended()])


class TestASubagentThatAsks:
    @pytest.mark.parametrize("below", [False, True])
    def test_ends_the_run_with_its_question_and_goes_on_with_the_answer(self, below: bool) -> None:
        world = Approving(below=below)
        events = world.run(lead(user("go", "u1")))
        (question,) = questions(events)
        begun = [each["subagentRunId"] for each in events if each["type"] == "SUBAGENT_STARTED"]
        assert (question["id"], question["subagentRunId"]) == ("r1/1", begun[-1])
        assert question["metadata"] == {"toolName": "echo", "arguments": '{"word":"hi"}'}
        suspended = [each for each in events if each["type"] == "SUBAGENT_FINISHED"]
        assert [each["subagentRunId"] for each in suspended] == begun[::-1]
        assert all(each["outcome"] == {"type": "suspended", "interruptIds": ["r1/1"]} for each in suspended)
        assert results(world) == [('{"said":"own","to":"Ada"}', False)], "what was not asked about is done, once"

        again = world.run(lead(run="r2", resume={"r1/1": YES}))
        assert [each["subagentRunId"] for each in again if each["type"] == "SUBAGENT_STARTED"] == begun
        assert "scouted" in str(again) if below else "It is there." in str(again)
        result = next(each for each in again if each["type"] == "TOOL_CALL_RESULT")
        assert (result["toolCallId"], result["content"]) == (question["toolCallId"], '{"said":"hi","to":"Ada"}')
        told = sorted(content for content, _ in results(world))
        assert told == ["scouted" if below else "It is there.", '{"said":"own","to":"Ada"}']
        run = world.stored(lead(run="r2"))
        assert (run.status, run.turns) == (RunStatus.FINISHED, 1)

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            ({"approved": False, "reason": "no"}, "refused"),
            (None, "cancelled"),
            ({"approved": True, "editedArgs": {"word": "ho"}}, "ho"),
        ],
    )
    def test_is_told_what_was_decided(self, answer: Any, told: str) -> None:
        world = Approving()
        world.run(lead(user("go", "u1")))
        world.run(lead(run="r2", resume={"r1/1": answer}))
        last = world.models.by_agent["scout"][-1].messages[-1]
        assert told in str(last.content)
        assert ("It is there.", False) in results(world)

    def test_is_given_up_when_its_user_goes_on(self) -> None:
        world = Approving()
        world.run(lead(user("go", "u1")))
        held = [dict(shown(message, CURRENT)) for message in world.thread().messages]
        world.run(lead(*held, user("never mind", "u2"), run="r2"))
        assert len(world.models.by_agent["scout"]) == 1
        assert [failed for content, failed in results(world) if "went on" in content] == [True]

    def test_asks_again_about_what_was_not_answered(self) -> None:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",), approvals=ALWAYS)
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", [*says("one"), *says("two", "c2"), *ended()], [*text("Both."), *ended()])
        assert [each["id"] for each in questions(world.run(lead(user("go", "u1"))))] == ["r1/1", "r1/2"]
        assert [each["id"] for each in questions(world.run(lead(run="r2", resume={"r1/1": YES})))] == ["r1/2"]
        world.run(lead(run="r3", resume={"r1/2": YES}))
        assert results(world) == [("Both.", False)]
        told = [str(each.content) for each in world.models.by_agent["scout"][-1].messages if each.role == "tool"]
        assert told == ['{"said":"one","to":"Ada"}', '{"said":"two","to":"Ada"}']

    def test_has_more_to_ask_than_one_turn_may(self) -> None:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",), approvals=ALWAYS)
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout", call_id="c1"), *asks("scout", call_id="c2"), *ended()], DONE)
        turn = [step for i in range(20) for step in says(f"{i}", f"e{i}")]
        world.script("scout", [*turn, *ended()], [*turn, *ended()], [*text("ok"), *ended()], [*text("ok"), *ended()])
        first = questions(world.run(lead(user("go", "u1"))))
        assert len(first) == MAX_INTERRUPTS
        second = questions(world.run(lead(run="r2", resume={each["id"]: YES for each in first})))
        assert len(second) == 40 - MAX_INTERRUPTS
        world.run(lead(run="r3", resume={each["id"]: YES for each in second}))
        assert results(world) == [("ok", False), ("ok", False)]

    def test_may_itself_have_to_be_approved(self) -> None:
        world = SubagentWorld()
        rule = ApprovalRule(policy=ApprovalPolicy.ALWAYS)
        world.agent("scout", tools=("echo",), approvals=ALWAYS)
        world.agent("lead", "scout", approvals=(ToolApproval(tool="scout", rule=rule),))
        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", [*says("hi"), *ended()], [*text("ok"), *ended()])
        (own,) = questions(world.run(lead(user("go", "u1"))))
        assert "subagentRunId" not in own
        (theirs,) = questions(world.run(lead(run="r2", resume={own["id"]: YES})))
        assert "subagentRunId" in theirs
        world.run(lead(run="r3", resume={theirs["id"]: YES}))
        assert results(world) == [("ok", False)]


class TestBudgets:
    def test_of_the_run_stop_it_in_a_subagent_which_goes_on_with_the_answer(self) -> None:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",))
        world.agent("lead", "scout")
        used = Usage(2_000, 500)
        world.script("lead", [*asks("scout"), *ended(usage=used)], DONE)
        world.script("scout", [*says("one"), *ended(usage=used)], [*text("It is there."), *ended()])
        events = world.run(lead(user("go", "u1"), props={"budget": {"max_tokens": 5_400}}))
        (question,) = questions(events)
        assert (question["reason"], question["metadata"]["spent_tokens"]) == ("budget_exceeded", 5_000)
        assert "subagentRunId" not in question
        assert [each["outcome"]["type"] for each in events if each["type"] == "SUBAGENT_FINISHED"] == ["suspended"]
        world.run(lead(run="r2", resume={question["id"]: {"max_tokens": 50_000}}))
        assert results(world) == [("It is there.", False)]
        assert len(world.models.by_agent["scout"]) == 2

    def test_of_its_own_agent_stop_the_subagent_alone(self) -> None:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",), budget=Budget(max_tokens=3_000))
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", [*says("one"), *ended(usage=Usage(2_500, 400))])
        world.run(lead(user("go", "u1")))
        ((content, failed),) = results(world)
        assert (orjson.loads(content)["code"], failed) == ("BUDGET_EXCEEDED", True)
        assert world.stored(lead(user("go"))).status is RunStatus.FINISHED

    def test_of_its_agent_s_day_stop_the_subagent_alone(self) -> None:
        world = SubagentWorld()
        world.agent("scout", day_cost_micros=1)
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.run(lead(user("go", "u1")))
        ((content, _),) = results(world)
        assert orjson.loads(content)["code"] == "BUDGET_EXCEEDED"

    def test_count_in_the_day_of_its_agent_what_it_used(self) -> None:
        world = SubagentWorld()
        scout = world.agent("scout", day_cost_micros=10**9)
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", DONE)
        world.run(lead(user("go", "u1")))
        (used,) = world.stored(lead(user("go"))).delegated
        run = world.stored(lead(user("go")))
        today = world.store.usage.read_day(run.key.user_id, run.created_at)
        assert today.by_agent[scout.id] == used["cost_micros"] > 0
        assert (today.by_agent[run.agent_id], today.total) == (run.cost_micros, run.cost_micros)

    def test_are_not_cut_short_by_calls_that_are_under_way(self) -> None:
        world = SubagentWorld()
        world.agent("scout")
        world.agent("lead", "scout")
        world.script("lead", [*asks("scout"), *asks("scout", call_id="c2"), *ended()], DONE)
        world.script("scout", DONE, DONE)
        world.run(lead(user("go", "u1"), props={"budget": {"max_tokens": 12_000}}))
        assert results(world) == [("Done.", False), ("Done.", False)]
        assert {each.max_tokens for each in world.models.by_agent["scout"]} == {8_192}


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


@pytest.mark.usefixtures("quickly")
class TestAWish:
    @pytest.mark.parametrize("wish", [Wish.CANCEL, Wish.PAUSE])
    def test_stops_a_subagent_s_model_at_once(self, wish: Wish) -> None:
        world = SubagentWorld()
        world.agent("scout")
        world.agent("lead", "scout")
        closed: list[bool] = []

        async def stuck() -> None:
            key = world.stored(lead(user("go"))).key
            world.store.wish(key, wish, at=world.clock.now())
            try:
                await asyncio.Event().wait()
            finally:
                closed.append(True)

        world.script("lead", [*asks("scout"), *ended()], DONE)
        world.script("scout", [*text("half"), stuck], [*text("It is there."), *ended()])
        frames = asyncio.run(asyncio.wait_for(world.go(lead(user("go", "u1"))), 5))
        run = world.stored(lead(user("go")))
        assert closed == [True]
        if wish is Wish.CANCEL:
            assert (run.status, kinds(frames.events)) == (RunStatus.CANCELLED, ["STARTED", "ERROR"])
            assert [failed for _, failed in results(world)] == [True]
        else:
            assert (run.status, kinds(frames.events)) == (RunStatus.PAUSED, ["STARTED"])
            assert results(world) == []
        assert run.key.user_id == caller().user_id

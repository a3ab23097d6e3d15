"""Agents that call others, by the functions that execute runs: real tables, the real SDK, and the model's server."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from agent_stream import services
from karma.agents.domain import Agent, AgentSpec, Subagent
from karma.agents.repository import AgentRepository
from karma.agents.service import Catalogue
from karma.billing.repository.usage import UsageRepository
from karma.core.clock import SystemClock
from karma.core.ids import AgentId, RunId
from karma.runs.domain import RunKey, RunStatus
from karma.runs.ending import resume_paused
from karma.runs.replay import read
from karma.runs.wishes import Wish
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from local.waiting import until
from tests.fakes.runs import events_of
from tests.integration.agent_stream.conftest import Streams
from tests.integration.agent_stream.test_execution import Lost
from tests.support.agui import verify
from tests.support.model_server import message, text, tool_use
from tests.support.stack import Context, SqsEvent

ALWAYS = ApprovalRule(policy=ApprovalPolicy.ALWAYS)
QUERY = json.dumps({"query": "lamp"})


@pytest.fixture
def agents(streams: Streams) -> Catalogue:
    return Catalogue(AgentRepository(), SystemClock(), models=("claude-haiku-5-5",), tools=("searchDatabase",))


@pytest.fixture
def family(agents: Catalogue) -> dict[str, Agent]:
    """Make a lead that calls a scout, whose calls have to be approved."""

    def make(name: str, *called: str, **more: Any) -> Agent:
        named = tuple(Subagent(agent_id=AgentId(each), name="", description="") for each in called)
        prompt = f"You are the {name}."
        return agents.create(
            AgentSpec(name=name, model="claude-haiku-5-5", system_prompt=prompt, subagents=named, **more)
        )

    rule = ToolApproval(tool="searchDatabase", rule=ALWAYS)
    scout = make("scout", tools=("searchDatabase",), approvals=(rule,), day_cost_micros=10**9)
    return {"scout": scout, "lead": make("lead", "scout")}


def answers(request: dict[str, Any]) -> list[bytes]:
    """Answer as each agent does, by its prompt and its turn."""
    prompt = request["system"][0]["text"]
    turn = sum(each["role"] == "assistant" for each in request["messages"])
    if "lead" in prompt:
        if turn:
            return message(text("The scout has looked."))
        return message(
            text("I ask."), tool_use("toolu_1", "scout", json.dumps({"task": "Look for lamps"})), stop_reason="tool_use"
        )
    if turn:
        return message(text("There are none."))
    return message(text("May I?"), tool_use("toolu_1", "searchDatabase", QUERY), stop_reason="tool_use")


def ask(streams: Streams, run: str, **more: Any) -> list[dict[str, Any]]:
    body = {"threadId": "t1", "runId": run, "protocolVersion": "1.0", "messages": []}
    return events_of(streams.run(streams.agent({**body, "forwardedProps": {"agent_id": "lead"}, **more})).data)


def test_a_subagent_asks_and_goes_on_in_the_run_that_answers(streams: Streams, family: dict[str, Agent]) -> None:
    streams.model.choose = answers
    asked = ask(streams, "r1", messages=[{"id": "u1", "role": "user", "content": "Look."}])
    verify(asked)
    (question,) = asked[-1]["outcome"]["interrupts"]
    begun = next(each for each in asked if each["type"] == "SUBAGENT_STARTED")
    assert question["subagentRunId"] == begun["subagentRunId"]

    answer = {"interruptId": question["id"], "status": "resolved", "payload": {"approved": True}}
    assert question["metadata"] == {"toolName": "searchDatabase", "arguments": QUERY}
    answered = ask(streams, "r2", resume=[answer], forwardedProps={})

    verify(answered, held=[question["toolCallId"], begun["parentToolCallId"]])
    results = [each for each in answered if each["type"] == "TOOL_CALL_RESULT"]
    assert [each.get("subagentRunId") for each in results] == [begun["subagentRunId"], None]
    assert results[-1]["content"] == "There are none."
    assert not streams.model.refused
    run = services.run_store().run(RunKey(streams.user_id, RunId("r2")))
    assert run is not None
    (used,) = run.delegated
    assert (run.status, used["agent_id"], used["turns"]) == (RunStatus.FINISHED, family["scout"].id, 1)
    spent = UsageRepository().read_day(streams.user_id, run.created_at)
    first = services.run_store().run(RunKey(streams.user_id, RunId("r1")))
    assert first is not None
    (before,) = first.delegated
    assert spent.by_agent[family["scout"].id] == int(str(used["cost_micros"])) + int(str(before["cost_micros"]))
    (snapshot,) = (each for each in answered if each["type"] == "MESSAGES_SNAPSHOT")
    assert "May I?" in str(snapshot), "the call whose result is told is gone"
    # Who joins is shown what the subagent has said, also before the run.
    joined = events_of(streams.run(streams.make("GET", "/api/v1/runs/r2/events", query="join=true")).data)
    assert "There are none." in str(joined)
    assert "May I?" in str(joined)


def test_a_subagent_that_is_paused_goes_on_in_another_process(
    streams: Streams, family: dict[str, Agent], sqs_event: SqsEvent, lambda_context: Context
) -> None:
    store = services.run_store()
    spec = replace(family["scout"].spec, approvals=())
    services.catalogue().replace(family["scout"].id, spec)
    lost = Lost(streams, sqs_event, lambda_context)
    lost.key = RunKey(streams.user_id, RunId("r1"))

    def is_paused() -> bool:
        run = store.run(lost.key)
        return run is not None and run.status is RunStatus.PAUSED

    def held(request: dict[str, Any]) -> list[bytes]:
        said = answers(request)
        if b"There are none." in b"".join(said) and store.wish(lost.key, Wish.PAUSE, at=datetime.now(UTC)):
            until(is_paused, deadline_s=10, what="the run that hears of it, twice a second", pause_s=0.05)
        return said

    streams.model.choose = held
    begun = ask(streams, "r1", messages=[{"id": "u1", "role": "user", "content": "Look."}])
    assert begun[-1]["name"] == "karma.run_paused"
    assert "There are none." not in str(begun)
    assert lost.status is RunStatus.PAUSED

    run, tail = store.run(lost.key), store.tail(lost.key)
    assert run is not None
    assert tail is not None
    resume_paused(store, tail, run, datetime.now(UTC))
    streams.model.choose = answers
    lost.go_on()

    assert (lost.status, lost.results()) == (RunStatus.FINISHED, ["There are none."])
    whole = [
        orjson.loads(data) for each in read(store, lost.key, after=0, limit=1000, link=list) for data in each.events
    ]
    verify(whole)
    assert [each["type"] for each in whole if each["type"].startswith("SUBAGENT_")] == [
        "SUBAGENT_STARTED",
        "SUBAGENT_FINISHED",
    ]
    shown = [each for each in whole if each["type"] == "MESSAGES_SNAPSHOT"][-1]["messages"]
    assert "May I?" in [each.get("content") for each in shown if "subagentRunId" in each]
    searched = [each for each in streams.model.requests if each["system"][0]["text"] == "You are the scout."]
    assert [len(each["messages"]) for each in searched] == [1, 3, 3], "its first turn was not made again"

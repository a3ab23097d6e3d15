"""Runs of agents from the catalogue: what reaches the model server through the real SDK, and what the run records."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.agents.domain import Agent, AgentSpec
from karma.agents.repository import AgentRepository
from karma.agents.service import Catalogue
from karma.billing.allowances import Metric
from karma.billing.plans import PlanName
from karma.billing.repository.usage import UsageRepository
from karma.core.clock import SystemClock
from karma.core.ids import new_id
from tests.fakes.runs import events_of, types
from tests.integration.agent_stream.conftest import Streams
from tests.support.agui import verify
from tests.support.model_server import message, text, tool_use, unmarked
from tests.support.plans import allowance, take

SPEC = AgentSpec(
    name="Scout",
    model="claude-sonnet-5-5",
    system_prompt="You look, and never touch.",
    tools=("searchDatabase", "readTelemetry"),
    max_steps=2,
)


@pytest.fixture
def agents(streams: Streams) -> Catalogue:
    tools = ("searchDatabase", "controlDevice", "readTelemetry")
    return Catalogue(AgentRepository(), SystemClock(), models=("claude-haiku-5-5", "claude-sonnet-5-5"), tools=tools)


def hello(agent: object, **more: Any) -> dict[str, Any]:
    said = {"id": new_id(), "role": "user", "content": "hi"}
    return {"runId": "r1", "messages": [said], "forwardedProps": {"agent_id": agent}, **more}


def stored_run(streams: Streams) -> dict[str, Any]:
    (run,) = [item for item in streams.items() if item["type"]["S"] == "run"]
    return {name: next(iter(value.values())) for name, value in run.items()}


class TestAnAgentThatIsNamed:
    @pytest.fixture
    def scout(self, agents: Catalogue) -> Agent:
        return agents.create(SPEC)

    @pytest.mark.parametrize("by", ["id", "name"])
    def test_is_what_the_model_gets(self, streams: Streams, scout: Agent, by: str) -> None:
        streams.model.answer(message(text("Hel", "lo")))

        events = events_of(streams.run(streams.agent(hello(scout.id if by == "id" else "scout"))).data)

        verify(events)
        assert types(events)[-1] == "RUN_FINISHED"
        sent = streams.model.requests[0]
        assert sent["model"] == "claude-sonnet-5-5"
        assert unmarked(sent["system"]) == [{"type": "text", "text": "You look, and never touch."}]
        assert {tool["name"] for tool in sent["tools"]} == {"searchDatabase", "readTelemetry"}
        assert not {"temperature", "top_p", "top_k"} & set(sent)
        run = stored_run(streams)
        assert (run["agent_id"], run["agent_version"], run["model"]) == (scout.id, "1", "claude-sonnet-5-5")

    def test_is_the_one_of_now(self, streams: Streams, agents: Catalogue, scout: Agent) -> None:
        agents.replace(scout.id, AgentSpec(name="Scout", model="claude-haiku-5-5", system_prompt="New."))
        streams.model.answer(message(text("Hi")))

        streams.run(streams.agent(hello(scout.id)))

        sent = streams.model.requests[0]
        assert (sent["model"], sent["system"][0]["text"], "tools" in sent) == ("claude-haiku-5-5", "New.", False)
        assert stored_run(streams)["agent_version"] == "2"

    def test_ends_after_its_steps(self, streams: Streams, scout: Agent) -> None:
        for n in range(2):
            call = tool_use(f"c{n}", "searchDatabase", json.dumps({"query": "x"}))
            streams.model.answer(message(call, stop_reason="tool_use"))

        events = events_of(streams.run(streams.agent(hello(scout.id))).data)

        assert events[-1]["code"] == "MAX_TURNS"
        assert len(streams.model.requests) == 2

    def test_may_follow_another_on_the_same_thread(self, streams: Streams, scout: Agent) -> None:
        streams.model.answer(message(text("One")))
        streams.model.answer(message(text("Two")))

        streams.run(streams.agent(hello("karma", threadId="t1")))
        streams.run(streams.agent(hello(scout.id, threadId="t1", runId="r2")))

        first, second = streams.model.requests
        assert (first["model"], second["model"]) == ("claude-haiku-5-5", "claude-sonnet-5-5")
        assert [each["role"] for each in second["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("props", [None, {}, {"agent_id": None}, {"agent_id": "karma"}, [], "x"])
def test_the_built_in_agent_runs_unless_another_is_named(streams: Streams, props: object) -> None:
    streams.model.answer(message(text("Hi")))

    streams.run(streams.agent(hello(None, forwardedProps=props)))

    assert streams.model.requests[0]["model"] == "claude-haiku-5-5"
    assert streams.model.requests[0]["system"][0]["text"].startswith("You are Karma's assistant.")
    assert stored_run(streams)["agent_id"] == "karma"


@pytest.mark.req("R-A-36")
@pytest.mark.parametrize("agent", ["nobody", "01890000-0000-7000-8000-000000000001", "a#b", "\0"])
def test_an_unknown_agent_is_refused_before_the_stream(streams: Streams, agent: str) -> None:
    answer = streams.run(streams.agent(hello(agent)))

    assert answer.status == 404
    assert json.loads(answer.data)["error"]["message"] == f"Agent '{agent}' not found"
    assert (streams.items(), streams.model.requests) == ([], [])


@pytest.mark.parametrize("agent", ["", "x" * 101, 7, True, ["karma"], {"id": "karma"}])
def test_a_value_that_names_no_agent_is_refused_by_its_field(streams: Streams, agent: object) -> None:
    answer = streams.make("POST", "/api/v1/agent", body=hello(agent))
    streams.run(answer)

    assert answer.status == 422
    (wrong,) = json.loads(answer.data)["error"]["details"]
    assert wrong["field"] == "forwardedProps.agent_id"
    assert streams.items() == []


@pytest.mark.fault("F-19a")
class TestARunThatThePlanHasNoRoomFor:
    def test_is_refused_before_its_stream_begins(self, streams: Streams) -> None:
        take(allowance(streams.user_id, PlanName.FREE, at=datetime.now(UTC)).reserve(Metric.RUNS, 200))

        refused = streams.run(streams.make("POST", "/api/v1/agent", body=hello("karma")))

        assert refused.status == 402
        error = json.loads(refused.data)["error"]
        assert error["code"] == "QUOTA_EXCEEDED"
        assert (error["details"]["limit"], error["details"]["plan"]) == ("runs_per_month", "free")
        assert error["details"]["resets_at"] > datetime.now(UTC).isoformat()
        assert streams.items() == []
        assert streams.model.requests == []

    def test_ends_before_the_call_that_it_does_not_cover(self, streams: Streams) -> None:
        call = tool_use("c1", "searchDatabase", json.dumps({"query": "x"}))
        # 10,000 micro-dollars of claude-haiku-5-5; its first call may cost about half of that.
        streams.model.answer(message(call, stop_reason="tool_use", usage={"input_tokens": 60_000}, output_tokens=8_000))
        now = datetime.now(UTC)
        usage = UsageRepository()
        take(allowance(streams.user_id, PlanName.FREE, at=now).reserve(Metric.MODEL_SPEND, 2_000_000 - 10_500))

        events = events_of(streams.run(streams.agent(hello("karma"))).data)

        # A client that names no version cannot be asked.
        assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "QUOTA_EXCEEDED")
        assert len(streams.model.requests) == 1
        taken = {each.metric: each.used for each in usage.read(allowance(streams.user_id, at=now))}
        assert taken[Metric.MODEL_SPEND] == 2_000_000 - 500

"""A conversation that outgrows its model, by the deployed functions' handlers on real tables, from the API's side."""

from __future__ import annotations

import json
from typing import Any

import pytest

from karma.configuration.repository import ConfigurationRepository
from karma.configuration.service import ConfigurationService
from karma.core.clock import SystemClock
from karma.core.ids import UserId
from tests.integration.agent_stream.conftest import Background
from tests.support.agui import verify
from tests.support.model_server import message, text, unmarked
from tests.support.windowed import FACT

MODEL = "claude-haiku-5-5"
RUNS = "/api/v1/runs"
WORDS = "These are words that fill a window. " * 40
QUESTIONS = 9


@pytest.fixture
def window(background: Background) -> int:
    """Give the model a small window, and let its server write records of facts."""
    from agent_stream import services
    from karma.agents.configurable import built_in_components

    configuration = ConfigurationService(
        ConfigurationRepository(),
        SystemClock(),
        built_in=built_in_components(MODEL),
        models=(MODEL,),
        has_agent=lambda _: True,
        on_change=lambda: services.configuration().forget(),
    )
    configuration.put(MODEL, {"context_window": 4_000}, by=UserId("admin"))

    def choose(body: dict[str, Any]) -> list[bytes]:
        said = json.dumps(unmarked(body))
        is_record = body["system"][0]["text"].startswith("You write the record")
        words = " ".join(dict.fromkeys(FACT.findall(said))) if is_record else "Yes."
        return message(text(words), usage={"input_tokens": len(said) // 4})

    background.streams.model.choose = choose
    return 4_000


def test_its_user_sees_all_of_it_and_goes_back_to_all_of_it(background: Background, window: int) -> None:
    runs = []
    for n in range(QUESTIONS):
        _, data, _ = background.call("POST", RUNS, {"message": f"FACT-{n} {WORDS}", "thread_id": "t1"})
        runs.append(data["run"]["id"])
        background.execute()
    requests = background.streams.model.requests
    assert max(len(json.dumps(unmarked(body))) // 4 for body in requests) < window
    assert set(FACT.findall(json.dumps(requests[-1]))) == {f"FACT-{n}" for n in range(QUESTIONS)}

    summarised = [run for run in runs if "karma.compacted" in json.dumps(background.events(run))]
    assert summarised
    events = background.events(summarised[0])
    verify(events)
    (told,) = [event["value"] for event in events if event.get("name") == "karma.compacted"]
    assert told["model"] == MODEL
    _, data, _ = background.call("GET", f"{RUNS}/{summarised[0]}")
    usage = data["run"]["usage"]["inputTokens"]
    assert usage > len(json.dumps(unmarked(requests[-1]))) // 4

    # Nothing of it is missing, and no summary is shown, wherever the conversation is.
    _, data, _ = background.call("GET", "/api/v1/threads/t1")
    roles = ["user", "assistant"] * QUESTIONS
    assert sorted(each["role"] for each in data["messages"]) == sorted(roles)
    _, data, _ = background.call("GET", "/api/v1/threads/t1/export")
    exported = data["export"]["messages"]
    assert [each["message"]["role"] for each in exported] == roles
    assert [each["follows"] for each in exported] == [-1, *(each["position"] for each in exported[:-1])]
    assert "The conversation is longer" not in json.dumps(background.events(runs[-1]))

    # The point before the summary has no summary, the one behind it has.
    _, data, _ = background.call("GET", f"{RUNS}/{summarised[0]}/checkpoints")
    kinds = [each["kind"] for each in data["checkpoints"]]
    point = data["checkpoints"][kinds.index("compaction")]["id"]
    assert shown_to_a_fork(background, point).count("The conversation is longer") == 1
    # The run before it: its end is a point without one.
    before = runs[runs.index(summarised[0]) - 1]
    _, data, _ = background.call("POST", f"{RUNS}/{before}/checkpoints", {"description": "before"})
    whole = shown_to_a_fork(background, data["checkpoint"]["id"])
    assert "The conversation is longer" not in whole


def shown_to_a_fork(background: Background, point: str) -> str:
    """Fork a point, and return what the model was first shown of it."""
    before = len(background.streams.model.requests)
    body = {"modifications": {"message": "And now?"}}
    status, data, _ = background.call("POST", f"/api/v1/checkpoints/{point}/fork", body)
    assert status == 202
    background.execute()
    _, run, _ = background.call("GET", f"{RUNS}/{data['new_run_id']}")
    assert run["run"]["status"] == "finished"
    return json.dumps(background.streams.model.requests[before]["messages"])

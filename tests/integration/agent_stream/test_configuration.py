"""Configuration by admins takes effect on runs: on requests to the model server by the real SDK, and on refusals."""

from __future__ import annotations

from typing import Any

import pytest

from karma.agents.configurable import built_in_components
from karma.configuration.repository import ConfigurationRepository
from karma.configuration.service import ConfigurationService
from karma.core.clock import SystemClock
from karma.core.ids import UserId, new_id
from tests.fakes.runs import events_of, types
from tests.integration.agent_stream.conftest import Streams
from tests.support.model_server import message, text

DEFAULT = "claude-haiku-5-5"
OTHER = "claude-sonnet-5-5"


@pytest.fixture
def configuration(streams: Streams) -> ConfigurationService:
    """Return the API's configuration service; this process caches components as others do."""
    from agent_stream import services

    return ConfigurationService(
        ConfigurationRepository(),
        SystemClock(),
        built_in=built_in_components(DEFAULT),
        models=(DEFAULT, OTHER),
        has_agent=lambda _: True,
        on_change=lambda: services.configuration().forget(),
    )


def hello() -> dict[str, Any]:
    return {"messages": [{"id": new_id(), "role": "user", "content": "hi"}]}


def asked_for(streams: Streams) -> dict[str, Any]:
    streams.model.answer(message(text("Hello")))
    assert types(events_of(streams.run(streams.agent(hello())).data))[-1] == "RUN_FINISHED"
    last: dict[str, Any] = streams.model.requests[-1]
    return last


def put(configuration: ConfigurationService, name: str, **config: Any) -> None:
    configuration.put(name, config, by=UserId("admin"))


def test_a_disabled_tool_is_not_offered_to_new_runs(streams: Streams, configuration: ConfigurationService) -> None:
    assert "controlDevice" in {tool["name"] for tool in asked_for(streams)["tools"]}

    put(configuration, "controlDevice", enabled=False)

    assert {tool["name"] for tool in asked_for(streams)["tools"]} == {"searchDatabase", "readTelemetry", "waitForFile"}


@pytest.mark.parametrize(("name", "told"), [(DEFAULT, f"Model '{DEFAULT}'"), ("karma", "Agent 'karma'")])
def test_a_disabled_model_or_agent_refuses_new_runs(
    streams: Streams, configuration: ConfigurationService, name: str, told: str
) -> None:
    put(configuration, name, enabled=False)
    before = len(streams.items())

    refused = streams.run(streams.agent(hello()))

    assert (refused.status, refused.json["error"]["message"]) == (409, f"{told} is disabled")
    assert len(streams.items()) == before
    assert streams.model.requests == []

    configuration.delete(name, by=UserId("admin"))
    assert asked_for(streams)["model"] == DEFAULT


def test_a_model_is_called_as_it_is_configured(streams: Streams, configuration: ConfigurationService) -> None:
    put(configuration, DEFAULT, model=OTHER, max_tokens=123, temperature=0.1)

    sent = asked_for(streams)

    assert (sent["model"], sent["max_tokens"]) == (OTHER, 123)
    assert "temperature" not in sent
    (run,) = [item for item in streams.items() if item["type"]["S"] == "run"]
    assert run["model"]["S"] == OTHER

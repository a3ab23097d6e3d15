"""Turns that the API pauses for tools which it runs itself, and answers that it refuses: real client, real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from karma.core import secrets
from karma.core.clock import monotonic
from karma.integrations.anthropic import AnthropicModel
from karma.models.domain import ANTHROPIC
from karma.models.router import RoutedModel
from tests.support.model_server import ModelServer, message, searched, text, tool_use, unmarked
from tests.support.run_world import World, asked, spec, user


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    monkeypatch.setitem(secrets._kept, "secret", (monotonic() + 3600, {"api_key": "sk-test"}))
    with ModelServer() as running:
        yield running
        assert running.refused == []


def world(server: ModelServer) -> World:
    made = World()
    made.model = RoutedModel(  # type: ignore[assignment]
        {ANTHROPIC: lambda: AnthropicModel(secret_arn="secret", base_url=server.url)}
    )
    return made


def last(server: ModelServer) -> dict[str, Any]:
    return dict(unmarked(server.requests[-1])["messages"][-1])


def test_a_paused_turn_is_sent_back_as_it_is_and_continued(server: ModelServer) -> None:
    server.answer(message(text("I look. "), *searched("srvtoolu_1", "eos", found=False), stop_reason="pause_turn"))
    server.answer(message(text("More. "), *searched("srvtoolu_2", "eos"), stop_reason="pause_turn"))
    server.answer(message(text("Found it.")))
    made, request = world(server), asked(user("Search it", "u1"))

    events = made.run(request)

    assert events[-1]["outcome"] == {"type": "success"}
    assert [each["messages"][-1]["role"] for each in server.requests] == ["user", "assistant", "assistant"]
    first, second = (unmarked(each)["messages"][-1]["content"] for each in server.requests[1:])
    assert [block["type"] for block in first] == ["text", "server_tool_use"]
    assert first[1]["input"] == {"query": "eos"}
    assert second[: len(first)] == first
    assert [block["type"] for block in second[2:]] == ["text", "server_tool_use", "web_search_tool_result"]
    assert [each.content for each in made.thread().messages] == ["Search it", "I look. ", "More. ", "Found it."]
    assert made.stored(request).turns == 3
    assert events[-1]["usage"][0]["inputTokens"] == 33


def test_a_turn_that_only_searches_is_continued_too(server: ModelServer) -> None:
    server.answer(message(*searched("srvtoolu_1", "eos"), stop_reason="pause_turn"))
    server.answer(message(text("Found it.")))

    events = world(server).run(asked(user("Search it", "u1")))

    assert events[-1]["outcome"] == {"type": "success"}
    assert [block["type"] for block in last(server)["content"]] == ["server_tool_use", "web_search_tool_result"]


def test_it_goes_on_for_as_many_steps_as_the_agent_has_and_the_thread_stays_usable(server: ModelServer) -> None:
    made = world(server)
    made.agents.create(spec(max_steps=3))
    for n in range(3):
        pausing = searched(f"srvtoolu_{n}", "eos", found=n % 2 == 0)
        server.answer(message(text("Again. "), *pausing, stop_reason="pause_turn"))

    events = made.run(asked(user("Search it", "u1"), forwardedProps={"agent_id": "brief"}))

    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "MAX_TURNS")
    assert len(server.requests) == 3
    # Calls whose results never came are not shown again: the API would refuse them.
    server.answer(message(text("Yes.")))
    again = made.run(asked(user("And now?", "u2"), forwardedProps={"agent_id": "brief"}))
    assert again[-1]["outcome"] == {"type": "success"}
    kinds = [block["type"] for block in unmarked(server.requests[-1])["messages"][1]["content"]]
    assert kinds.count("server_tool_use") == kinds.count("web_search_tool_result") == 2


def test_calls_of_ours_beside_a_search_get_their_results_before_it_goes_on(server: ModelServer) -> None:
    call = tool_use("toolu_1", "echo", '{"word":"hi"}')
    server.answer(message(*searched("srvtoolu_1", "eos", found=False), call, stop_reason="tool_use"))
    server.answer(message(text("Done.")))

    events = world(server).run(asked(user("Both", "u1")))

    assert events[-1]["outcome"] == {"type": "success"}
    answered = unmarked(server.requests[-1])["messages"][-2]["content"]
    assert [block["type"] for block in answered] == ["server_tool_use", "tool_use"]
    assert last(server)["content"][0]["type"] == "tool_result"


def test_another_model_is_not_shown_what_the_first_one_searched(server: ModelServer) -> None:
    made = world(server)
    made.agents.create(spec(model="claude-other"))
    server.answer(message(text("I found it. "), *searched("srvtoolu_1", "eos")))
    made.run(asked(user("Search it", "u1")))
    server.answer(message(text("Yes.")))

    made.run(asked(user("Sure?", "u2"), forwardedProps={"agent_id": "brief"}))

    kinds = {block["type"] for each in unmarked(server.requests[-1])["messages"] for block in each["content"]}
    assert kinds == {"text"}


def test_a_refusal_is_told_as_one_and_is_not_kept(server: ModelServer) -> None:
    server.answer(message(text("I would "), stop_reason="refusal"))
    made, request = world(server), asked(user("Do harm", "u1"))

    events = made.run(request)

    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "MODEL_REFUSED")
    assert events[-1]["message"] == "The model declined to answer"
    assert [each.role for each in made.thread().messages] == ["user"]
    assert made.stored(request).cost_micros > 0
    server.answer(message(text("Hello.")))
    assert made.run(asked(user("Hello", "u2")))[-1]["outcome"] == {"type": "success"}

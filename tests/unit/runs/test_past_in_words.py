"""Whatever a model refuses of what was said before: the next words are answered, and none of the newest is left out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from karma.conversations.domain import Message
from karma.conversations.past_in_words import put_in_words
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelEvent, ModelFailed, ModelRequest, StopReason, TextDelta, TurnEnded
from karma.runs.domain import RunStatus
from karma.runs.requests import RunInput
from tests.fakes.agents import catalogue
from tests.fakes.runs import ScriptedModel, ended, text, tool
from tests.support.media import b64, pdf, png
from tests.support.run_world import World, asked, spec, user
from tests.support.windowed import configured

pytestmark = pytest.mark.fault("F-33p")

USED = Usage(10, 5)
THOUGHT: dict[str, Any] = {"type": "thinking", "thinking": "Hm.", "signature": "s"}


class Refusing(ScriptedModel):
    """A model that refuses requests, and answers others as its script says."""

    def __init__(self, refuses: Callable[[ModelRequest], bool], *turns: Any) -> None:
        super().__init__(*turns)
        self._refuses = refuses

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        if self._refuses(request):
            self.requests.append(request)
            raise ModelFailed(ModelErrorCode.MODEL_REJECTED)
        async for batch in super().stream(request):
            yield batch


def kinds(request: ModelRequest) -> set[str]:
    """Return the types of all parts and blocks of a request."""
    parts = [part for each in request.messages if not isinstance(each.content, str) for part in each.content]
    return {str(each["type"]) for each in [*parts, *(block for m in request.messages for block in m.blocks)]}


def part(kind: str, value: bytes = b"") -> dict[str, Any]:
    raw = value or (png() if kind == "image" else pdf())
    mime = "image/png" if kind == "image" else "application/pdf"
    return {"type": kind, "source": {"type": "data", "value": b64(raw), "mimeType": mime}}


def with_medium(kind: str, name: str, value: bytes = b"") -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": "look"}, part(kind, value)]
    return {"id": name, "role": "user", "content": content}


def world(refuses: Callable[[ModelRequest], bool], *turns: Any) -> World:
    made = World()
    made.model = Refusing(refuses, *turns)
    made.configuration = configured(own=100_000, cheap=100_000)
    made.agents = catalogue(tools=("echo",), more_models=("own", "cheap"))
    made.agents.create(spec(tools=("echo",)))
    return made


def ask(*messages: dict[str, Any], run: str = "") -> RunInput:
    return asked(*messages, run=run, forwardedProps={"agent_id": "brief"})


def outcome(events: Sequence[dict[str, Any]]) -> str:
    return str(events[-1].get("code", events[-1]["type"]))


def told(events: Sequence[dict[str, Any]]) -> list[Any]:
    return [each["value"]["messages"] for each in events if each.get("name") == "karma.past_in_words"]


def answer(words: str) -> list[Any]:
    return [*text(words), *ended()]


@pytest.mark.parametrize("kind", ["image", "document"])
def test_a_medium_that_is_refused_costs_its_own_message_alone(kind: str) -> None:
    made = world(lambda request: kind in kinds(request), answer("one"), answer("two"))
    asks = made.model.requests

    assert outcome(made.run(ask(with_medium(kind, "u1")))) == "MODEL_REJECTED"
    assert len(asks) == 1, "nothing stands before it"
    second = made.run(ask(user("go on", "u2"), run="r2"))
    assert (outcome(second), told(second), len(asks)) == ("RUN_FINISHED", [["u1"]], 3)
    third = made.run(ask(user("and on", "u3")))
    assert (outcome(third), told(third), len(asks)) == ("RUN_FINISHED", [], 4), "it is left out at once"

    run = made.stored(ask(run="r2"))
    assert (run.status, run.turns) == (RunStatus.FINISHED, 1)
    assert second[-1]["usage"][0]["inputTokens"] == USED.input_tokens, "a refusal is not paid"
    shown = [part for each in asks[-1].messages if not isinstance(each.content, str) for part in each.content]
    assert f"[{kind} that was here" in str(shown)
    stored = made.thread().messages[0].content
    assert [each["type"] for each in stored] == ["text", kind], "the thread keeps it"


def test_thoughts_that_are_refused_are_left_out() -> None:
    def thinks(words: str) -> list[Any]:
        blocks = [THOUGHT, {"type": "text", "text": words}]
        return [[TextDelta(words)], [TurnEnded(StopReason.END, USED, blocks)]]

    made = world(lambda request: "thinking" in kinds(request), thinks("one"), answer("two"), answer("three"))
    assert outcome(made.run(ask(user("go", "u1")))) == "RUN_FINISHED"
    said = made.thread().messages[1].id
    second = made.run(ask(user("go on", "u2")))
    assert (outcome(second), told(second)) == ("RUN_FINISHED", [[said]])
    assert told(made.run(ask(user("and on", "u3")))) == []
    assert len(made.model.requests) == 4


def test_within_a_run_it_is_asked_once_more_in_all() -> None:
    calls = [*tool("e1", "echo", '{"word":"x"}'), *ended(StopReason.TOOL_USE)]
    made = world(lambda request: "image" in kinds(request), calls, answer("done"))
    made.run(ask(with_medium("image", "u1")))
    events = made.run(ask(user("go on", "u2"), run="r2"))

    assert (outcome(events), told(events)) == ("RUN_FINISHED", [["u1"]])
    assert len(made.model.requests) == 1 + 3
    assert made.stored(ask(run="r2")).turns == 2
    assert [each.past_in_words for each in made.thread().messages if each.role == "assistant"] == [True, True]


def test_the_newest_medium_is_never_passed_over() -> None:
    newest = png(3, 3)
    refused = b64(newest)
    made = world(lambda request: refused in str([each.content for each in request.messages]), answer("a"), answer("b"))
    made.run(ask(with_medium("image", "u1")))
    second = made.run(ask(with_medium("image", "u2", newest)))
    assert (outcome(second), told(second)) == ("MODEL_REJECTED", [["u1"]])
    assert len(made.model.requests) == 3, "asked once more, and no more"
    third = made.run(ask(user("without it", "u3")))
    assert (outcome(third), told(third)) == ("RUN_FINISHED", [["u1", "u2"]])


def test_a_request_that_is_refused_for_anything_else_is_made_twice_at_the_most() -> None:
    is_refused = False
    made = world(lambda _: is_refused, answer("a"))
    made.run(ask(with_medium("image", "u1")))
    is_refused = True
    for n in range(3):
        before = len(made.model.requests)
        assert outcome(made.run(ask(user("go on", f"v{n}")))) == "MODEL_REJECTED"
        assert len(made.model.requests) - before == 2
    assert not any(each.past_in_words for each in made.thread().messages)


def test_an_answer_that_had_begun_is_not_asked_for_again() -> None:
    made = world(lambda _: False, answer("a"), [*text("Half "), ModelFailed(ModelErrorCode.MODEL_REJECTED, usage=USED)])
    made.run(ask(with_medium("image", "u1")))
    assert outcome(made.run(ask(user("go on", "u2")))) == "MODEL_REJECTED"
    assert len(made.model.requests) == 2


def test_another_model_is_shown_all_of_it_and_one_that_has_refused_it_words() -> None:
    targets = {"claude-test", "claude-own"}
    made = world(lambda r: "image" in kinds(r) and r.target.model in targets, *map(answer, "abcd"))
    made.agents.create(spec(name="other", model="own", tools=("echo",)))

    def say(name: str, agent: str) -> list[Any]:
        return told(made.run(asked(user("go on", name), forwardedProps={"agent_id": agent})))

    made.run(ask(with_medium("image", "u1")))
    assert say("u2", "brief") == [["u1"]]
    assert say("u3", "other") == [["u1"]], "it may read what another one does not"
    assert (say("u4", "brief"), say("u5", "other")) == ([], [])
    targets.clear()
    made.model.turns.append(answer("e"))
    made.agents.create(spec(name="third", model="cheap", tools=("echo",)))
    assert say("u6", "third") == []
    assert "image" in kinds(made.model.requests[-1])


def test_what_is_words_stays_as_it_is() -> None:
    blocks = ({"type": "text", "text": "a"}, {"type": "tool_use", "id": "c", "name": "n", "input": {}})
    said = [Message(id="u1", role="user", content="a"), Message(id="a1", role="assistant", content="a", blocks=blocks)]
    assert put_in_words(said, before=2) == (said, [])
    medium = replace(said[0], content=({"type": "image", "source": {}},))
    assert put_in_words([medium, *said], before=0) == put_in_words([medium, *said], before=-1) == ([medium, *said], [])

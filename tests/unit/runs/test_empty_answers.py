"""Turns of a model that say and call nothing: asked for once more, paid, and then a failure by name."""

from __future__ import annotations

import random
from typing import Any

import pytest

from karma.models.domain import Target, Usage
from karma.models.ports import ReasoningDelta, ReasoningEnded, StopReason, TurnEnded
from karma.runs.chat import Chat
from tests.fakes.runs import SetClock, Step, ended, text, tool, types
from tests.support.run_world import World, asked, user
from tests.support.seeds import dice as dice_of
from tests.support.subagents import SubagentWorld

pytestmark = pytest.mark.fault("F-29x")

THOUGHT: list[Step] = [[ReasoningDelta("Hm.")], [ReasoningEnded()]]
DONE = [*text("Done."), *ended()]
OTHER = Target(model="m", provider="openai")


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    return dice_of(request.node.name)


def empty(dice: random.Random, stop: StopReason = StopReason.END) -> list[Step]:
    """Return a turn that is none: of blank text, of reasoning, or of neither."""
    return [*dice.choice([[], text(" ", "\n"), THOUGHT]), [TurnEnded(stop, Usage(10, 2), (), by=OTHER)]]


def calls(*said: str) -> list[Step]:
    return [*text(*said), *tool("c1", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)]


def chat_of(events: list[dict[str, Any]]) -> Chat:
    chat = Chat(SetClock())
    for event in events:
        list(chat.take(event))
    return chat


@pytest.mark.parametrize("stop", [StopReason.END, StopReason.TOOL_USE])
@pytest.mark.parametrize("before", [[], [calls()], [calls("Let me see.")]], ids=["first", "behind a call", "words"])
def test_one_is_asked_for_again_and_paid(before: list[list[Step]], stop: StopReason, dice: random.Random) -> None:
    world = World(*before, empty(dice, stop), DONE)
    request = asked(user("hi"))

    events = world.run(request)

    assert types(events)[-1] == "RUN_FINISHED"
    assert world.thread().messages[-1].content == "Done."
    assert [m.content for m in world.thread().messages].count("") <= len(before), "nothing of it is kept"
    assert world.stored(request).turns == len(before) + 2
    assert world.model.requests[-1].messages == world.model.requests[-2].messages
    usage = {each["model"]: each for each in events[-1]["usage"]}
    assert usage["m"]["outputTokens"] == 2
    assert chat_of(events).response.endswith("Done.")


@pytest.mark.parametrize("before", [[], [calls("Let me see.")]], ids=["first", "behind a call"])
def test_two_end_the_run_by_name(before: list[list[Step]], dice: random.Random) -> None:
    world = World(*before, empty(dice), empty(dice))
    request = asked(user("hi"))

    events = world.run(request)

    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "MODEL_EMPTY_ANSWER")
    assert world.stored(request).error_code == "MODEL_EMPTY_ANSWER"
    chat = chat_of(events)
    assert (chat.is_complete, chat.failure and chat.failure[0]) == (False, "MODEL_EMPTY_ANSWER")
    assert world.thread().active_run_id is None


def test_an_end_that_its_provider_means_is_one_where_all_was_said() -> None:
    world = World(calls("It is on."), [*ended()])
    events = world.run(asked(user("hi")))
    assert (events[-1]["type"], len(world.model.requests)) == ("RUN_FINISHED", 2)
    assert chat_of(events).response == "It is on."
    silent = World(calls(), [*ended()], DONE)
    assert chat_of(silent.run(asked(user("hi")))).response == "Done."


def test_one_that_only_thought_until_its_limit_says_so() -> None:
    world = World([*THOUGHT, *ended(StopReason.MAX_TOKENS)])
    events = world.run(asked(user("hi")))
    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "MAX_TOKENS")
    assert len(world.model.requests) == 1, "it would think as long again"


@pytest.mark.parametrize("nth", [1, 2])
def test_a_subagent_s_result_is_never_empty(nth: int, dice: random.Random) -> None:
    world = SubagentWorld()
    world.agent("scout", tools=("echo",))
    world.agent("lead", "scout")
    world.script("lead", [*tool("c1", "scout", '{"task":"look"}'), *ended(StopReason.TOOL_USE)], DONE)
    world.script("scout", *[empty(dice)] * nth, [*text("Found it."), *ended()])

    world.run(asked(user("go"), forwardedProps={"agent_id": "lead"}))

    (result,) = [each for each in world.thread().messages if each.role == "tool"]
    assert result.failed == (nth == 2)
    assert ("MODEL_EMPTY_ANSWER" if nth == 2 else "Found it.") in str(result.content)


def test_a_subagent_that_had_said_all_before_its_call_has_said_it() -> None:
    world = SubagentWorld()
    world.agent("scout", tools=("echo",))
    world.agent("lead", "scout")
    world.script("lead", [*tool("c1", "scout", '{"task":"look"}'), *ended(StopReason.TOOL_USE)], DONE)
    called = [*text("It is on."), *tool("c2", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)]
    world.script("scout", called, [*ended()])

    world.run(asked(user("go"), forwardedProps={"agent_id": "lead"}))

    assert [each.content for each in world.thread().messages if each.role == "tool"] == ["It is on."]

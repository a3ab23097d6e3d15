"""Answers that a subagent's caller gets, and its own calls, where something is wrong with them."""

from __future__ import annotations

import orjson

from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelFailed, StopReason
from karma.runs.subagents.steps import CUT
from tests.fakes.runs import ended, text, tool
from tests.support.agui import verify
from tests.support.run_world import asked, user
from tests.support.subagents import SubagentWorld

CALLS = tool("c1", "scout", '{"task":"look"}')
DONE = [*text("Done."), *ended()]


def test_whose_answer_was_cut_off_tells_its_caller_so() -> None:
    said = "The first half of the answ"
    world = SubagentWorld()
    world.agent("scout")
    world.agent("lead", "scout")
    world.script("lead", [*CALLS, *ended()], DONE)
    world.script("scout", [*text(said), *ended(StopReason.MAX_TOKENS)])

    events = world.run(asked(user("go"), forwardedProps={"agent_id": "lead"}))

    verify(events)
    (result, failed), *_ = [(each.content, each.failed) for each in world.thread().messages if each.role == "tool"]
    assert (result, failed) == (f"{said}\n\n{CUT}", False)
    assert world.models.by_agent["lead"][1].messages[-1].content == result
    (finished,) = [each for each in events if each["type"] == "SUBAGENT_FINISHED"]
    assert finished["result"] == {"stopReason": "max_tokens"}


def test_that_calls_a_name_which_no_api_takes_is_told_so() -> None:
    world = SubagentWorld()
    world.agent("scout", tools=("echo",))
    world.agent("lead", "scout")
    world.script("lead", [*CALLS, *ended()], DONE)
    world.script("scout", [*tool("c2", "srv.echo"), *ended(StopReason.TOOL_USE)], DONE)

    world.run(asked(user("go"), forwardedProps={"agent_id": "lead"}))

    told = world.models.by_agent["scout"][1].messages[-1]
    assert orjson.loads(str(told.content)) == {"error": "Unknown tool: srv.echo", "tools": ["echo"]}


def test_an_answer_that_broke_off_and_was_asked_for_again_is_two_calls_and_one_step() -> None:
    cut = ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=Usage(10), is_transient=True)
    world = SubagentWorld()
    world.agent("scout", max_steps=1)
    world.agent("lead", "scout")
    world.script("lead", [*CALLS, *ended()], DONE)
    world.script("scout", [*text("Half"), cut], DONE)

    events = world.run(asked(user("go"), forwardedProps={"agent_id": "lead"}))

    assert events[-1]["type"] == "RUN_FINISHED"
    (run,) = world.store.runs_by_key.values()
    assert [each["turns"] for each in run.delegated] == [2]
    assert [str(each.content) for each in world.thread().messages if each.role == "tool"] == ["Done."]

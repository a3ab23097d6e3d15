"""Answers of a model that break off: they are withdrawn, paid for, and asked for again, a few times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.billing.allowances import Metric, period_of
from karma.billing.plans import PlanName
from karma.models.domain import ModelErrorCode, Target, Usage
from karma.models.ports import ModelFailed, StopReason
from karma.models.prices import cost
from karma.runs.domain import RunKey
from karma.runs.replay import read
from tests.fakes.runs import Step, caller, ended, text, tool, types
from tests.support.run_world import World, asked, merged, spec, user

pytestmark = pytest.mark.fault("F-09b")

CUT = ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=Usage(10), is_transient=True)
HALVES: dict[str, list[Step]] = {
    "text": text("Half an ans"),
    "a call": tool("c1", "echo", '{"wo')[:2],
    "text and a call": [*text("Let me see."), *tool("c1", "echo", '{"word":"a"}')],
    "a call and text": [*tool("c1", "echo", '{"word":"a"}'), *text("And")],
    "nothing": [],
}
WHOLE = [*text("Whole"), *ended(usage=Usage(10, 5))]


def screen(events: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return what a client shows in the end: role and text of each message, without those that were withdrawn."""
    shown: dict[str, tuple[str, str]] = {}
    for event in events:
        if event["type"] == "MESSAGES_SNAPSHOT":
            shown = {each["id"]: (each["role"], str(each.get("content") or "")) for each in event["messages"]}
        elif event["type"] == "TEXT_MESSAGE_START":
            shown[event["messageId"]] = ("assistant", "")
        elif event["type"] == "TEXT_MESSAGE_CONTENT":
            role, said = shown[event["messageId"]]
            shown[event["messageId"]] = (role, said + event["delta"])
    return list(shown.values())


@pytest.mark.parametrize("half", list(HALVES))
def test_half_an_answer_is_withdrawn_and_a_whole_one_follows(half: str) -> None:
    world = World([*HALVES[half], CUT], WHOLE)
    request = asked(user("hi", "u1"))

    events = world.run(request)

    assert types(events)[-1] == "RUN_FINISHED"
    assert screen(events) == [("user", "hi"), ("assistant", "Whole")]
    assert [(each.role, each.content) for each in world.thread().messages] == [("user", "hi"), ("assistant", "Whole")]
    assert world.stored(request).turns == 2, "both calls were made, and are paid"
    assert list(world.model.requests[0].messages) == list(world.model.requests[1].messages)


def test_whoever_attaches_sees_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([*HALVES["text and a call"], CUT], WHOLE)
    request = asked(user("hi", "u1"))
    key = RunKey(caller().user_id, request.run_id)

    events = world.run(request)

    log = read(world.store, key, after=0, limit=100, link=lambda messages: list(messages))
    replayed = [orjson.loads(data) for segment in log for data in segment.events]
    assert merged(replayed) == merged(events)


def test_half_an_answer_is_paid_as_all_that_it_may_have_been() -> None:
    world = World([*text("Half"), CUT], WHOLE)
    request = asked(user("hi"))

    world.run(request)

    now, target = world.clock.now(), Target(model="claude-test")
    spent = cost(Usage(10, 8192), target, now) + cost(Usage(10, 5), target, now)
    assert world.stored(request).cost_micros == spent
    taken = world.store.usage.taken[caller().user_id, Metric.MODEL_SPEND, period_of(Metric.MODEL_SPEND, now)]
    assert taken == spent


def test_an_answer_that_breaks_off_again_and_again_ends_the_run() -> None:
    world = World(*[[*text("Half"), CUT]] * 3, WHOLE)

    events = world.run(asked(user("hi", "u1")))

    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "MODEL_STREAM_CUT")
    assert len(world.model.requests) == 3
    assert screen(events) == [("user", "hi")], "a client has what the thread has"
    assert [each.role for each in world.thread().messages] == ["user"]
    assert [(run.turns, run.steps) for run in world.store.runs_by_key.values()] == [(3, 0)]


@pytest.mark.parametrize(
    "failure",
    [
        ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=Usage(10)),  # no protocol: it would be the same again
        ModelFailed(ModelErrorCode.MODEL_OVERLOADED, is_transient=True),  # it was repeated already
        ModelFailed(ModelErrorCode.MODEL_REJECTED, usage=Usage(10)),
    ],
)
def test_what_would_be_the_same_again_is_not_asked_again(failure: ModelFailed) -> None:
    world = World([*text("Half"), failure], WHOLE)

    events = world.run(asked(user("hi", "u1")))
    assert events[-1]["type"] == "RUN_ERROR"
    assert screen(events) == [("user", "hi")]
    assert len(world.model.requests) == 1


@pytest.mark.parametrize(
    ("stop", "shown"),
    [(StopReason.CONTEXT_FULL, [("user", "hi")]), (StopReason.REFUSED, [("assistant", "Half")])],
)
def test_an_answer_that_is_not_kept_is_withdrawn_unless_it_tells_why(
    stop: StopReason, shown: list[tuple[str, str]]
) -> None:
    world = World([*text("Half"), *ended(stop)])
    events = world.run(asked(user("hi", "u1")))
    assert events[-1]["type"] == "RUN_ERROR"
    assert screen(events) == shown
    assert [each.role for each in world.thread().messages] == ["user"]


def test_a_failure_behind_whole_turns_withdraws_nothing_of_them() -> None:
    calling = [*text("Look."), *tool("c1", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)]
    world = World(calling, [*text("Half"), ModelFailed(ModelErrorCode.MODEL_REJECTED, usage=Usage(10))])
    events = world.run(asked(user("hi", "u1")))
    assert events[-1]["code"] == "MODEL_REJECTED"
    assert [said for role, said in screen(events) if role == "assistant"] == ["Look."]
    assert [each.role for each in world.thread().messages] == ["user", "assistant", "tool"]


def test_who_is_cancelled_or_fails_between_answers_shows_nothing_anew() -> None:
    world = World([ModelFailed(ModelErrorCode.MODEL_REJECTED)])
    assert "MESSAGES_SNAPSHOT" not in types(world.run(asked(user("hi", "u1"))))


def test_who_cannot_pay_for_another_answer_gets_none() -> None:
    world = World([*text("Half"), CUT], WHOLE)
    world.plan = PlanName.FREE
    bound_of_two = 2 * 8192 * 50
    world.store.usage.taken[caller().user_id, Metric.MODEL_SPEND, period_of(Metric.MODEL_SPEND, world.clock.now())] = (
        2_000_000 - bound_of_two
    )

    events = world.run(asked(user("hi")))

    assert events[-1]["outcome"]["interrupts"][0]["reason"] == "budget_exceeded"
    assert len(world.model.requests) == 1
    assert [run.turns for run in world.store.runs_by_key.values()] == [1]


def test_an_answer_that_breaks_off_takes_no_step_of_the_agent() -> None:
    calling = [*tool("c1", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)]
    world = World([*text("Half"), CUT], calling, [*text("Half"), CUT], WHOLE)
    world.agents.create(spec(tools=("echo",), max_steps=2))
    request = asked(user("hi"), forwardedProps={"agent_id": "brief"})

    assert types(world.run(request))[-1] == "RUN_FINISHED"
    assert world.stored(request).turns == 4


def test_a_call_whose_turn_was_withdrawn_is_not_made_and_its_id_not_used_again() -> None:
    again = [*tool("c1", "echo", '{"word":"b"}'), *ended(StopReason.TOOL_USE)]
    world = World([*tool("c1", "echo", '{"word":"a"}'), CUT], again, WHOLE)

    events = world.run(asked(user("hi", "u1")))

    starts = [event["toolCallId"] for event in events if event["type"] == "TOOL_CALL_START"]
    results = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert len(set(starts)) == 2
    assert [each["toolCallId"] for each in results] == starts[1:]
    assert '"b"' in results[0]["content"]


_TURNS = st.lists(st.tuples(st.lists(st.sampled_from(list(HALVES)), max_size=2), st.booleans()), min_size=1, max_size=3)


@settings(max_examples=60)
@given(_TURNS)
def test_wherever_answers_break_off_the_conversation_is_that_of_a_model_without_faults(
    turns: list[tuple[list[str], bool]],
) -> None:
    script: list[Any] = []
    plain: list[Any] = []
    for n, (broken, calls) in enumerate(turns):
        whole = [*text(f"turn {n}")]
        if calls:
            whole += [*tool(f"t{n}", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)]
        script += [[*HALVES[half], CUT] for half in broken] + [whole]
        plain.append(whole)
        if not calls:
            whole += ended()
            break
    else:
        script.append(WHOLE)
        plain.append(WHOLE)
    worlds = World(*script), World(*plain)
    outcomes = [world.run(asked(user("hi", "u1")))[-1]["type"] for world in worlds]

    told = [
        [(each.role, each.content, [call.name for call in each.tool_calls]) for each in world.thread().messages]
        for world in worlds
    ]
    assert outcomes == ["RUN_FINISHED"] * 2
    assert told[0] == told[1]

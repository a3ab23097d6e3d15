"""Calls of a model without a run: what they take of the plan, what they say, and which bodies are read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.billing.allowances import Allowances, Metric, period_of
from karma.billing.plans import PlanName, plan_at
from karma.configuration.domain import ComponentUnavailable
from karma.core.errors import Forbidden, InvalidRequest, QuotaExceeded, StorageUnavailable, Upstream, ValidationFailed
from karma.models.domain import ModelErrorCode, Target, Usage
from karma.models.ports import ModelFailed, StopReason
from karma.models.prices import cost, estimate
from karma.runs.direct import DirectCall, DirectCalls
from karma.runs.direct_requests import DirectInput, parse_direct_input
from tests.fakes.configuration import as_built
from tests.fakes.runs import MemoryRuns, ScriptedModel, SetClock, caller, ended, text, tool
from tests.support.media import b64, png

MODEL = Target(model="claude-test")
SPEND = 2_000_000


class Calls:
    """The service, with a scripted model and the free plan."""

    def __init__(self, *turns: Any, store: MemoryRuns | None = None) -> None:
        self.store = store or MemoryRuns()
        self.model = ScriptedModel(*turns)
        self.clock = SetClock()
        self.service = DirectCalls(
            store=self.store,
            model=self.model,
            configuration=as_built(),
            allowances=Allowances(plan_of=lambda _: plan_at(PlanName.FREE, self.clock.now()), clock=self.clock),
            clock=self.clock,
            default="claude-test",
        )

    @property
    def used(self) -> int:
        key = caller().user_id, Metric.MODEL_SPEND, period_of(Metric.MODEL_SPEND, self.clock.now())
        return self.store.usage.taken.get(key, 0)

    def admit(self, asked: DirectInput | None = None) -> DirectCall:
        return asyncio.run(self.service.admit(caller(), asked or read()))

    def make(self, call: DirectCall) -> list[dict[str, Any]]:
        async def collect() -> list[dict[str, Any]]:
            return [event async for events in self.service.events(call) for event in events]

        return asyncio.run(collect())


def body(**more: Any) -> bytes:
    return orjson.dumps({"messages": [{"role": "user", "content": "hi"}], **more})


def read(**more: Any) -> DirectInput:
    return parse_direct_input(body(**{"max_tokens": 100, **more}))


def test_a_call_is_answered_and_counts_as_what_it_costs() -> None:
    calls = Calls(
        [*text("Hel", "lo"), *tool("c1", "find", '{"a"', ":1}"), *ended(StopReason.TOOL_USE, Usage(1000, 50))]
    )

    call = calls.admit(read(tools=[{"name": "find", "description": "Find"}], system="Be brief."))
    assert calls.used == estimate(call.request, calls.clock.now())
    shown = calls.make(call)

    assert [event["type"] for event in shown] == [
        "text",
        "text",
        "tool_call",
        "tool_call_arguments",
        "tool_call_arguments",
        "tool_call_end",
    ]
    answer = call.view()
    assert (answer["content"], answer["stop_reason"]) == ("Hello", "tool_use")
    assert answer["tool_calls"] == [{"id": "c1", "name": "find", "arguments": '{"a":1}'}]
    assert answer["cost_micros"] == calls.used == cost(Usage(1000, 50), MODEL, calls.clock.now())
    assert answer["usage"] == {
        "provider": "anthropic",
        "model": "claude-test",
        "inputTokens": 1000,
        "outputTokens": 50,
        "totalTokens": 1050,
    }
    (sent,) = calls.model.requests
    assert (list(sent.system), [each.name for each in sent.tools], sent.max_tokens) == (["Be brief."], ["find"], 100)


@pytest.mark.parametrize(
    ("known", "output"), [(Usage(), None), (Usage(1000), 100), (Usage(1000, 7), 7)], ids=["nothing", "input", "both"]
)
def test_a_call_that_fails_counts_as_far_as_it_had_begun(known: Usage, output: int | None) -> None:
    calls = Calls([ModelFailed(ModelErrorCode.MODEL_OVERLOADED, usage=known)])

    with pytest.raises(Upstream) as failed:
        calls.make(calls.admit())

    assert (failed.value.status, failed.value.code, failed.value.retryable) == (503, "MODEL_OVERLOADED", True)
    assert calls.used == (cost(replace(known, output_tokens=output), MODEL, calls.clock.now()) if output else 0)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ModelErrorCode.MODEL_REJECTED, 400),
        (ModelErrorCode.CONTEXT_WINDOW_EXCEEDED, 400),
        (ModelErrorCode.MODEL_TIMEOUT, 504),
        (ModelErrorCode.MODEL_STREAM_CUT, 502),
        (ModelErrorCode.MODEL_UNAVAILABLE, 503),
        (ModelErrorCode.MODEL_RATE_LIMITED, 503),
    ],
)
def test_a_failure_has_its_status_and_code(code: ModelErrorCode, status: int) -> None:
    calls = Calls([ModelFailed(code)])

    with pytest.raises((Upstream, InvalidRequest)) as failed:
        calls.make(calls.admit())

    assert (failed.value.status, failed.value.code) == (status, code.value)


def test_a_call_that_is_stopped_counts_as_dear_as_it_may_be() -> None:
    calls = Calls([*text("slow"), lambda: asyncio.Event().wait()])
    call = calls.admit()

    async def stop() -> None:
        async def make() -> None:
            async for _ in calls.service.events(call):
                arrived.set()

        arrived = asyncio.Event()
        task = asyncio.create_task(make())
        await arrived.wait()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(stop())

    assert calls.used == estimate(call.request, calls.clock.now())


def test_who_may_not_or_cannot_pay_calls_nothing() -> None:
    calls = Calls()
    with pytest.raises(Forbidden):
        asyncio.run(calls.service.admit(replace(caller(), email_verified=False), read()))
    with pytest.raises(QuotaExceeded):
        calls.admit(read(max_tokens=64_000))
    with pytest.raises(ComponentUnavailable):
        calls.admit(read(model="gpt-9"))

    assert (calls.used, calls.model.requests) == (0, [])


def test_an_answer_is_given_though_its_correction_could_not_be_written() -> None:
    store = MemoryRuns(fail=lambda name: StorageUnavailable("lost") if name == "settle" else None)
    calls = Calls([*text("Hi"), *ended()], store=store)
    call = calls.admit()

    calls.make(call)

    assert call.view()["content"] == "Hi"
    assert calls.used == estimate(call.request, calls.clock.now())


_OUTCOMES = st.one_of(
    st.builds(Usage, st.integers(0, 20_000), st.integers(0, 100)),  # six of them are within the free plan
    st.sampled_from([ModelFailed(ModelErrorCode.MODEL_OVERLOADED), ModelFailed(ModelErrorCode.MODEL_STREAM_CUT)]),
)


@settings(max_examples=50)
@given(st.lists(_OUTCOMES, max_size=6))
def test_whatever_comes_of_calls_what_is_taken_is_what_they_cost(outcomes: list[Usage | ModelFailed]) -> None:
    turns = [[each] if isinstance(each, ModelFailed) else [*text("Hi"), *ended(usage=each)] for each in outcomes]
    calls = Calls(*turns)
    spent = 0
    for outcome in outcomes:
        call = calls.admit()
        if isinstance(outcome, ModelFailed):
            with pytest.raises(Upstream):
                calls.make(call)
        else:
            calls.make(call)
            spent += cost(outcome, MODEL, calls.clock.now())
    assert calls.used == spent


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"temperature": 1}, "temperature"),
    "model": ({"model": 4}, "model"),
    "long model": ({"model": "x" * 101}, "model"),
    "system": ({"system": ["a"]}, "system"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "many tokens": ({"max_tokens": 64_001}, "max_tokens"),
    "true tokens": ({"max_tokens": True}, "max_tokens"),
    "stream": ({"stream": "yes"}, "stream"),
    "no messages": ({"messages": []}, "messages"),
    "messages": ({"messages": "hi"}, "messages"),
    "role": ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    "an early error": (
        {"messages": [{"role": "user", "content": 4}, {"role": "user", "content": "hi"}]},
        "messages.0.content",
    ),
    "a long message": ({"messages": [{"role": "user", "content": "é" * (128 * 1024 + 1)}]}, "messages.0.content"),
    "an answer alone": ({"messages": [{"role": "assistant", "content": "Hello"}]}, "messages"),
    "a URL": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "url", "value": "https://example.com/a.png"}}],
                }
            ]
        },
        "messages.0.content.0",
    ),
    "tool": ({"tools": [{"name": "a b"}]}, "tools.0.name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_named(case: str) -> None:
    wrong, field = WRONG[case]

    with pytest.raises(ValidationFailed) as refused:
        parse_direct_input(body(**wrong))

    assert field in [each["field"] for each in refused.value.details]  # type: ignore[index, union-attr]


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ValidationFailed) as refused:
        parse_direct_input(body(max_tokens=0, stream=1, messages=[]))

    assert {each["field"] for each in refused.value.details} == {"max_tokens", "stream", "messages"}  # type: ignore[index, union-attr]


def test_repeated_words_stay_and_media_are_read() -> None:
    image = {"type": "image", "source": {"type": "data", "value": b64(png()), "mimeType": "image/png"}}
    said = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "again?"},
        {"role": "user", "content": [image]},
        {"role": "user", "content": "again"},
    ]

    found = parse_direct_input(body(messages=said, system="Be brief."))

    assert [each.role for each in found.messages] == ["user", "assistant", "user", "user"]
    assert len({each.id for each in found.messages}) == 4
    assert found.system == ("Be brief.", "Be kind.")

"""Calls of a model without a run: what they take of the plan, what they say, and which bodies are read."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.billing.allowances import Allowances, Metric, Terms, day_of, period_of
from karma.billing.plans import PlanName, plan_at
from karma.configuration.domain import ComponentUnavailable
from karma.core.errors import Forbidden, InvalidRequest, QuotaExceeded, StorageUnavailable, Upstream, ValidationFailed
from karma.core.ids import UserId
from karma.models.budgets import BudgetExceeded
from karma.models.domain import ModelErrorCode, Target, Usage
from karma.models.ports import ModelFailed, StopReason, TextDelta, TurnEnded
from karma.models.prices import cost, estimate, stopped_usage
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
        self.day_cost_micros: int | None = None
        self.service = DirectCalls(
            store=self.store,
            model=self.model,
            configuration=as_built(),
            allowances=Allowances(terms_of=self.terms, clock=self.clock),
            clock=self.clock,
            default="claude-test",
        )

    def terms(self, _: UserId) -> Terms:
        return Terms(plan=plan_at(PlanName.FREE, self.clock.now()), day_cost_micros=self.day_cost_micros)

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
    assert failed.value.headers.get("Retry-After") == ("5" if status == 503 else None)


@pytest.mark.parametrize(("asked_s", "told"), [(0.2, "1"), (12.3, "13"), (86_400.0, "3600")])
def test_a_provider_s_wait_is_passed_on_within_an_hour(asked_s: float, told: str) -> None:
    calls = Calls([ModelFailed(ModelErrorCode.MODEL_RATE_LIMITED, retry_after_s=asked_s)])
    with pytest.raises(Upstream) as failed:
        calls.make(calls.admit())
    assert failed.value.headers["Retry-After"] == told


def test_a_call_that_is_stopped_counts_what_it_has_said() -> None:
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

    said = stopped_usage(call.request, len("slow"))
    assert calls.used == cost(said, call.request.target, calls.clock.now()) < estimate(call.request, calls.clock.now())


def test_the_usage_of_the_last_frame_counts_also_where_its_reader_has_left() -> None:
    usage = Usage(30_000, 90)
    calls = Calls([[TextDelta("汉" * 90), TurnEnded(StopReason.END, usage, [])]])
    call = calls.admit(read(max_tokens=8_000, messages=[{"role": "user", "content": "字" * 30_000}]))

    async def leave() -> None:
        async with aclosing(calls.service.events(call)) as events:
            await anext(events)

    asyncio.run(leave())
    assert calls.used == cost(usage, call.request.target, calls.clock.now())


@pytest.mark.parametrize("pages", [1, 4, 40])
def test_calls_at_once_with_long_documents_do_not_overspend_the_plan(pages: int) -> None:
    objects = [
        b"<</Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (pages, b"3 0 R " * pages),
        b"<</Type/Page>>",
    ]
    index = b"".join(b"%d %d " % (n, sum(map(len, objects[: n - 1]))) for n in (1, 2, 3))
    tree = zlib.compress(index + b"".join(objects))
    head = b"<</Type/ObjStm/N 3/First %d/Filter/FlateDecode>>" % len(index)
    stored = b"9 0 obj\n%s\nstream\n%s\nendstream\nendobj\n" % (head, tree)
    document = b"%PDF-1.7\n" + stored + b"startxref\n0\n%%EOF\n"
    source = {"type": "data", "mimeType": "application/pdf", "value": b64(document)}
    content = [{"type": "document", "source": source}]
    charged = Usage(pages * 4_600, 10)  # as much as pages full of text take
    calls = Calls(*[ended(usage=charged)] * 40)
    made: list[DirectCall] = []
    with suppress(QuotaExceeded):
        while True:
            made.append(calls.admit(read(messages=[{"role": "user", "content": content}])))
    for each in made:
        calls.make(each)
    assert calls.used == len(made) * cost(charged, MODEL, calls.clock.now()) <= SPEND
    assert bool(made) == (pages < 40)


@pytest.mark.parametrize("step", range(24))
def test_a_client_that_leaves_at_any_moment_pays_for_what_was_said_alone(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_steps(function: Any, *args: Any) -> Any:
        await asyncio.sleep(0)
        done = function(*args)
        await asyncio.sleep(0)
        return done

    monkeypatch.setattr(asyncio, "to_thread", in_steps)
    usage = Usage(20, 3)
    calls = Calls([*text("Hi"), lambda: asyncio.sleep(0), *ended(usage=usage)])

    async def serve() -> None:
        call = await calls.service.admit(caller(), read())
        try:
            await asyncio.sleep(0)
            async for _ in calls.service.events(call):
                await asyncio.sleep(0)
        finally:
            await calls.service.release(call)

    async def leave() -> None:
        serving = asyncio.create_task(serve())
        for _ in range(step):
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait([serving])
        for _ in range(4):
            await asyncio.sleep(0)  # for what is shielded

    asyncio.run(leave())
    if not calls.model.requests:
        assert calls.used == 0
        return
    (request,) = calls.model.requests
    at = calls.clock.now()
    said = {cost(stopped_usage(request, chars), request.target, at) for chars in (0, 2)}
    assert calls.used in {cost(usage, request.target, at), *said}


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


class TestTheAccountsDay:
    LIMIT = 500_000

    def with_left(self, left: int, *turns: Any) -> Calls:
        calls = Calls(*turns)
        calls.day_cost_micros = self.LIMIT
        calls.store.usage.account_days[caller().user_id, day_of(calls.clock.now())] = self.LIMIT - left
        return calls

    def counted(self, calls: Calls) -> int:
        return calls.store.usage.account_days[caller().user_id, day_of(calls.clock.now())]

    def test_counts_what_a_call_costs(self) -> None:
        calls = self.with_left(self.LIMIT, [*text("Hi"), *ended(usage=Usage(1000, 50))])
        call = calls.admit()
        assert self.counted(calls) == estimate(call.request, calls.clock.now())
        calls.make(call)
        assert self.counted(calls) == calls.used == cost(Usage(1000, 50), MODEL, calls.clock.now())

    @pytest.mark.parametrize("left", [20_000, 60_000, 200_000])
    def test_shortens_an_answer_to_what_is_left(self, left: int) -> None:
        calls = self.with_left(left)
        request = calls.admit(read(max_tokens=16_000)).request
        now = calls.clock.now()
        assert 256 <= request.max_tokens < 16_000
        longer = replace(request, max_tokens=request.max_tokens + 1)
        assert estimate(request, now) <= left < estimate(longer, now)
        assert self.counted(calls) == self.LIMIT - left + estimate(request, now) == self.LIMIT - left + calls.used

    def test_refuses_a_call_whose_shortest_answer_it_does_not_cover(self) -> None:
        calls = self.with_left(1_000)
        with pytest.raises(BudgetExceeded) as refused:
            calls.admit(read(max_tokens=4_000))
        told: Any = refused.value.details
        assert (refused.value.status, refused.value.code) == (402, "BUDGET_EXCEEDED")
        assert (told["budget"], told["max_cost_micros"]) == ("account_per_day", self.LIMIT)
        assert (told["left_cost_micros"], told["spent_cost_micros"]) == (1_000, self.LIMIT - 1_000)
        assert told["resets_at"] == "2026-11-22T00:00:00.000Z"
        assert (calls.used, self.counted(calls)) == (0, self.LIMIT - 1_000)
        for enough in (False, True):
            calls.day_cost_micros = told["required_cost_micros"] - (not enough)
            if not enough:
                with pytest.raises(BudgetExceeded):
                    calls.admit(read(max_tokens=4_000))
        assert calls.admit(read(max_tokens=4_000)).request.max_tokens == 256

    def test_is_not_counted_where_it_is_not_limited(self) -> None:
        calls = Calls([*text("Hi"), *ended(usage=Usage(1000, 50))])
        calls.make(calls.admit())
        assert calls.store.usage.account_days == {}

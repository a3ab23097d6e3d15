"""Each reason that a server may give for an answer's end, through all that asks a model: only a whole one counts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final

import orjson
import pytest

from karma.core.errors import Upstream
from karma.integrations.anthropic_turn import Turn
from karma.integrations.openai_turn import ChatTurn
from karma.integrations.stop_reasons import BROKEN
from karma.models.domain import ModelErrorCode, Target
from karma.models.ports import ModelEvent, ModelFailed, ModelRequest, StopReason, ToolArguments, ToolEnded, TurnEnded
from karma.runs.chat import Chat
from tests.fakes.runs import ScriptedModel, SetClock, Step, ended, text, tool, types
from tests.support.run_world import World, asked, user
from tests.support.subagents import SubagentWorld
from tests.support.windowed import WindowedModel, is_record, text_of
from tests.unit.runs.test_compaction import WINDOW, until_record
from tests.unit.runs.test_compaction import world as windowed_world
from tests.unit.runs.test_direct_calls import Calls

pytestmark = pytest.mark.fault("F-29zj")

REQUEST: Final = ModelRequest(target=Target(model="m"), system=(), messages=(), tools=(), max_tokens=1)
TAKEN: Final[dict[StopReason, Sequence[str]]] = {
    StopReason.END: ("stop", "end", "end_turn", "stop_sequence", "eos", "eos_token", "COMPLETE", "STOP"),
    StopReason.TOOL_USE: ("tool_calls", "tool-calls", "TOOL_CALL", "tool_use", "function_call"),
    StopReason.MAX_TOKENS: ("length", "max_tokens", "MAX_TOKENS", "max_output_tokens"),
    StopReason.CONTEXT_FULL: ("model_context_window_exceeded", "model_length"),
    StopReason.REFUSED: (
        "content_filter", "content-filter", "refusal", "sensitive", "SAFETY", "RECITATION", "BLOCKLIST",
        "PROHIBITED_CONTENT", "SPII", "guardrail_intervened",
    ),
    StopReason.PAUSED: ("pause_turn",),
}  # fmt: skip
MISSING: Final = (None, "")
UNKNOWN: Final = ("OTHER", "repetition", "load", "unload", "compaction", "null", "FINISH_REASON_UNSPECIFIED")
LOST: Final = (*sorted(BROKEN), "network-error", "ERROR", *UNKNOWN, *MISSING)
CALL: Final = {"index": 0, "id": "c1", "function": {"name": "echo", "arguments": '{"word":"a"}'}}
SHAPES: Final[dict[str, Sequence[dict[str, Any]]]] = {
    "text": [{"content": "Open the valve only "}, {"content": "if"}],
    "a call": [{"tool_calls": [CALL]}],
    "both": [{"content": "Moving."}, {"tool_calls": [CALL]}],
    "nothing": [{}],
}
COUNTED: Final = {"prompt_tokens": 10, "completion_tokens": 3}
WHOLE: Final = [*text("Whole"), *ended()]
Heard = tuple[list[Step], StopReason | None]


def streamed(reason: object, deltas: Sequence[dict[str, Any]], **more: Any) -> Heard:
    """Return what a stream is read as: batches of events, and its end; None: a failure, the last of the batches."""
    parts = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    end = {"index": 0, "delta": {}, **({} if reason is None else {"finish_reason": reason}), **more}
    bodies = [*parts, {"choices": [end]}, {"choices": [], "usage": COUNTED}]
    turn = ChatTurn()
    return read([*map(event, bodies), b"data: [DONE]\n\n"], turn.feed, lambda: turn.ended(REQUEST))


def at_once(reason: object, deltas: Sequence[dict[str, Any]], **more: Any) -> Heard:
    """Return what an answer is read as that is no stream."""
    message: dict[str, Any] = {"content": "".join(each.get("content", "") for each in deltas)}
    calls = [call for each in deltas for call in each.get("tool_calls", ())]
    choice = {"message": {**message, "tool_calls": calls or None}, "finish_reason": reason, **more}
    turn = ChatTurn()
    body = orjson.dumps({"choices": [choice], "usage": COUNTED})
    return read([body], turn.take_whole, lambda: turn.ended(REQUEST))


def of_messages(reason: object, deltas: Sequence[dict[str, Any]]) -> Heard:
    """Return what an answer of Anthropic's API is read as."""
    bodies: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": {"input_tokens": 10}}}]
    for at, each in enumerate(deltas):
        block: dict[str, Any] = {"type": "text", "text": each.get("content", "")}
        if "tool_calls" in each:
            block = {"type": "tool_use", "id": "c1", "name": "echo", "input": {}}
        bodies.append({"type": "content_block_start", "index": at, "content_block": block})
        if "tool_calls" in each:
            piece = {"type": "input_json_delta", "partial_json": '{"word":"a"}'}
            bodies.append({"type": "content_block_delta", "index": at, "delta": piece})
        bodies.append({"type": "content_block_stop", "index": at})
    told = {} if reason is None else {"stop_reason": reason}
    bodies += [{"type": "message_delta", "delta": told, "usage": {"output_tokens": 3}}, {"type": "message_stop"}]
    return read(list(map(event, bodies)), Turn().feed, None)


def event(body: object) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def read(
    pieces: Sequence[bytes], feed: Callable[[bytes], list[ModelEvent]], end: Callable[[], TurnEnded] | None
) -> Heard:
    steps: list[Step] = []
    try:
        for piece in pieces:
            steps.append(feed(piece))
    except ModelFailed as failure:
        return [*steps, failure], None
    if end is not None:
        steps.append([end()])
    (last,) = [each for each in all_events(steps) if isinstance(each, TurnEnded)]
    return steps, last.stop


def all_events(steps: Sequence[Step]) -> list[ModelEvent]:
    return [each for step in steps if not callable(step) and not isinstance(step, ModelFailed) for each in step]


READ: Final[dict[str, Callable[..., Heard]]] = {"stream": streamed, "body": at_once, "messages": of_messages}


@pytest.mark.parametrize("how", list(READ))
def test_each_reason_has_one_meaning_whatever_it_ends(how: str) -> None:
    for deltas in SHAPES.values():
        for stop, reasons in TAKEN.items():
            for whole in reasons:
                assert READ[how](whole, deltas)[1] is stop, whole
        for reason in LOST:
            steps, stop_of_none = READ[how](reason, deltas)
            failure = steps[-1]
            assert stop_of_none is None, reason
            assert isinstance(failure, ModelFailed)
            assert (failure.code, failure.is_transient) == (ModelErrorCode.MODEL_STREAM_CUT, True), reason
            assert failure.usage.input_tokens == 10, "what it has cost is known"
            calls = [each for each in all_events(steps) if isinstance(each, ToolEnded)]
            assert not calls or how == "messages", "no call of it has an end"


@pytest.mark.parametrize("native", ["network_error", "MALFORMED_FUNCTION_CALL"])
def test_what_the_models_own_provider_says_overrules_a_proxy_for_the_worse(native: str) -> None:
    for how in (streamed, at_once):
        assert how("stop", SHAPES["text"], native_finish_reason=native)[1] is None
        assert how("stop", SHAPES["text"], native_finish_reason="sensitive")[1] is StopReason.REFUSED
        for harmless in ("completed", "STOP", "end_turn", None, 5, "anything"):
            assert how("stop", SHAPES["text"], native_finish_reason=harmless)[1] is StopReason.END
            assert how("error", SHAPES["text"], native_finish_reason=harmless)[1] is None


def test_an_error_of_an_answer_is_told_by_its_code() -> None:
    for how in (streamed, at_once):
        for code, meant in ((429, "MODEL_RATE_LIMITED"), (502, "MODEL_UNAVAILABLE"), ("timeout", "MODEL_TIMEOUT")):
            for reason in ("error", "stop", None):
                steps, _ = how(reason, SHAPES["text"], error={"code": code, "message": "secret"})
                assert isinstance(steps[-1], ModelFailed)
                assert (steps[-1].code.value, steps[-1].is_transient) == (meant, True)
        assert how("stop", SHAPES["text"], error=None)[1] is StopReason.END


ORDERS: Final[Sequence[tuple[Sequence[str | None], StopReason | None]]] = (
    (("tool_calls", "stop"), StopReason.END),
    (("", None, "length", ""), StopReason.MAX_TOKENS),
    (("null", "stop"), StopReason.END),
    (("content_filter", "stop"), StopReason.REFUSED),
    (("content_filter", "error", "stop"), None),
    (("stop", "abort"), None),
)


def read_of(reasons: Sequence[str | None]) -> Heard:
    turn = ChatTurn()
    told = [event({"choices": [{"delta": {"content": "a"}, "finish_reason": reason}]}) for reason in reasons]
    return read([*told, b"data: [DONE]\n\n"], turn.feed, lambda: turn.ended(REQUEST))


def test_the_last_reason_counts_and_none_takes_back_a_failure() -> None:
    for reasons, stop in ORDERS:
        assert read_of(reasons)[1] is stop, reasons


def test_a_body_that_ends_without_a_last_word_follows_the_same_rule() -> None:
    turn = ChatTurn()
    turn.feed(event({"choices": [{"delta": {"content": "half"}, "finish_reason": "abort"}]}))
    with pytest.raises(ModelFailed) as caught:
        turn.end_of_body()
    assert (caught.value.code, turn.is_complete) == (ModelErrorCode.MODEL_STREAM_CUT, False)


ENDS: Final = [(reason, shape) for reason in LOST for shape in SHAPES]


def broken(reason: object, shape: str) -> list[Step]:
    return streamed(reason, SHAPES[shape])[0]


def test_a_run_asks_again_and_makes_no_call_of_it() -> None:
    for reason, shape in ENDS:
        world = World(broken(reason, shape), WHOLE)
        assert types(world.run(asked(user("hi"))))[-1] == "RUN_FINISHED", (reason, shape)
        assert [(each.role, each.content) for each in world.thread().messages] == [
            ("user", "hi"),
            ("assistant", "Whole"),
        ]


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_run_and_a_chat_of_such_answers_fail_by_name(shape: str) -> None:
    for reason in ("abort", "OTHER", None):
        world = World(*[broken(reason, shape)] * 3)
        events = world.run(asked(user("hi")))
        assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "MODEL_STREAM_CUT")
        assert [each.role for each in world.thread().messages] == ["user"]
        chat = Chat(SetClock())
        for each in events:
            list(chat.take(each))
        assert (chat.is_complete, chat.failure and chat.failure[0]) == (False, "MODEL_STREAM_CUT")


def test_half_an_answer_is_no_subagents_result() -> None:
    for reason, shape in ENDS:
        world = SubagentWorld()
        world.agent("scout", tools=("echo",))
        world.agent("lead", "scout")
        call = [*tool("c1", "scout", '{"task":"look"}'), *ended(StopReason.TOOL_USE)]
        world.script("lead", call, WHOLE)
        world.script("scout", broken(reason, shape), [*text("Found it."), *ended()])

        world.run(asked(user("go"), forwardedProps={"agent_id": "lead"}))

        results = [each.content for each in world.thread().messages if each.role == "tool"]
        assert results == ["Found it."], (reason, shape)


class HalfRecords(WindowedModel):
    """Writes half of its first record, and gives a reason for that end."""

    def __init__(self, reason: object) -> None:
        super().__init__(WINDOW)
        self.half: list[Step] = broken(reason, "text")

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        if is_record(request) and self.half:
            half, self.half = self.half, []
            self.records.append(request)
            async for batch in ScriptedModel(half).stream(request):
                yield batch
            return
        async for batch in super().stream(request):
            yield batch


@pytest.mark.parametrize("reason", ["abort", "OTHER", None])
def test_half_a_record_replaces_no_conversation(reason: object, no_blocking_calls: None) -> None:
    model = HalfRecords(reason)
    made = windowed_world(model)

    _, events = until_record(made, model)

    assert events[-1]["type"] == "RUN_FINISHED"
    assert len(model.records) == 2, "it is asked for again"
    assert "valve" not in text_of(model.requests[-1])
    assert "FACT-0" in text_of(model.requests[-1]), "the whole record stands for what it replaces"


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_direct_call_says_that_it_broke_off(shape: str) -> None:
    for reason in LOST:
        calls = Calls(broken(reason, shape))
        with pytest.raises(Upstream) as failed:
            calls.make(calls.admit())
        assert (failed.value.status, failed.value.code) == (502, "MODEL_STREAM_CUT"), reason
        assert calls.used > 0


@pytest.mark.fault("F-29zk")
def test_an_empty_object_before_the_arguments_of_a_call_is_none_of_them() -> None:
    for pieces, made in (
        (["{}", '{"word":', '"a"}'], '{"word":"a"}'),
        (["", "{}", "", '{"word":"a"}'], '{"word":"a"}'),
        (['{}{"word":"a"}'], '{"word":"a"}'),
        (["{}", "{}"], "{}"),
        (["{}"], "{}"),
        (["{}", "\n"], "{}\n"),
        (["{", "}"], "{}"),
        # Any other shape stays as it came, and its tool says that it is unreadable.
        (["{}", "["], "{}["),
        (["{}", ' {"word":"a"}'], '{} {"word":"a"}'),
        (['{"word":"b"}', '{"word":"a"}'], '{"word":"b"}{"word":"a"}'),
    ):
        deltas: list[dict[str, Any]] = [
            {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "echo", "arguments": pieces[0]}}]}
        ]
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": each}}]} for each in pieces[1:]]
        events = all_events(streamed("tool_calls", deltas)[0])
        assert [each.arguments for each in events if isinstance(each, ToolEnded)] == [made], pieces
        told = [each.delta for each in events if isinstance(each, ToolArguments)]
        assert "".join(told) == made, "whoever reads along has the same"

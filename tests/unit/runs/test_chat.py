"""A chat: what is refused, and what it makes of a run's events."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from karma.core.errors import InvalidRequest, ValidationFailed
from karma.core.ids import UserId
from karma.runs.chat import Chat, ChatEvent, parse_chat
from tests.fakes.runs import KeptFrames, SetClock
from tests.support.cut_runs import CutRun
from tests.support.lost_runs import THREAD, Life, World, begin

ADA = UserId("u-ada")
ASKED = {"agent_id": "helper", "message": "How are you?"}


def told(events: list[dict[str, Any]]) -> tuple[list[ChatEvent], Chat]:
    chat = Chat(SetClock())
    return [each for event in events for each in chat.take(event)], chat


@pytest.mark.req("R-A-08")
def test_what_is_absent_has_its_default() -> None:
    asked = parse_chat(orjson.dumps(ASKED), user_id=ADA)
    assert (asked.agent, asked.run.agent, asked.is_streamed) == ("helper", "helper", True)
    assert asked.run.opens_thread
    (message,) = asked.run.messages
    assert (message.role, message.content) == ("user", "How are you?")


@pytest.mark.req("R-A-08")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("agent_id", None),
        ("agent_id", ""),
        ("agent_id", 7),
        ("agent_id", "a" * 2000),
        ("message", None),
        ("message", " \n"),
        ("message", ["hi"]),
        ("session_id", "with space"),
        ("session_id", 3),
        ("user_id", "u-eve"),
        ("stream", "false"),
        ("streaming", True),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ValidationFailed) as refused:
        parse_chat(orjson.dumps({**ASKED, field: value}), user_id=ADA)
    assert [each["field"] for each in refused.value.details or [] if isinstance(each, dict)] == [field]


@pytest.mark.parametrize("body", [b"", b"[", b"\xff", b'{"agent_id": NaN}'])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat(body, user_id=ADA)


def test_a_key_names_the_run_so_that_a_repeat_asks_for_no_other() -> None:
    body = orjson.dumps(ASKED)
    first, again = (parse_chat(body, user_id=ADA, key="k1").run.run_id for _ in range(2))
    assert first == again
    assert len({parse_chat(body, user_id=ADA, key=key).run.run_id for key in ("k1", "k2", "", "")} | {first}) == 4


@pytest.mark.req("R-A-10", "R-A-11", "R-A-12", "R-A-13")
def test_a_run_with_tools_is_told_in_order_and_its_pieces_are_the_answer() -> None:
    world, sink = World(), KeptFrames()
    begin(world, Life(None), sink)

    events, chat = told(sink.events)

    names = [event.name for event in events]
    assert (names[0], names[1], names[-1]) == ("run_started", "step_started", "run_completed")
    assert [event.data["step"] for event in events if event.name == "step_started"] == [1, 2, 3, 4]
    assert names.count("tool_call_started") == names.count("tool_call_completed") == 5
    calls = [event.data for event in events if event.name == "tool_call_started"]
    assert calls[0] == {"tool": "again", "args": {"word": "0"}}
    results = [event.data for event in events if event.name == "tool_call_completed"]
    assert results[0] == {"tool": "again", "result": {"done": "again"}}
    pieces = "".join(str(event.data["content"]) for event in events if event.name == "content_delta")
    assert events[-1].data["response"] == pieces == chat.response
    said = [each.content for each in world.store.thread(THREAD).messages if each.role == "assistant"]
    assert pieces == "".join(map(str, said))
    assert events[-1].data["metrics"] == {"total_tokens": 600, "duration": 0.0}


@pytest.mark.req("R-A-13")
def test_whatever_was_lost_on_the_way_the_answer_is_the_thread_s(seed: int) -> None:
    for nth in range(20):
        history = CutRun(random.Random(f"{seed} {nth}"))
        if not history.world.store.thread(THREAD).messages:
            continue
        position: int | None = 0
        while position is not None:  # until nothing cuts it any more
            history.connection(position)
            position = None if history.world.log[-1].terminal else 0
        events, chat = told(history.world.shown())
        said = [m.content for m in history.world.store.thread(THREAD).messages if m.role == "assistant"]
        assert chat.response == "".join(map(str, said)), nth
        # The process that called `ask` may have been lost: somebody is asked what became of it.
        ends = ("error", "INTERRUPTED") if chat.failure else ("run_completed", "")
        assert (events[-1].name, events[-1].data.get("code", "")) == ends, nth


@pytest.mark.req("R-A-14")
@pytest.mark.parametrize(
    "end",
    [
        {"type": "RUN_ERROR", "message": "The model is overloaded", "code": "MODEL_OVERLOADED"},
        {"type": "RUN_FINISHED", "threadId": "t1", "runId": "r1", "outcome": {"type": "cancelled"}},
    ],
)
def test_a_run_that_does_not_complete_ends_with_an_error(end: dict[str, Any]) -> None:
    started = {"type": "RUN_STARTED", "threadId": "t1", "runId": "r1"}
    events, chat = told([started, end])
    assert [event.name for event in events] == ["run_started", "error"]
    assert set(events[-1].data) == {"error", "code", "run_id"}
    assert not chat.is_complete


def test_a_response_that_was_cut_off_says_so() -> None:
    begun = {"type": "RUN_STARTED", "threadId": "t", "runId": "r"}
    for result, stop in (({"stopReason": "max_tokens"}, "max_tokens"), (None, None)):
        end = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r", **({"result": result} if result else {})}

        events, chat = told([begun, end])

        assert events[-1].data.get("stop_reason") == chat.answer().get("stop_reason") == stop

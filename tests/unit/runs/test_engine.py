"""The turn loop over in-memory stores and a scripted model: exact event sequences, and what is stored when."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from karma.conversations.attachments import MAX_RESULT_BYTES
from karma.conversations.repair import shown_name
from karma.core.errors import ValidationFailed
from karma.identity.domain import Role
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelFailed, StopReason
from karma.runs.answers import run_view
from karma.runs.domain import RunStatus
from karma.runs.plan import RunLimits
from karma.tools.toolbox import Tool
from tests.fakes.runs import (
    KeptFrames,
    caller,
    ended,
    text,
    tool,
    types,
)
from tests.support.plans import allowances
from tests.support.run_services import run_service
from tests.support.run_world import ECHO, FIND_TOOL, World, asked, spec, user

pytestmark = pytest.mark.usefixtures("no_blocking_calls")


@pytest.mark.req("R-K-38", "R-K-40")
def test_a_text_answer_is_streamed_delta_by_delta() -> None:
    world = World([*text("Hel", "lo"), *ended()])
    request = asked(user("hi"), state={"page": 3})

    events = world.run(request)

    message_id = events[2]["messageId"]
    assert events == [
        {"type": "RUN_STARTED", "threadId": "t1", "runId": request.run_id, "protocolVersion": "1.0"},
        {
            "type": "STATE_SNAPSHOT",
            "snapshot": {
                "page": 3,
                "user": {"id": caller().user_id, "name": "Ada", "avatar": "https://example.com/ada.png"},
            },
        },
        {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": "Hel"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": "lo"},
        {"type": "TEXT_MESSAGE_END", "messageId": message_id},
        {
            "type": "RUN_FINISHED",
            "threadId": "t1",
            "runId": request.run_id,
            "outcome": {"type": "success"},
            "usage": [
                {
                    "provider": "anthropic",
                    "model": "claude-test",
                    "inputTokens": 10,
                    "outputTokens": 5,
                    "totalTokens": 15,
                }
            ],
        },
    ]
    assert [message.role for message in world.thread().messages] == ["user", "assistant"]
    assert world.thread().active_run_id is None
    assert world.stored(request).status is RunStatus.FINISHED


def test_a_short_delta_takes_at_most_110_bytes_on_the_wire() -> None:
    frames = asyncio.run(World([*text("twenty-three characters"), *ended()]).go(asked(user("hi"))))

    sizes = [len(block) + 2 for block in frames.data.split(b"\n\n") if b"TEXT_MESSAGE_CONTENT" in block]

    assert len(sizes) == 1
    assert sizes[0] <= 110


def test_the_tool_loop_emits_calls_results_and_a_second_turn() -> None:
    world = World(
        [*text("Let me see."), *tool("c1", "echo", '{"wor', 'd":"yes"}'), *ended(StopReason.TOOL_USE)],
        [*text("Done."), *ended(usage=Usage(20, 7))],
    )

    events = world.run(asked(user("say yes")))

    assert types(events) == [
        "RUN_STARTED",
        "STATE_SNAPSHOT",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "TOOL_CALL_START",
        "TOOL_CALL_ARGS",
        "TOOL_CALL_ARGS",
        "TOOL_CALL_END",
        "TOOL_CALL_RESULT",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert events[5]["parentMessageId"] == events[2]["messageId"]
    assert events[9]["content"] == '{"said":"yes","to":"Ada"}'
    assert events[9]["messageId"] not in {events[2]["messageId"], events[10]["messageId"]}
    assert events[-1]["usage"][0]["totalTokens"] == 42
    assert [message.role for message in world.thread().messages] == ["user", "assistant", "tool", "assistant"]
    assert [message.role for message in world.model.requests[1].messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ('{"word":"fail"}', "cannot say that"),
        ('{"word":"break"}', "echo failed unexpectedly"),
        ('{"word":"hang"}', "echo did not finish within 0.05 s"),
        ('{"word":', "The arguments are not valid JSON"),
        ('{"word":7}', "word must be of type string"),
        ("{}", "Missing argument: word"),
        ('{"word":"x","more":1}', "Unknown argument: more"),
        ("[]", "The arguments must be an object"),
    ],
)
def test_a_failing_tool_is_told_to_the_model_and_the_run_goes_on(arguments: str, error: str) -> None:
    world = World([*tool("c1", "echo", arguments), *ended(StopReason.TOOL_USE)], [*text("Sorry."), *ended()])

    events = world.run(asked(user("go")))

    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert orjson.loads(result["content"]) == {"error": error}
    assert result["metadata"] == {"failed": True}
    assert world.model.requests[1].messages[-1].failed
    assert events[-1]["type"] == "RUN_FINISHED"


def test_a_tool_that_nobody_declared_fails_by_name() -> None:
    world = World([*tool("c1", "nonsense"), *ended(StopReason.TOOL_USE)], [*text("Hm."), *ended()])

    events = world.run(asked(user("go")))

    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert orjson.loads(result["content"]) == {"error": "Unknown tool: nonsense", "tools": ["echo"]}


@pytest.mark.parametrize("name", ["functions.frob", "srv.echo", "frob<|channel|>commentary", "f" * 65, ""])
def test_a_model_that_calls_a_name_which_no_api_takes_is_told_so(name: str) -> None:
    world = World([*tool("c1", name), *ended(StopReason.TOOL_USE)], [*text("Hm."), *ended()])
    own = {"name": "frob", "description": "", "parameters": {"type": "object"}}

    events = world.run(asked(user("go"), tools=[own]))

    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert orjson.loads(result["content"]) == {"error": f"Unknown tool: {name}", "tools": ["echo", "frob"]}
    *_, said, told = world.model.requests[1].messages
    assert [call.name for call in said.tool_calls] == [shown_name(name)]
    assert (told.role, told.content, told.failed) == ("tool", result["content"], True)
    assert world.thread().messages[1].tool_calls[0].name == name
    assert events[-1]["type"] == "RUN_FINISHED"


@pytest.mark.fault("F-03b")
def test_a_long_result_is_kept_whole_and_the_model_is_shown_its_beginning() -> None:
    word = "é" * 100_000
    world = World(
        [*tool("c1", "echo", orjson.dumps({"word": word}).decode()), *ended(StopReason.TOOL_USE)],
        [*text("Long."), *ended()],
        [*text("Yes."), *ended()],
    )

    events = world.run(asked(user("hi")))
    again = world.run(asked(user("still there?")))

    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert len(world.attachments.kept) == 1, "the whole result is not kept once"
    ((_, kept),) = world.attachments.kept
    (shown,) = [str(m.content) for m in world.model.requests[1].messages if m.role == "tool"]
    assert shown == result["content"]
    assert len(shown.encode()) <= MAX_RESULT_BYTES, "the model is shown more than the beginning"
    assert f"the whole is kept as attachments/{kept}" in orjson.loads(shown)["note"]
    assert word in world.attachments.kept[caller().user_id, kept].decode()
    assert again[-1]["type"] == "RUN_FINISHED"


@pytest.mark.fault("F-01b")
def test_a_blank_answer_does_not_stand_in_the_way_of_the_next_message() -> None:
    blank = [*text(" \n"), *ended()]
    world = World(blank, blank, [*text("Sorry."), *ended()])

    world.run(asked(user("hi")))
    events = world.run(asked(user("hello?")))

    assert events[-1]["type"] == "RUN_FINISHED"
    assert [m.content for m in world.model.requests[2].messages] == ["hi", "hello?"]


@pytest.mark.fault("F-02c")
@pytest.mark.parametrize("kind", ["what is new", "its user's words", "the whole"])
def test_the_same_words_from_a_client_without_ids_are_said_again(kind: str) -> None:
    more, answers = {"role": "user", "content": "more"}, ["One.", "Two.", "Three."]
    world = World(*([*text(answer), *ended()] for answer in answers))
    said: list[dict[str, Any]] = []

    for answer in answers:
        said.append(more)
        world.run(asked(*(said if kind != "what is new" else [more])))
        if kind == "the whole":
            said.append({"role": "assistant", "content": answer})

    assert [m.content for m in world.model.requests[2].messages] == ["more", "One.", "more", "Two.", "more"]


def test_an_application_s_instructions_are_shown_behind_ours_and_not_kept() -> None:
    world = World([*text("Hi."), *ended()])

    world.run(
        asked(
            {"id": "s", "role": "system", "content": "Speak like a pirate."},
            user("hi"),
            context=[{"description": "page", "value": "devices"}],
        )
    )

    ours, theirs = world.model.requests[0].system
    assert "Karma" in ours
    assert "Speak like a pirate." in theirs
    assert "page: devices" in theirs
    assert [m.role for m in world.thread().messages] == ["user", "assistant"]


@pytest.mark.req("R-K-37")
def test_a_run_without_messages_shows_the_conversation_that_there_is() -> None:
    world = World([*text("Hello"), *ended()])
    world.run(asked(user("hi")))

    events = world.run(asked())

    assert types(events) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", "RUN_FINISHED"]
    assert [each["content"] for each in events[1]["messages"]] == ["hi", "Hello"]


@pytest.mark.fault("F-02i")
@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "Be kind."}]])
def test_a_request_that_asks_for_nothing_is_refused_by_name(messages: list[dict[str, Any]]) -> None:
    world = World()
    request = asked(*messages)

    with pytest.raises(ValidationFailed) as caught:
        world.run(request)

    assert [entry["field"] for entry in caught.value.details] == ["messages"]  # type: ignore[union-attr, index]
    assert (world.stored(request), world.watchdog.armed) == (None, [])


@pytest.mark.parametrize("code", ModelErrorCode)
def test_a_model_that_fails_midway_ends_the_run_with_everything_closed(code: ModelErrorCode) -> None:
    world = World([*text("Half an ans"), *tool("c1", "echo", '{"wo')[:2], ModelFailed(code, usage=Usage(9))])
    request = asked(user("hi"))

    events = world.run(request)

    assert types(events)[-2:] == ["MESSAGES_SNAPSHOT", "RUN_ERROR"]
    assert types(events)[-3] == "TOOL_CALL_END"
    assert events[-1]["code"] == code
    assert events[-1]["usage"] == [{"provider": "anthropic", "model": "claude-test", "inputTokens": 9}]
    assert [m.role for m in world.thread().messages] == ["user"]
    assert world.stored(request).error_code == code
    assert world.thread().active_run_id is None


@pytest.mark.parametrize(
    ("turn", "code", "stop"),
    [
        ([*text("I"), *ended(StopReason.REFUSED)], "MODEL_REFUSED", "refused"),
        ([*text("I"), *ended(StopReason.CONTEXT_FULL)], "CONTEXT_WINDOW_EXCEEDED", "context_full"),
        ([*tool("c", "echo", '{"w'), *ended(StopReason.MAX_TOKENS)], "MAX_TOKENS", "max_tokens"),
        ([*text("no end")], "MODEL_STREAM_CUT", None),
        ([lambda: 1 / 0], "INTERNAL", None),
    ],
)
def test_what_cannot_be_kept_ends_the_run_with_its_code(turn: list[Any], code: str, stop: str | None) -> None:
    world = World(turn)

    events = world.run(asked(user("hi")))

    assert events[-1]["type"] == "RUN_ERROR"
    assert events[-1]["code"] == code
    assert stop_reasons(world) == [stop]
    assert [m.role for m in world.thread().messages] == ["user"]


def stop_reasons(world: World) -> list[str | None]:
    return [run_view(run)["stop_reason"] for run in world.store.runs_by_key.values()]


def test_a_run_shows_why_its_model_ended_its_last_answer() -> None:
    world = World([*tool("c", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)], [*text("b"), *ended()])
    world.agents.create(spec(tools=("echo",)))
    world.run(asked(user("hi"), forwardedProps={"agent_id": "brief"}))
    world.model.turns = [[*tool("d", "askUser", "{}"), *ended(StopReason.TOOL_USE)]]
    world.run(asked(user("and?", "u2"), tools=[FIND_TOOL]))
    assert stop_reasons(world) == ["end", "tool_use"]
    first = [*tool("e", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)]
    world.model.turns = [first, [*text("no end")]]
    world.run(asked(user("hi"), thread="t2", forwardedProps={"agent_id": "brief"}))
    assert stop_reasons(world)[2:] == [None], "its last answer came to no end"


def test_a_text_cut_by_its_token_limit_is_kept_and_noted() -> None:
    world = World([*text("long"), *ended(StopReason.MAX_TOKENS)])
    events = world.run(asked(user("hi")))

    assert stop_reasons(world) == ["max_tokens"]
    assert events[-1]["outcome"] == {"type": "success"}
    assert events[-1]["result"] == {"stopReason": "max_tokens"}


def test_a_paused_turn_is_continued() -> None:
    block = {"type": "text", "text": "thinking about it"}
    world = World(
        [*text("thinking about it"), *ended(StopReason.PAUSED, None, block)],
        [*text("there"), *ended()],
    )

    events = world.run(asked(user("hi")))

    assert types(events).count("TEXT_MESSAGE_START") == 2
    assert [m.role for m in world.model.requests[1].messages] == ["user", "assistant"]


def test_a_loop_of_tools_ends_at_its_limit_of_turns() -> None:
    turns = [[*tool(f"c{i}", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)] for i in range(5)]
    world = World(*turns)
    world.agents.create(spec(tools=("echo",), max_steps=3))

    events = world.run(asked(user("loop"), forwardedProps={"agent_id": "brief"}))

    assert events[-1]["code"] == "MAX_TURNS"
    assert len(world.model.requests) == 3


@pytest.mark.req("R-C-06")
def test_a_run_ends_itself_before_its_time_is_over() -> None:
    world = World([*text("slow"), lambda: asyncio.Event().wait()], limits=RunLimits(run_timeout_s=0.05, reserve_s=0))

    events = world.run(asked(user("hi")))

    assert types(events)[-3:] == ["TEXT_MESSAGE_END", "MESSAGES_SNAPSHOT", "RUN_ERROR"]
    assert events[-1]["code"] == "DEADLINE_EXCEEDED"


def test_tools_beyond_the_caller_s_rights_are_neither_offered_nor_run() -> None:
    world = World([*tool("c1", "echo", '{"word":"a"}'), *ended(StopReason.TOOL_USE)], [*text("Done"), *ended()])
    world.role = Role.VIEWER
    forbidden = Tool(**{**vars(ECHO), "permission": "device:control"})
    service = run_service(
        store=world.store,
        watchdog=world.watchdog,
        model=world.model,
        agents=world.agents,
        configuration=world.configuration,
        tools=[forbidden],
        library=world.library,
        allowances=allowances(),
        clock=world.clock,
        limits=world.limits,
    )

    async def go() -> KeptFrames:
        frames = KeptFrames()
        await (await service.start(caller(Role.VIEWER), asked(user("hi")))).execute(frames)
        return frames

    (result,) = [event for event in asyncio.run(go()).events if event["type"] == "TOOL_CALL_RESULT"]
    assert world.model.requests[0].tools == []
    assert orjson.loads(result["content"]) == {"error": "Unknown tool: echo", "tools": []}


def test_text_behind_a_tool_call_goes_on_in_the_same_message() -> None:
    world = World(
        [*text("Before."), *tool("c1", "echo", '{"word":"a"}'), *text(" After."), *ended(StopReason.TOOL_USE)],
        [*ended()],
    )

    events = world.run(asked(user("hi")))

    opened = [event["messageId"] for event in events if event["type"] == "TEXT_MESSAGE_START"]
    assert len(opened) == 2
    assert len(set(opened)) == 1
    assert world.thread().messages[1].content == "Before. After."


@pytest.mark.fault("F-02m")
@pytest.mark.parametrize("state", [{"user": "mine"}, {"user": None}, {"user": {"id": "theirs"}, "page": 1}])
def test_a_member_of_the_application_s_own_state_is_not_written_over(state: object) -> None:
    events = World([*text("Hi."), *ended()]).run(asked(user("hi"), state=state))

    assert events[1]["snapshot"] == state


@pytest.mark.parametrize("state", [[1, 2], "text", 7, True, {"page": 1}])
def test_a_state_may_be_any_json(state: object) -> None:
    events = World([*text("Hi."), *ended()]).run(asked(user("hi"), state=state))

    shown = events[1]["snapshot"]
    assert {**shown, "user": None} == {**state, "user": None} if isinstance(state, dict) else shown == state

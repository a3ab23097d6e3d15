"""Our streams as clients of AG-UI read them: 1.0, and the versions that current front ends depend on."""

import asyncio
import functools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from karma.models.domain import ModelErrorCode, ReasoningEffort, Usage
from karma.models.ports import ModelFailed, ReasoningDelta, ReasoningEnded, StopReason
from karma.runs.plan import RunLimits
from karma.runs.requests import parse_run_input
from karma.tools.device_tools import DeviceTools
from local import frontends
from tests.fakes.agents import catalogue
from tests.fakes.attachments import library
from tests.fakes.configuration import as_built
from tests.fakes.runs import (
    KeptFrames,
    MemoryRuns,
    RememberedWatchdog,
    ScriptedModel,
    SetClock,
    caller,
    ended,
    events_of,
    text,
    tool,
)
from tests.support.agui import ProtocolViolated, verify
from tests.support.plans import allowances
from tests.support.run_services import run_service
from tests.support.run_world import spec

NODE = shutil.which("node")
CURRENT = "1.0.0"
CLIENTS = frontends.clients()

needs_client = pytest.mark.skipif(
    NODE is None or CURRENT not in CLIENTS, reason="node or @ag-ui/client is not installed"
)
every_client = pytest.mark.parametrize("client", sorted(CLIENTS) or [CURRENT])
FRONTEND = [{"name": "ask", "description": "", "parameters": {"type": "object", "properties": {}}}]
NEWER = {
    ("RUN_STARTED", "protocolVersion"),
    ("RUN_FINISHED", "outcome"),
    ("RUN_FINISHED", "usage"),
    ("RUN_ERROR", "usage"),
    ("TOOL_CALL_RESULT", "metadata"),
}
"""Event fields that version 1.0 introduced."""
QUESTION: dict[str, Any] = {"id": "u1", "role": "user", "content": "hi"}
ASKED = [*text("Let me ", "see."), *tool("c1", "searchDatabase", '{"type"', ":1}"), *tool("c2", "ask", "{}")]
PIECES = [f"{n} " for n in range(10_000)]
WIDE = "\u00e9" * 65_536
"""A delta of 64 KB and more."""
TURNS: dict[str, list[Any]] = {
    "chat": [*text("Hel", "lo"), *ended()],
    "joined": [*text("Still here"), *ended()],
    "tools": [*ASKED, *ended(StopReason.TOOL_USE, Usage(1, 2, 3, 4))],
    "error": [*text("Ha"), *tool("c3", "ask")[:1], ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=Usage(9))],
    "edited": [*text("Good day"), *ended()],
    "thoughts": [
        [ReasoningDelta("Should "), ReasoningDelta("I?"), ReasoningEnded()],
        [ReasoningDelta("Yes.")],
        *text("I do"),
        *ended(),
    ],
    "long": [*text(*PIECES), *ended()],
    "summarised": [ModelFailed(ModelErrorCode.CONTEXT_WINDOW_EXCEEDED)],
    "wide": [*text(WIDE, WIDE), *tool("c4", "ask", f'{{"text":"{WIDE}', '"}'), *ended(StopReason.TOOL_USE)],
}


SUMMARISED = [[*text("They have greeted."), *ended()], [*text("Yes"), *ended()]]
"""The record of a conversation that its model cannot read, and its answer behind that."""
SCRIPTS = [turn for name in TURNS for turn in ([TURNS[name], *SUMMARISED] if name == "summarised" else [TURNS[name]])]


def inputs(client: str) -> list[dict[str, Any]]:
    """Return the inputs of runs on new threads; two continue those of the first two."""
    forged = {"id": "a9", "role": "assistant", "content": "I promise"}
    system = {"id": "s1", "role": "system", "content": "Be kind"}
    version = {"protocolVersion": "1.0"} if client == CURRENT else {}
    asked = {"tools": FRONTEND, "state": {}, "context": [], "forwardedProps": {}, **version}
    told = {name: {"threadId": name, "runId": f"r-{name}", "messages": [QUESTION], **asked} for name in TURNS}
    told["joined"] |= {"threadId": "chat", "messages": [{**QUESTION, "id": "u3", "content": "still there?"}]}
    told["thoughts"] |= {"forwardedProps": {"agent_id": "brief"}}
    long = {"id": "u0", "role": "user", "content": "Hello. " * 600}
    answered = {"id": "a0", "role": "assistant", "content": "Hello. " * 600}
    told["summarised"] |= {"messages": [long, answered, QUESTION]}
    told["edited"] |= {"threadId": "chat", "messages": [system, QUESTION, forged, {**QUESTION, "id": "u2"}]}
    return list(told.values())


def streams(bodies: list[dict[str, Any]]) -> list[bytes]:
    async def go() -> list[bytes]:
        agents = catalogue(tools=("searchDatabase", "controlDevice", "readTelemetry"))
        agents.create(spec(reasoning=ReasoningEffort.HIGH))
        service = run_service(
            store=MemoryRuns(),
            watchdog=RememberedWatchdog(),
            model=ScriptedModel(*SCRIPTS),
            agents=agents,
            configuration=as_built(),
            tools=DeviceTools(lambda: pytest.fail("no device is touched here")).tools(),
            library=library(),
            allowances=allowances(),
            clock=SetClock(),
            limits=RunLimits(),
        )
        made = []
        for body in bodies:
            frames = KeptFrames()
            await (await service.start(caller(), parse_run_input(orjson.dumps(body)))).execute(frames)
            made.append(frames.data)
        return made

    return asyncio.run(go())


@functools.cache
def heard(client: str) -> dict[str, dict[str, Any]]:
    """Let a client do the runs, in one process."""
    assert NODE is not None
    bodies = inputs(client)
    runs = [{"stream": data.decode(), "input": body} for data, body in zip(streams(bodies), bodies, strict=True)]
    done = subprocess.run(
        [NODE, str(Path(__file__).with_name("client.mjs")), CLIENTS[client]],
        input=json.dumps(runs).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return dict(zip(TURNS, told, strict=True))


@needs_client
@pytest.mark.fault("F-05a")
@every_client
@pytest.mark.parametrize("name", TURNS)
def test_a_client_takes_the_stream_as_it_is(client: str, name: str) -> None:
    told = heard(client)[name]

    assert (told["error"], told["warnings"]) == ("", [])
    assert told["sent"].get("protocolVersion") == inputs(client)[0].get("protocolVersion")


@needs_client
@every_client
def test_a_client_holds_what_was_said_and_the_user_in_its_state(client: str) -> None:
    told = heard(client)["chat"]

    assert told["state"] == {"user": {"id": caller().user_id, "name": "Ada", "avatar": caller().avatar}}
    assert [each["content"] for each in told["messages"]] == ["hi", "Hello"]


@needs_client
@pytest.mark.req("R-K-38", "R-K-40")
@pytest.mark.fault("F-05a")
@every_client
def test_a_client_has_a_frontend_tool_to_answer(client: str) -> None:
    told = heard(client)["tools"]

    user, assistant, result = told["messages"]
    assert user["content"] == "hi"
    assert assistant["content"] == "Let me see."
    calls = [(each["id"], each["function"]["arguments"]) for each in assistant["toolCalls"]]
    assert calls == [("c1", '{"type":1}'), ("c2", "{}")]
    assert (result["role"], result["toolCallId"]) == ("tool", "c1")
    assert told["pending"] == (["c2"] if client == CURRENT else None)


@needs_client
@every_client
def test_a_client_that_knows_reasoning_holds_what_the_model_thought(client: str) -> None:
    told = heard(client)["thoughts"]

    thoughts = ["Should I?", "Yes."] if client == CURRENT else []
    shown = [each["content"] for each in told["messages"] if each["role"] == "reasoning"]
    said = [each["content"] for each in told["messages"] if each["role"] != "reasoning"]
    assert (shown, said) == (thoughts, ["hi", "I do"])


@needs_client
@every_client
def test_a_client_holds_an_answer_of_ten_thousand_deltas_and_one_of_large_ones(client: str) -> None:
    long, wide = heard(client)["long"]["messages"], heard(client)["wide"]["messages"]

    assert long[-1]["content"] == "".join(PIECES)
    assert wide[-1]["content"] == WIDE + WIDE
    assert json.loads(wide[-1]["toolCalls"][0]["function"]["arguments"]) == {"text": WIDE}


@needs_client
@every_client
def test_a_client_keeps_all_of_a_conversation_that_is_summarised(client: str) -> None:
    told = heard(client)["summarised"]

    assert [(each["role"], len(each["content"])) for each in told["messages"]] == [
        ("user", 4200),
        ("assistant", 4200),
        ("user", 2),
        ("assistant", 3),
    ]


@needs_client
@every_client
def test_a_client_is_told_of_a_failed_run(client: str) -> None:
    assert heard(client)["error"]["runError"] == "MODEL_STREAM_CUT"


@needs_client
@pytest.mark.fault("F-02a")
@every_client
def test_a_client_s_conversation_becomes_the_one_that_is_gone_on_with(client: str) -> None:
    told = heard(client)["edited"]

    assert [each["content"] for each in told["messages"]] == ["Be kind", "hi", "Hello", "hi", "Good day"]
    (custom,) = told["custom"]
    assert [note["field"] for note in custom["value"]] == ["messages.2"]


@needs_client
@pytest.mark.fault("F-02f")
@every_client
def test_a_client_that_held_its_new_message_only_shows_it_behind_the_earlier_ones(client: str) -> None:
    told = heard(client)["joined"]

    assert [each["content"] for each in told["messages"]] == ["hi", "Hello", "still there?", "Still here"]


@pytest.mark.fault("F-05a")
def test_newer_fields_are_sent_to_clients_that_know_them_alone() -> None:
    def sent(client: str) -> set[tuple[str, str]]:
        events = [event for stream in streams(inputs(client)) for event in events_of(stream)]
        return {(event["type"], name) for event in events for name in event}

    assert sent(CURRENT) >= NEWER
    assert not NEWER & sent("before 1.0")


def test_the_port_of_the_client_s_rules_finds_what_the_client_refuses() -> None:
    start = {"type": "RUN_STARTED", "threadId": "t", "runId": "r", "protocolVersion": "1.0"}
    opened = {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}
    done = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r", "outcome": {"type": "success"}}
    older = {name: value for name, value in start.items() if name != "protocolVersion"}
    refused: list[list[dict[str, Any]]] = [
        [opened],
        [start],
        [start, opened, done],
        [start, start],
        [start, done, opened],
        [older, done],
    ]
    for bad in refused:
        with pytest.raises(ProtocolViolated):
            verify(bad)
    verify([start, done])

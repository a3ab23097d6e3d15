"""Our streams as @ag-ui/client 1.0 reads them."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from karma.agents.builtins import DeviceTools
from karma.agents.domain import RunErrorCode, Usage
from karma.agents.engine import Limits
from karma.agents.ports import ModelFailed, StopReason
from karma.agents.requests import parse_run_input
from karma.agents.service import RunService
from tests.fakes.agents import (
    KeptFrames,
    MemoryRunStore,
    RememberedWatchdog,
    ScriptedModel,
    SetClock,
    caller,
    ended,
    text,
    tool,
)
from tests.fakes.catalogue import catalogue
from tests.fakes.configuration import as_built
from tests.support.agui import ProtocolViolated, verify

ROOT = Path(__file__).resolve().parents[3]
NODE = shutil.which("node")

needs_client = pytest.mark.skipif(
    NODE is None or not (ROOT / "node_modules/@ag-ui/client").is_dir(), reason="node or @ag-ui/client is not installed"
)
FRONTEND = [{"name": "ask", "description": "", "parameters": {"type": "object", "properties": {}}}]
INPUT: dict[str, Any] = {
    "threadId": "t1",
    "runId": "r1",
    "messages": [{"id": "u1", "role": "user", "content": "hi"}],
    "state": {"page": 1},
    "tools": FRONTEND,
}


def stream(*turns: Any) -> bytes:
    async def go() -> bytes:
        service = RunService(
            store=MemoryRunStore(),
            watchdog=RememberedWatchdog(),
            model=ScriptedModel(*turns),
            agents=catalogue(tools=("searchDatabase", "controlDevice", "readTelemetry")),
            configuration=as_built(),
            tools=DeviceTools(lambda: pytest.fail("no device is touched here")).tools(),
            clock=SetClock(),
            limits=Limits(),
        )
        frames = KeptFrames()
        await (await service.start(caller(), parse_run_input(orjson.dumps(INPUT)))).execute(frames)
        return frames.data

    return asyncio.run(go())


def read(data: bytes) -> dict[str, Any]:
    assert NODE is not None
    done = subprocess.run(
        [NODE, str(Path(__file__).with_name("client.mjs"))],
        input=json.dumps({"stream": data.decode(), "input": INPUT}).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["error"] == ""
    assert told["warnings"] == []
    return told


@needs_client
@pytest.mark.req("R-K-38", "R-K-40")
def test_the_client_holds_what_was_said_and_the_user_in_its_state() -> None:
    told = read(
        stream(
            [
                *text("Let me ", "see."),
                *tool("c1", "unknownTool", '{"a"', ":1}"),
                *tool("c2", "ask", "{}"),
                *ended(StopReason.TOOL_USE, Usage(1, 2, 3, 4)),
            ]
        )
    )

    assert told["pending"] == ["c2"]
    assert told["state"] == {"page": 1, "user": {"id": caller().user_id, "name": "Ada", "avatar": caller().avatar}}
    user, assistant, result = told["messages"]
    assert user["content"] == "hi"
    assert assistant["content"] == "Let me see."
    assert [(each["id"], each["function"]["arguments"]) for each in assistant["toolCalls"]] == [
        ("c1", '{"a":1}'),
        ("c2", "{}"),
    ]
    assert (result["role"], result["toolCallId"]) == ("tool", "c1")


@needs_client
def test_the_client_accepts_a_failed_run() -> None:
    told = read(stream([*text("Ha"), *tool("c1", "ask")[:1], ModelFailed(RunErrorCode.MODEL_STREAM_CUT)]))

    assert told["runError"] == "MODEL_STREAM_CUT"


def test_the_port_of_the_client_s_rules_finds_what_the_client_refuses() -> None:
    start = {"type": "RUN_STARTED", "threadId": "t", "runId": "r", "protocolVersion": "1.0"}
    opened = {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}
    done = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r", "outcome": {"type": "success"}}
    refused: list[list[dict[str, Any]]] = [
        [opened],
        [start],
        [start, opened, done],
        [start, start],
        [start, done, opened],
    ]
    for bad in refused:
        with pytest.raises(ProtocolViolated):
            verify(bad)
    verify([start, done])

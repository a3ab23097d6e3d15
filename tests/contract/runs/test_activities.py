"""Activities of calls while they are made, as clients of AG-UI hold them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from karma.models.ports import StopReason
from karma.tools.domain import FILE
from karma.tools.toolbox import ToolContext
from tests.contract.runs.test_client import CLIENTS, CURRENT, NODE, every_client, needs_client
from tests.contract.runs.test_inputs import Served
from tests.fakes.runs import ScriptedModel, ended, text, tool
from tests.support import mcp_server
from tests.support.run_world import ECHO, Echo, asked, user
from tests.unit.runs.test_activities import calls, world


@needs_client
@pytest.mark.req("R-K-40")
@every_client
def test_a_client_that_knows_activities_holds_what_was_shown_last(client: str) -> None:
    version = "1.0" if client == CURRENT else None
    question = user("go", "u1")
    made = world(calls("hi"), [*text("Done"), *ended()])
    stream = asyncio.run(made.go(asked(question, run="r1", protocolVersion=version))).data

    shown = held_by(client, stream, question)

    assert shown == ([{"toolCallId": "c1", "word": "hi", "status": "sent"}] if client == CURRENT else [])


def held_by(client: str, stream: bytes, question: dict[str, Any]) -> list[Any]:
    """Return the activities that a client holds after a run that has called one tool and said something."""
    body: dict[str, Any] = {"threadId": "t1", "runId": "r1", "messages": [question], "tools": []}
    done = subprocess.run(
        [str(NODE), str(Path(__file__).with_name("client.mjs")), CLIENTS[client]],
        input=json.dumps([{"stream": stream.decode(), "input": body}]).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode()
    (told,) = json.loads(done.stdout)
    assert (told["error"], told["warnings"]) == ("", [])
    others = [each["role"] for each in told["messages"] if each["role"] != "activity"]
    assert others == ["user", "assistant", "tool", "assistant"]
    return [each["content"] for each in told["messages"] if each["role"] == "activity"]


@needs_client
@pytest.mark.req("R-K-40")
@every_client
def test_a_client_that_knows_activities_holds_how_far_an_mcp_server_came(client: str) -> None:
    question = user("go", "u1")
    body = {"threadId": "t1", "runId": "r1", "messages": [question]}
    with mcp_server.serving() as (url, _):
        made = Served(url)
        calls_it = [*tool("c1", "server-1__advance", '{"steps":4}'), *ended(StopReason.TOOL_USE)]
        made.model = ScriptedModel(calls_it, [*text("Done."), *ended()])
        version = {"protocolVersion": "1.0"} if client == CURRENT else {}
        stream = asyncio.run(made.answer_one({**body, **version}))

    shown = held_by(client, stream, question)

    last = {"server": "server-1", "tool": "advance", "progress": 4, "total": 4, "message": "step 4"}
    assert shown == ([{"toolCallId": "c1", **last}] if client == CURRENT else [])
    assert [each.role for each in made.model.requests[-1].messages] == ["user", "assistant", "tool"]
    assert b"step 4" not in orjson.dumps([each.content for each in made.thread().messages])


async def waiting(_: Echo, context: ToolContext) -> object:
    """Show a file that comes to be while it is waited for: members are added, and changed."""
    at = {"deviceId": "d1", "path": "/a.txt"}
    file = {**at, "fileId": "f1", "totalBytes": 2**33}
    context.show(FILE, {**at, "status": "expected"})
    context.show(FILE, {**file, "status": "uploading", "uploadedBytes": 0})
    context.show(FILE, {**file, "status": "ready", "uploadedBytes": 2**33})
    return {}


@needs_client
@pytest.mark.req("R-K-40")
def test_a_client_holds_a_file_that_came_to_be_while_it_was_waited_for() -> None:
    question = user("go", "u1")
    made = world(calls("hi"), [*text("Done"), *ended()])
    made.tools = [replace(ECHO, run=waiting)]
    stream = asyncio.run(made.go(asked(question, run="r1"))).data

    (shown,) = held_by(CURRENT, stream, question)

    file = {"deviceId": "d1", "path": "/a.txt", "fileId": "f1", "totalBytes": 2**33, "uploadedBytes": 2**33}
    assert shown == {"toolCallId": "c1", **file, "status": "ready"}

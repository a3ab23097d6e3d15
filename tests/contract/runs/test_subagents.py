"""Runs whose agents call others, as clients of AG-UI read them: those that know subagents, and those that do not."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from karma.core.ids import RunId
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import ModelFailed
from karma.runs.domain import RunKey
from karma.runs.events import frames
from karma.runs.plan import RunLimits
from karma.runs.replay import read
from karma.runs.requests import parse_run_input
from karma.runs.subagents.steps import read_steps
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from local import frontends
from tests.fakes.runs import KeptFrames, caller, ended, text, tool
from tests.support.lost_runs import KEY, THREAD, Life, begin, go_on
from tests.support.subagents import Delegating, SubagentWorld

NODE = shutil.which("node")
CURRENT = "1.0.0"
CLIENTS = frontends.clients()

needs_client = pytest.mark.skipif(
    NODE is None or CURRENT not in CLIENTS, reason="node or @ag-ui/client is not installed"
)
every_client = pytest.mark.parametrize("client", sorted(CLIENTS) or [CURRENT])


def read_by(client: str, runs: list[tuple[bytes, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Let a client read streams, each as the answer to its input."""
    assert NODE is not None
    told = [{"stream": data.decode(), "input": body} for data, body in runs]
    done = subprocess.run(
        [NODE, str(Path(__file__).with_name("client.mjs")), CLIENTS[client]],
        input=json.dumps(told).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return list(json.loads(done.stdout))


def task(words: str) -> str:
    return orjson.dumps({"task": words}).decode()


class Family(SubagentWorld):
    """A lead that calls two scouts at once, one of which calls a digger whose tool has to be approved.

    With `alone` it calls that one alone: what the run that answers goes on from ends with the call then.
    """

    def __init__(self, *, alone: bool = False) -> None:
        super().__init__()
        rule = ApprovalRule(policy=ApprovalPolicy.ALWAYS)
        self.agent("digger", tools=("echo",), approvals=(ToolApproval(tool="echo", rule=rule),))
        self.agent("scout", "digger")
        self.agent("watcher", tools=("echo",))
        self.agent("lead", "scout", "watcher")
        both = [*tool("c1", "scout", task("look")), *tool("c2", "watcher", task("watch"))]
        self.script(
            "lead",
            [*text("I ask."), *(both[: len(both) // 2] if alone else both), *ended()],
            [*text("All told."), *ended()],
        )
        self.script("scout", [*text("Down."), *tool("c1", "digger", task("dig")), *ended()], [*text("Up."), *ended()])
        self.script("watcher", [*text("Hm."), *tool("c1", "echo", '{"word":"w"}'), *ended()], [*text("Ok."), *ended()])
        self.script(
            "digger", [*text("May I?"), *tool("c1", "echo", '{"word":"d"}'), *ended()], [*text("Dug."), *ended()]
        )

    def stream(self, body: dict[str, Any]) -> bytes:
        async def go() -> bytes:
            sink = KeptFrames()
            await (await self.service.start(caller(), parse_run_input(orjson.dumps(body)))).execute(sink)
            return sink.data

        return asyncio.run(go())


def resume(body: dict[str, Any], held: list[dict[str, Any]], run: str) -> dict[str, Any]:
    """Make the request by which a client that holds these messages approves the call of the digger."""
    answer = {"interruptId": "r1/1", "status": "resolved", "payload": {"approved": True}}
    return {**body, "runId": run, "messages": held, "resume": [answer]}


@functools.cache
def approved(*, alone: bool, repeated: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what the current client holds of a run that asks, and then of the one that it approves the call with."""
    world = Family(alone=alone)
    props = {"forwardedProps": {"agent_id": "lead"}, "protocolVersion": "1.0"}
    body = {"threadId": "t1", "tools": [], "state": {}, "context": [], **props}
    first = {**body, "runId": "r1", "messages": [{"id": "u1", "role": "user", "content": "go"}]}
    (asked,) = read_by(CURRENT, [(world.stream(first), first)])
    second = resume(body, asked["messages"], "r2")
    answer = world.stream(second)
    if repeated:
        answer = world.stream(second)
    (told,) = read_by(CURRENT, [(answer, second)])
    assert (told["error"], told["runError"]) == ("", "")
    return asked["messages"], told["messages"]


@functools.cache
def heard(client: str) -> tuple[list[dict[str, Any]], Family]:
    """Let a client read a run that asks, and the one that goes on with the answer."""
    world = Family()
    version = {"protocolVersion": "1.0"} if client == CURRENT else {}
    question = {"id": "u1", "role": "user", "content": "go"}
    body = {
        "threadId": "t1",
        "tools": [],
        "state": {},
        "context": [],
        "forwardedProps": {"agent_id": "lead"},
        **version,
    }
    first = {**body, "runId": "r1", "messages": [question]}
    asked = world.stream(first)
    answer = {"interruptId": "r1/1", "status": "resolved", "payload": {"approved": True}}
    second = {**body, "runId": "r2", "messages": [question], "resume": [answer]}
    return read_by(client, [(asked, first), (world.stream(second), second)]), world


@needs_client
@every_client
def test_every_client_takes_them_whole(client: str) -> None:
    told, world = heard(client)
    for each in told:
        assert (each["error"], each["runError"]) == ("", "")
        assert [line for line in each["warnings"] if "[ag-ui][enforce]" in line] == []
    thread = world.thread()
    own = [(each.role, str(each.content)) for each in thread.messages]
    assert [content for role, content in own if role == "assistant"] == ["I ask.", "All told."]
    held = [each for each in told[-1]["messages"] if not each.get("subagentRunId")]
    assert [each["content"] for each in held if each["role"] == "assistant"] == ["I ask.", "All told."]
    assert {each["content"] for each in held if each["role"] == "tool"} == {"Up.", "Ok."}


@needs_client
def test_those_that_know_subagents_hold_what_they_say_as_theirs() -> None:
    told, _ = heard(CURRENT)
    said = {each["content"] for each in told[0]["messages"] if each.get("subagentRunId") and each.get("content")}
    assert said >= {"Down.", "Hm.", "Ok.", "May I?"}
    later = {each["content"] for each in told[1]["messages"] if each.get("subagentRunId") and each.get("content")}
    assert later >= {"Dug.", "Up."}


@needs_client
@pytest.mark.parametrize("repeated", [False, True], ids=["at once", "with the stream lost"])
@pytest.mark.parametrize("alone", [False, True], ids=["beside another", "alone"])
def test_those_that_approve_a_subagent_s_call_keep_it(alone: bool, repeated: bool) -> None:
    before, after = approved(alone=alone, repeated=repeated)
    ids = [each["id"] for each in before]
    assert [each["id"] for each in after if each["id"] in ids] == ids, "it loses some, or their order"
    calls = {call["id"] for each in after for call in each.get("toolCalls", ()) if each.get("subagentRunId")}
    results = [each for each in after if each["role"] == "tool" and each.get("subagentRunId")]
    assert results
    assert {each["toolCallId"] for each in results} <= calls


@needs_client
def test_one_whose_processes_died_is_taken_whole() -> None:
    world = Delegating()
    begin(world, Life(70), KeptFrames())
    for steps in (60, 90, None):
        go_on(world, Life(steps))
    data = b"".join(frames(each.events, n=each.n) for each in read(world.store, KEY, after=0, limit=10**6, link=list))
    body = {"threadId": "t1", "runId": "r1", "messages": [{"id": "u1", "role": "user", "content": "go"}], "tools": []}
    (told,) = read_by(CURRENT, [(data, body)])
    assert (told["error"], told["runError"]) == ("", "")
    own = [each for each in told["messages"] if not each.get("subagentRunId") and each["role"] != "activity"]
    kept = [message.id for message in world.store.thread(THREAD).messages]
    assert [each["id"] for each in own] == kept


def broken(*, is_transient: bool) -> ModelFailed:
    code = ModelErrorCode.MODEL_STREAM_CUT if is_transient else ModelErrorCode.MODEL_REJECTED
    return ModelFailed(code, usage=Usage(10), is_transient=is_transient)


class Breaking(SubagentWorld):
    """A lead that calls a scout and a watcher at once; the scout's first answer breaks off while the other speaks."""

    def __init__(self, way: str) -> None:
        fails = way == "the run fails"
        super().__init__(limits=RunLimits(run_timeout_s=0.5, reserve_s=0) if fails else None)
        self.agent("scout", tools=("echo",))
        self.agent("watcher", tools=("echo",))
        self.agent("lead", "scout", "watcher")
        asks = [*tool("c1", "scout", task("look")), *tool("c2", "watcher", task("watch"))]
        self.script("lead", [*text("I ask."), *asks, *ended()], [*text("All told."), *ended()])
        half = [*text("half an"), *tool("toolu_01A09q90qw90lq917835", "echo", '{"word":"d"}')[:2]]
        has_broken = asyncio.Event()

        async def ever() -> None:
            await asyncio.Event().wait()

        behind: dict[str, list[Any]] = {
            "it is asked again": [broken(is_transient=True)],
            "it fails": [broken(is_transient=False)],
            "the run fails": [ever],
        }
        self.script("scout", [*half, has_broken.set, *behind[way]], [*text("There."), *ended()])
        slow = [*text("One,"), has_broken.wait, lambda: asyncio.sleep(0.05), *text(" two."), *ended()]
        self.script("watcher", slow)

    def told(self) -> tuple[bytes, dict[str, Any]]:
        body = {
            "threadId": "t1",
            "runId": "r1",
            "tools": [],
            "state": {},
            "context": [],
            "forwardedProps": {"agent_id": "lead"},
            "protocolVersion": "1.0",
            "messages": [{"id": "u1", "role": "user", "content": "go"}],
        }

        async def go() -> bytes:
            sink = KeptFrames()
            await (await self.service.start(caller(), parse_run_input(orjson.dumps(body)))).execute(sink)
            return sink.data

        return asyncio.run(go()), body

    def kept(self) -> set[str]:
        """Return the ids of the messages that are stored, of the thread and of its subagents."""
        key = RunKey(caller().user_id, RunId("r1"))
        steps = read_steps(self.store.delegated(key), own=key.run_id)
        said = {each.id for one in steps.transcripts.values() for _, each in one.messages[1:]}
        return said | {each.id for each in self.thread().messages}


@needs_client
@pytest.mark.fault("F-06i")
def test_the_stock_client_holds_what_is_stored_where_a_subagent_s_answer_broke_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("karma.runs.log.FLUSH_AFTER_S", 0.0)
    ways = ("it is asked again", "it fails", "the run fails")
    runs: list[tuple[Breaking, bytes, dict[str, Any]]] = []
    for way in ways:
        world = Breaking(way)
        data, body = world.told()
        assert b"half an" in data, way
        runs.append((world, data, body))
    heard = read_by(CURRENT, [(data, body) for _, data, body in runs])
    for way, (world, _, _), told in zip(ways, runs, heard, strict=True):
        assert (told["error"], told["warnings"]) == ("", []), way
        assert told["runError"] == ("DEADLINE_EXCEEDED" if way == "the run fails" else ""), way
        held = {each["id"] for each in told["messages"] if each["role"] != "activity"}
        assert held == world.kept(), way
        assert "One, two." in str(told["messages"]), way

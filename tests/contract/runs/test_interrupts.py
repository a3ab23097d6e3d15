"""Interrupts as the stock client of AG-UI 1.0 answers them, over HTTP."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import subprocess
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import orjson
import pytest

from karma.core.errors import AppError
from karma.models.domain import ModelErrorCode
from karma.models.ports import ModelEvent, ModelFailed, ModelRequest, StopReason
from karma.runs.requests import parse_run_input
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from local import frontends
from tests.fakes.runs import ScriptedModel, SetClock, ended, events_of, text, tool
from tests.support.agui import verify
from tests.support.run_world import World, spec

NODE = shutil.which("node")
SAID = '{"said":"hi","to":"Ada"}'

pytestmark = pytest.mark.skipif(
    NODE is None or "1.0.0" not in frontends.clients(), reason="node or @ag-ui/client is not installed"
)


class Deciding(ScriptedModel):
    """Calls `echo` for a user's first words, and a tool of the client's in one conversation; then it says something."""

    def __init__(self, thread: str) -> None:
        super().__init__()
        self._thread = thread
        self._breaks = thread == "broken"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        turn: list[Any] = [*text("Done."), *ended()]
        if len(request.messages) == 1:
            also = tool("f1", "askUser", "{}") if self._thread == "mixed" else []
            turn = [*tool("c1", "echo", '{"word":"hi"}'), *also, *ended(StopReason.TOOL_USE)]
        elif self._breaks:
            self._breaks = False
            raise ModelFailed(ModelErrorCode.MODEL_OVERLOADED)
        for step in turn:
            yield step


class Server:
    """Answers the requests of one client, each conversation in a world of its own, which its path names."""

    def __init__(self) -> None:
        self.worlds: dict[str, World] = {}

    def answer(self, body: bytes) -> tuple[int, bytes]:
        value = orjson.loads(body)
        thread = value["threadId"]
        world = self.worlds.get(thread)
        if world is None:
            world = self.worlds[thread] = World()
            # The client compares `expiresAt` with its own clock.
            world.clock = SetClock() if thread == "expired" else SetClock(datetime.now(UTC))
            world.model = Deciding(thread)
            rule = ToolApproval(tool="echo", rule=ApprovalRule(policy=ApprovalPolicy.ALWAYS))
            world.agents.create(spec(name="careful", tools=("echo",), approvals=(rule,)))
        value["forwardedProps"] = {"agent_id": "careful"}
        interrupts = world.store.interrupts_by_id
        held = [each.awaited.id for each in interrupts.values()]
        try:
            data = asyncio.run(world.go(parse_run_input(orjson.dumps(value)))).data
        except AppError as exc:
            return exc.status, orjson.dumps({"error": {"code": exc.code, "message": exc.message}})
        verify(events_of(data), held=held, asked=[each.awaited.id for each in interrupts.values() if not each.answer])
        return 200, data


class Answers(Protocol):
    """The server that answers a client's requests."""

    def answer(self, body: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer to a request."""
        ...


@contextmanager
def serving(server: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, data = server.answer(body)
            self.send_response(status)
            self.send_header("content-type", "text/event-stream" if status == 200 else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


@functools.cache
def heard() -> dict[str, Any]:
    """Let the client hold all its conversations, in one process."""
    assert NODE is not None
    with serving(Server()) as url:
        script = str(Path(__file__).with_name("interrupts.mjs"))
        done = subprocess.run([NODE, script, url], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def results(run: dict[str, Any]) -> list[str]:
    return [each["content"] for each in run["messages"] if each["role"] == "tool"]


def told_in(name: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = heard()["found"][name]
    asked = next(each for each in runs if each["interrupts"])
    assert (asked["error"], len(asked["interrupts"])) == ("", 1)
    return runs


def test_the_client_has_nothing_to_warn_of() -> None:
    assert heard()["warnings"] == []


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("approved", SAID),
        ("edited", '{"arguments_changed_by_user":{"word":"ho"},"result":{"said":"ho","to":"Ada"}}'),
        ("refused", '{"error":"The user refused this call: it was not made."}'),
        ("cancelled", '{"error":"The user cancelled this call: it was not made."}'),
    ],
)
def test_an_answer_goes_on_with_the_conversation(name: str, result: str) -> None:
    _, last = told_in(name)
    assert (last["error"], last["runError"], last["interrupts"]) == ("", "", [])
    assert results(last) == [result]
    assert [each["role"] for each in last["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert last["messages"][-1]["content"] == "Done."


def test_an_answer_that_does_not_fit_can_be_given_again() -> None:
    asked, wrong, last = told_in("unfitting")
    assert (wrong["error"], wrong["interrupts"]) == ("VALIDATION_ERROR", asked["interrupts"])
    assert results(last) == [SAID]


def test_an_interrupt_that_has_expired_can_be_cancelled() -> None:
    _, late, last = told_in("expired")
    assert "can no longer be answered" in late["error"]
    assert (last["error"], last["interrupts"]) == ("", [])
    assert "cancelled this call" in results(last)[0]


def test_a_user_who_goes_on_cancels_as_the_client_demands() -> None:
    _, uncovered = told_in("uncovered")
    assert "not addressed by resume" in uncovered["error"]
    _, last = told_in("passed")
    assert last["error"] == ""
    assert [each["role"] for each in last["messages"]] == ["user", "assistant", "tool", "user", "assistant"]


def test_a_tool_of_the_client_s_comes_first_and_is_followed_by_the_question() -> None:
    first, asked, last = told_in("mixed")
    assert (first["pending"], first["interrupts"]) == (["f1"], [])
    assert (asked["error"], results(asked), len(asked["interrupts"])) == ("", ["blue"], 1)
    assert (last["error"], last["interrupts"]) == ("", [])
    assert sorted(results(last)) == sorted([SAID, "blue"])
    assert last["messages"][-1]["content"] == "Done."


def test_the_same_answer_after_a_run_that_failed_is_taken() -> None:
    asked, failed, last = told_in("broken")
    assert (failed["runError"], failed["interrupts"]) == ("MODEL_OVERLOADED", asked["interrupts"])
    assert (last["error"], last["runError"], last["interrupts"]) == ("", "", [])
    assert results(last) == [SAID]
    assert last["messages"][-1]["content"] == "Done."

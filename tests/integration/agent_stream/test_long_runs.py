"""Runs that outlive their processes: twenty minutes over three of them, and a deployment in the middle of ten.

Time is moved, not waited for. Processes are the functions' own, on real tables and queues.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_stream import services
from karma.conversations.domain import ThreadKey
from karma.core.clock import epoch_ms
from karma.core.ids import RunId, ThreadId
from karma.identity.sessions import tokens
from karma.identity.sessions.signing_keys import KeyRing
from karma.runs.domain import ENGINE_SCHEMA, Run, RunKey, RunStatus
from karma.runs.items import run_pk, segment_sk
from local.processes import running
from tests.fakes.runs import SetClock, events_of
from tests.integration.agent_stream.conftest import Streams
from tests.support import on_demand
from tests.support.agui import verify
from tests.support.model_server import Answer, message, text, tool_use
from tests.support.stack import Context, Drain, SqsEvent

ROOT = Path(__file__).resolve().parents[3]
STEPS = 4
A_TURN = timedelta(minutes=4)
A_PROCESS = timedelta(minutes=7)
OLD, NEW = 5, 5
"""Runs whose processes are killed as the release is replaced, and runs that the old release still ends."""


def step_of(request: dict[str, Any]) -> int:
    """Return the number of answers that a model is shown of its run."""
    return sum(each["role"] == "assistant" for each in request["messages"])


def answer_of(step: int) -> list[bytes]:
    """Return the answer of a step: a search until the last, which depends on the conversation alone."""
    said = text(f"step {step}, ", "then the next. ")
    if step == STEPS:
        return message(said)
    return message(said, tool_use(f"c{step}", "searchDatabase", "{}"), stop_reason="tool_use")


def thread_of(streams: Streams, name: str) -> ThreadKey:
    return ThreadKey(streams.user_id, ThreadId(f"thread-{name}"))


def run_of(streams: Streams, name: str) -> Run:
    run = services.run_store().run(RunKey(streams.user_id, RunId(f"run-{name}")))
    assert run is not None
    return run


def told(streams: Streams, name: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return a run's conversation without the ids that differ from run to run."""
    thread = services.run_store().thread(thread_of(streams, name))
    found = thread.conversation(thread.latest).messages
    return [(each.role, str(each.content), tuple(call.name for call in each.tool_calls)) for each in found]


def history_of(streams: Streams, name: str) -> str:
    """Return who has written a run's log and what, and how it ended, for the message of a failure."""
    run = run_of(streams, name)
    log = services.run_store().segments(run.key, after=0, limit=1000)
    rows = [
        f"{each.n}: epoch {each.epoch} of {each.writer[-6:]}, {[json.loads(data)['type'] for data in each.events]}"
        for each in log
    ]
    told = f"{name}: {run.status} {run.error_code or run.cancel_reason}, {run.turns} turns, {run.steps} steps"
    return "\n".join([told, *rows])


def body_of(name: str) -> dict[str, Any]:
    messages = [{"id": f"u-{name}", "role": "user", "content": "Go."}]
    return {"threadId": f"thread-{name}", "runId": f"run-{name}", "messages": messages}


def log_of(streams: Streams, name: str) -> list[dict[str, Any]]:
    """Return what a client is told that comes back after the end, with nothing in its hands."""
    ring = KeyRing.parse(streams.stack.secret_values["auth"])
    streams.token = tokens.issue(streams.user_id, ring=ring, now=services.clock().now())  # the first one has expired
    replayed = streams.run(streams.make("GET", f"/api/v1/runs/run-{name}/events"))
    return events_of(replayed.data)


class TestARunOfTwentyMinutes:
    def test_is_handed_over_twice_and_ends_as_one_of_a_single_process(
        self,
        streams: Streams,
        sqs_event: SqsEvent,
        lambda_context: Context,
        drain: Drain,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from agent_stream import execution

        clock = SetClock(datetime.now(UTC))
        monkeypatch.setattr(services, "clock", lambda: clock)
        left_ms = int(A_PROCESS.total_seconds() * 1000)
        monkeypatch.setattr(type(lambda_context), "get_remaining_time_in_millis", lambda _: left_ms)
        begun = clock.now()

        def choose(request: dict[str, Any]) -> Iterable[bytes]:
            clock.pass_by(A_TURN)
            return answer_of(step_of(request))

        streams.model.choose = choose
        deadline = {"karma.deadline": {"epoch_ms": epoch_ms(begun + A_PROCESS)}}
        first = streams.run(streams.agent(body_of("long"), extensions=deadline))
        processes = 1
        with closing(execution.loop()) as loop:
            while run_of(streams, "long").status is RunStatus.RUNNING:
                (asked,) = drain(streams.stack.queues["executions"])
                processes += 1
                clock.pass_by(timedelta(milliseconds=1))
                handed: Any = execution.lambda_handler(sqs_event([json.loads(asked["Body"])]), lambda_context)
                assert handed == {"batchItemFailures": []}
            loop.run_until_complete(services.model().close())
        took = clock.now() - begun

        streams.run(streams.agent(body_of("short")))

        assert processes == 3
        assert timedelta(minutes=20) <= took < timedelta(minutes=21)
        long, short = run_of(streams, "long"), run_of(streams, "short")
        assert (long.status, long.turns, long.usage) == (RunStatus.FINISHED, STEPS + 1, short.usage)
        assert long.cost_micros == short.cost_micros
        assert told(streams, "long") == told(streams, "short")
        # The client of the first process saw its stream end in the middle; who comes back sees all of it, once.
        assert events_of(first.data)[-1]["type"] not in {"RUN_FINISHED", "RUN_ERROR"}
        shown = log_of(streams, "long")
        verify(shown)
        assert Counter(each["type"] for each in shown)["RUN_FINISHED"] == 1


@contextmanager
def release_before(streams: Streams, at: Path) -> Iterator[int]:
    """Serve a copy of this release with the layout before as a process of its own; yields its port."""
    for folder in ("functions/agent_stream", "layers/common/python"):
        shutil.copytree(ROOT / folder, at / folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    domain = at / "layers/common/python/karma/runs/domain.py"
    now, before = f"\nENGINE_SCHEMA = {ENGINE_SCHEMA}\n", f"\nENGINE_SCHEMA = {ENGINE_SCHEMA - 1}\n"
    assert now in domain.read_text()
    domain.write_text(domain.read_text().replace(now, before))
    on_demand.make_all()
    roots = [str(at / "layers/common/python"), str(at / "functions")]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "uvicorn", "agent_stream.app:app", "--fd", str(listener.fileno()),
                   "--no-access-log", "--log-level", "error"]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
        own: dict[str, Any] = {
            "cwd": at,
            "env": environment,
            "pass_fds": [listener.fileno()],
            "stdout": subprocess.DEVNULL,
        }
        with running(command, **own) as supervisor:
            yield listener.getsockname()[1]
            for process in psutil.Process(supervisor.pid).children():
                process.kill()  # at once, as a machine that is gone


def ask(streams: Streams, port: int, name: str) -> bytes:
    """Ask for a run over HTTP, and read until its stream ends, however it does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"authorization": f"Bearer {streams.token}", "content-type": "application/json"}
    read = b""
    try:
        connection.request("POST", "/api/agent", json.dumps(body_of(name)), headers)
        response = connection.getresponse()
        while chunk := response.read1():
            read += chunk
    except (OSError, http.client.HTTPException):
        pass  # the process was killed
    finally:
        connection.close()
    return read


class TestADeploymentAmidTenRuns:
    def test_lets_all_of_them_end_well(
        self,
        streams: Streams,
        sqs_event: SqsEvent,
        lambda_context: Context,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Half of them are killed with their process; the others are ended by the old release beside the new one."""
        monkeypatch.setattr(type(lambda_context), "get_remaining_time_in_millis", lambda _: 600_000)
        go_on, met = threading.Event(), threading.Barrier(OLD + NEW + 1)

        def choose(request: dict[str, Any]) -> Answer:
            step = step_of(request)
            if step == 2 and not go_on.is_set():
                met.wait(60)
                go_on.wait(60)
            return Answer(answer_of(step))

        killed, kept = [f"old-{n}" for n in range(OLD)], [f"new-{n}" for n in range(NEW)]
        streams.model.choose = choose
        with ThreadPoolExecutor(OLD + NEW) as clients, release_before(streams, tmp_path / "kept") as beside:
            with release_before(streams, tmp_path / "killed") as replaced:
                asked = [clients.submit(ask, streams, replaced, name) for name in killed]
                others = [clients.submit(ask, streams, beside, name) for name in kept]
                met.wait(60)
            assert {run_of(streams, name).status for name in [*killed, *kept]} == {RunStatus.RUNNING}
            assert {run_of(streams, name).engine_schema for name in killed} == {ENGINE_SCHEMA - 1}
            go_on.set()
            cut = [each.result(60) for each in asked]
            self._take_over(streams, killed, sqs_event, lambda_context)
            ended = [each.result(60) for each in others]

        streams.run(streams.agent(body_of("alone")))
        for name in [*killed, *kept]:
            run = run_of(streams, name)
            assert (run.status, run.turns) == (RunStatus.FINISHED, STEPS + 1), history_of(streams, name)
            assert told(streams, name) == told(streams, "alone")
            verify(log_of(streams, name))
        assert all(b"RUN_STARTED" in each and b"RUN_FINISHED" not in each for each in cut)
        assert all(b"RUN_FINISHED" in each for each in ended)

    @staticmethod
    def _take_over(streams: Streams, names: Sequence[str], sqs_event: SqsEvent, context: Context) -> None:
        from agent_stream import execution

        with closing(execution.loop()) as loop:
            for name in names:
                tail = services.run_store().tail(run_of(streams, name).key)
                assert tail is not None
                streams.stack.aws("dynamodb").update_item(
                    TableName=streams.stack.tables["agents"],
                    Key={"pk": {"S": run_pk(tail.key)}, "sk": {"S": segment_sk(tail.n)}},
                    UpdateExpression="SET lease_until_ms = :past",
                    ExpressionAttributeValues={":past": {"N": str(epoch_ms(datetime.now(UTC)) - 1)}},
                )
                body = {"user_id": tail.key.user_id, "run_id": tail.key.run_id}
                handed: Any = execution.lambda_handler(sqs_event([body]), context)
                assert handed == {"batchItemFailures": []}
            loop.run_until_complete(services.model().close())

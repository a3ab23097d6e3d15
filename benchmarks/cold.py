"""Cold starts: time of a fresh process from its start to the answer of one real event, beside B of the same minute.

B is a process that imports boto3 and makes a DynamoDB client. Each function gets an event that it serves through its
real clients; AWS's answers come from benchmarks.replay. Rounds are interleaved; figures are medians.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.events import ingest_event, webhook_event
from benchmarks.report import Row
from benchmarks.world import ROOT, World, http_event

BASELINE = "import boto3; boto3.client('dynamodb', region_name='us-east-1')"
_SERVE = """
import json, sys
event = json.load(sys.stdin)
from {module} import lambda_handler
class Context:
    function_name = "bench"; memory_limit_in_mb = 512; function_version = "1"
    invoked_function_arn = "arn:aws:lambda:us-east-1:0:function:bench"
    aws_request_id = "01890000-0000-7000-8000-000000000000"
    get_remaining_time_in_millis = staticmethod(lambda: 29000)
answer = lambda_handler(event, Context())
assert answer.get("statusCode", 200) < 300 and not answer.get("batchItemFailures"), answer
"""
_AGENT = (
    '{"threadId": "%s", "runId": "%s", "state": {}, "messages": [{"id": "m1", "role": "user", "content": '
    '"deltas=5 pace_ms=0"}], "tools": [], "context": [], "forwardedProps": {}}'
)
TARGETS: dict[str, float | None] = {
    "api": 1.9,
    "api on stock FastAPI + Mangum": None,
    "agent_stream": 1.3,
    "device_ingest": 1.2,
    "billing_webhook": 1.2,
}


def measure(world: World, *, rounds: int = 9) -> list[Row]:
    """Return a row a function."""
    env = world.environment(replayed=True)
    device_list = http_event("GET", "/api/v1/devices", headers={"authorization": f"Bearer {world.tokens[0]}"})
    cases: dict[str, Callable[[], float]] = {
        "B": lambda: process(BASELINE, "", env),
        "api": lambda: process(_SERVE.format(module="api.handler"), json.dumps(device_list), env),
        "api on stock FastAPI + Mangum": lambda: process(
            _SERVE.format(module="benchmarks.stock"), json.dumps(device_list), env
        ),
        "agent_stream": lambda: _first_event(world, env),
        "device_ingest": lambda: process(
            _SERVE.format(module="device_ingest.handler"), json.dumps(ingest_event(world, messages=1)), env
        ),
        "billing_webhook": lambda: process(
            _SERVE.format(module="billing_webhook.handler"), json.dumps(webhook_event()), env
        ),
    }
    for run in cases.values():  # writes .pyc, and teaches the proxy
        run()
    # Each start has its own B right before it: what else the machine does meanwhile hits both.
    times: dict[str, list[float]] = {name: [] for name in cases}
    ratios: dict[str, list[float]] = {name: [] for name in TARGETS}
    for _ in range(rounds):
        for name in TARGETS:
            times["B"].append(cases["B"]())
            times[name].append(cases[name]())
            ratios[name].append(times[name][-1] / times["B"][-1])
    baseline = statistics.median(times["B"]) * 1000
    what = {
        "api": "authenticated GET /devices answered",
        "api on stock FastAPI + Mangum": "the same",
        "agent_stream": "bootstrap to RUN_STARTED on the wire",
        "device_ingest": "telemetry message stored",
        "billing_webhook": "event verified, stored, enqueued",
    }
    rows = []
    for name, target in TARGETS.items():
        ratio = statistics.median(ratios[name])
        measured = f"{ratio:.2f} B ({statistics.median(times[name]) * 1000:.0f} ms)"
        limit, kept = (f"<= {target} B", ratio <= target) if target is not None else ("", None)
        rows.append(Row(name, f"cold: {what[name]}", f"B = {baseline:.0f} ms", measured, limit, kept))
    return rows


def process(code: str, event: str, env: dict[str, str]) -> float:
    """Run a program with an event as its input, and return its seconds; BASELINE is the program of B."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], input=event, text=True, capture_output=True, env=env, check=False
    )
    spent = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return spent


def _first_event(world: World, env: dict[str, str]) -> float:
    """Start the bootstrap against a Runtime API that has one invocation; stop the clock at the first SSE event."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[float] = []
    event = json.dumps(agent_event(world)).encode()
    thread = threading.Thread(target=_runtime_api, args=(listener, event, seen), daemon=True)
    thread.start()
    own = {
        **env,
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{listener.getsockname()[1]}",
        "_HANDLER": "agent_stream.app:app",
        "LAMBDA_TASK_ROOT": str(ROOT / "functions"),
        "AWS_LAMBDA_FUNCTION_NAME": "bench",
    }
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(Path("functions/agent_stream/bootstrap")), sys.executable],
        cwd=ROOT, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        thread.join(30)
        if not seen:
            process.kill()
            raise RuntimeError(f"no event from the stream: {process.stderr.read()[-2000:]!r}")  # type: ignore[union-attr]
        return seen[0] - started
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
        listener.close()


def agent_event(world: World) -> dict[str, object]:
    """Make a run for the streaming function; ids are new each time."""
    from karma.core.ids import new_id

    body = (_AGENT % (new_id(), new_id())).encode()
    headers = {"authorization": f"Bearer {world.tokens[0]}", "accept": "text/event-stream"}
    return http_event("POST", "/api/agent", body=body, headers=headers)


def _runtime_api(listener: socket.socket, event: bytes, seen: list[float]) -> None:
    """Hand out one invocation, watch the response arrive, then hand out nothing."""
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nlambda-runtime-aws-request-id: 1\r\n"
        b"lambda-runtime-deadline-ms: %d\r\n"
        b"lambda-runtime-invoked-function-arn: arn:aws:lambda:us-east-1:0:function:b\r\n"
        b"content-length: %d\r\n\r\n" % (int(time.time() * 1000) + 60_000, len(event))
    )
    handed = False
    listener.settimeout(30)
    while not seen:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        received = b""
        with connection:
            while not seen:
                data = connection.recv(65536)
                if not data:
                    break
                received += data
                if b"/invocation/next" in received and b"\r\n\r\n" in received and not handed:
                    handed = True
                    connection.sendall(head + event)
                    received = b""
                elif b"data: {" in received or b"data:{" in received:
                    seen.append(time.perf_counter())

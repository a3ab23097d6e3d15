"""The whole way: HTTP client, local host, bootstrap, runtime client, ASGI app, and back."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from local.processes import running
from local.streamhost.host import WORKER_LIMIT
from local.streamhost.pool import WorkerPool
from local.streamhost.worker import FunctionSpec
from local.waiting import until
from tests.contract.runtime.hosting import DEADLINE_S, FIXTURES, ROOT, eventually, hosting_app, read_until_cut
from tests.fixtures.runtime.apps import DELTAS

SIX_MB = 6 * 1024 * 1024


@pytest.mark.req("R-K-39")
def test_deltas_reach_the_client_one_by_one_at_the_pace_of_their_source(tmp_path: Path) -> None:
    async def scenario() -> tuple[httpx.Headers, list[tuple[float, str]]]:
        async with (
            hosting_app("paced", tmp_path / "log") as (_, client),
            client.stream("POST", "/api/agent", json={}) as response,
        ):
            return response.headers, [(time.monotonic(), line) async for line in response.aiter_lines() if line]

    headers, arrived = asyncio.run(scenario())

    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    deltas = [(at, json.loads(line.removeprefix("data: "))) for at, line in arrived]
    assert [delta["n"] for _, delta in deltas] == list(range(DELTAS))
    source_spread = deltas[-1][1]["sent"] - deltas[0][1]["sent"]
    spread = deltas[-1][0] - deltas[0][0]
    assert spread >= 0.8 * source_spread
    assert len({at for at, _ in deltas}) == DELTAS


def test_the_request_reaches_the_app_whole(tmp_path: Path) -> None:
    async def scenario() -> httpx.Response:
        async with hosting_app("echo", tmp_path / "log") as (_, client):
            headers = [(b"x-own", "Zoë".encode()), (b"cookie", b"k=v; l=w"), (b"content-type", b"application/json")]
            return await client.put("/a%20b/c?x=1&x=2&y=%C3%BC", headers=headers, content='{"t":"für"}'.encode())

    response = asyncio.run(scenario())

    seen = response.json()
    assert response.status_code == 201
    assert response.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]
    assert (seen["method"], seen["path"], seen["query"]) == ("PUT", "/a b/c", "x=1&x=2&y=%C3%BC")
    assert seen["headers"]["cookie"] == "k=v; l=w"
    assert seen["headers"]["x-own"] == "Zoë"
    assert seen["client"] == "127.0.0.1"
    assert seen["body"] == '{"t":"für"}'.encode().decode("latin-1")
    assert seen["trace_id"].startswith("Root=1-")
    remaining_s = seen["extensions"]["karma.deadline"]["epoch_ms"] / 1000 - time.time()
    assert 0 < remaining_s <= 60


def test_binary_bodies_up_to_6_mb_pass_and_larger_ones_are_refused(tmp_path: Path) -> None:
    async def seven_mb() -> AsyncIterator[bytes]:
        for _ in range(7):
            yield b"x" * 1024 * 1024

    async def scenario() -> list[httpx.Response]:
        async with hosting_app("echo", tmp_path / "log") as (host, client):
            responses = [
                await client.post("/", content=os.urandom(SIX_MB)),
                await client.post("/", content=bytes(SIX_MB + 1)),
                await client.post("/", content=seven_mb()),
                await client.post("/", content=b"still alive"),
            ]
            assert host.workers == 1
            return responses

    whole, declared, chunked, after = asyncio.run(scenario())

    assert whole.json()["body_bytes"] == SIX_MB
    assert [declared.status_code, chunked.status_code, after.status_code] == [413, 413, 201]


def test_an_answer_is_read_to_its_end_after_the_client_has_left(tmp_path: Path) -> None:
    """AWS signals no disconnect: the app works on, and its process serves the next request."""
    marker = tmp_path / "finished"

    async def scenario() -> int:
        async with hosting_app("controlled", tmp_path / "log", max_workers=1) as (host, client):
            async with client.stream("GET", "/", params={"marker": str(marker), "then": "work"}) as response:
                await anext(response.aiter_raw())
            await eventually(lambda: marker.exists() and marker.read_text(), "the app works on to its end")
            again = await until_not_throttled(client, {"marker": str(marker), "then": "work"})
            assert again.text.endswith("data: last\n\n")
            assert host.workers == 1
            return int(marker.read_text())

    pid = asyncio.run(scenario())

    assert not psutil.pid_exists(pid)


async def until_not_throttled(client: httpx.AsyncClient, params: dict[str, str]) -> httpx.Response:
    async with asyncio.timeout(DEADLINE_S):
        while (response := await client.get("/", params=params)).status_code == 429:  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.01)
    return response


def test_more_invocations_than_processes_are_throttled(tmp_path: Path) -> None:
    marker = tmp_path / "go"

    async def scenario() -> tuple[int, list[str]]:
        async with hosting_app("controlled", tmp_path / "log", max_workers=2) as (host, client):
            params = {"marker": str(marker), "then": "wait"}
            first = client.build_request("GET", "/", params=params)
            running = [await client.send(first, stream=True) for _ in range(2)]
            refused = await client.get("/", params=params)
            assert host.workers == 2
            marker.touch()
            bodies = [(await response.aread()).decode() for response in running]
            return refused.status_code, bodies

    status, bodies = asyncio.run(scenario())

    assert status == 429
    assert WORKER_LIMIT == 24
    assert bodies == ["data: first\n\ndata: last\n\n"] * 2


@pytest.mark.parametrize("then", ["crash", "raise"])
def test_a_failure_in_mid_stream_cuts_the_connection_and_the_next_call_is_served(tmp_path: Path, then: str) -> None:
    marker = tmp_path / "go"
    marker.touch()

    async def scenario() -> tuple[bytes, int]:
        async with hosting_app("controlled", tmp_path / "log") as (host, client):
            async with client.stream("GET", "/", params={"marker": str(marker), "then": then}) as response:
                received = await read_until_cut(response)
            await eventually(lambda: host.workers == 1, "one worker in the place of the one that ended")
            after = await client.get("/", params={"marker": str(marker), "then": "wait"})
            return received, after.status_code

    assert asyncio.run(scenario()) == (b"data: first\n\n", 200)


def test_a_failure_before_the_first_byte_is_a_502_and_the_workers_log_tells(tmp_path: Path) -> None:
    async def scenario() -> httpx.Response:
        async with hosting_app("broken", tmp_path / "log") as (_, client):
            return await client.get("/")

    assert asyncio.run(scenario()).status_code == 502
    logged = json.loads((tmp_path / "log").read_text().splitlines()[0])
    assert logged["message"] == "invocation.failed"
    assert logged["error_type"] == "ValueError"


def test_a_function_that_cannot_start_is_a_502(tmp_path: Path) -> None:
    async def scenario() -> int:
        async with hosting_app("missing", tmp_path / "log") as (_, client):
            return (await client.get("/")).status_code

    assert asyncio.run(scenario()) == 502


def test_an_invocation_over_its_time_is_ended(tmp_path: Path) -> None:
    async def scenario() -> int:
        async with hosting_app("controlled", tmp_path / "log", timeout_s=0.3) as (host, client):
            params = {"marker": str(tmp_path / "never"), "then": "wait"}
            async with client.stream("GET", "/", params=params) as response:
                with pytest.raises(httpx.RemoteProtocolError):
                    await response.aread()
            await eventually(lambda: host.workers == 1, "one worker in the place of the one that ended")
            return (await client.get("/", params={"marker": str(FIXTURES), "then": "wait"})).status_code

    assert asyncio.run(scenario()) == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / SPDY/9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
    ids=["version", "tls", "length", "chunk", "head"],
)
def test_a_request_that_is_not_http_is_refused(tmp_path: Path, sent: bytes) -> None:
    async def scenario() -> bytes:
        async with hosting_app("echo", tmp_path / "log") as (host, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(host.url.rpartition(":")[2]))
            writer.write(sent)
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(scenario()).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.fault("F-23c")
def test_workers_that_are_still_starting_are_replaced_when_code_changes(tmp_path: Path) -> None:
    async def scenario() -> None:
        pool = WorkerPool(
            FunctionSpec(ROOT / "functions" / "agent_stream", log_file=tmp_path / "log"), prewarm=2, limit=2
        )
        await pool.start()
        try:
            await pool.renew()
            await eventually(lambda: pool.size == 2, "two workers with the new code")
        finally:
            await pool.close()

    asyncio.run(scenario())


def test_the_command_serves_and_takes_its_workers_with_it(tmp_path: Path) -> None:
    environment_file = tmp_path / "environment.json"
    environment_file.write_text(json.dumps({"KARMA_TEST": base64.b64encode(b"x").decode()}))
    command = [
        *(sys.executable, "-m", "local.streamhost", "--function-dir", "functions/agent_stream"),
        *("--env-file", str(environment_file), "--handler", "tests.fixtures.runtime.apps:echo", "--prewarm", "2"),
        *("--python-path", "layers/common/python", "--python-path", str(ROOT), "--log-file", str(tmp_path / "log")),
        *("--allow-origin", "https://app.example.com", "--allow-origin", "http://localhost:*"),
    ]
    with running(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as supervisor:
        assert supervisor.stdout is not None
        with supervisor.stdout as said:
            url = json.loads(said.readline())["url"]
        (host,) = psutil.Process(supervisor.pid).children()
        origin = {"origin": "https://app.example.com"}
        with httpx.Client(base_url=url, trust_env=False, timeout=DEADLINE_S) as client:
            answered = client.get("/", headers=origin)
            preflight = client.options("/", headers={**origin, "access-control-request-method": "POST"})
            elsewhere = client.get("/", headers={"origin": "https://other.example.com"})
            developed = client.get("/", headers={"origin": "http://localhost:4321"})
            before = {worker.pid for worker in host.children(recursive=True)}
            host.send_signal(signal.SIGHUP)
            until(
                lambda: (
                    len(children := host.children(recursive=True)) == 2
                    and before.isdisjoint(worker.pid for worker in children)
                ),
                deadline_s=DEADLINE_S,
                what="new workers, which read changed code",
            )
            assert client.get("/", headers=origin).status_code == 201
        workers = host.children(recursive=True)
        host.send_signal(signal.SIGTERM)
        assert supervisor.wait(DEADLINE_S) == 0

    assert answered.status_code == 201
    assert answered.headers["access-control-allow-origin"] == "https://app.example.com"
    assert answered.headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-origin" not in elsewhere.headers
    assert developed.headers["access-control-allow-origin"] == "http://localhost:4321"
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-methods"] == "POST"
    assert len(workers) == 2
    assert not any(worker.is_running() for worker in workers)

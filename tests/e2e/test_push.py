"""Changes by the API are told over open WebSockets, by the streams and queues of the deployed backend."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from karma.core.ids import new_id
from local.deployment import Deployment
from tests.support import made_clients

from .conftest import DEADLINE_S, User

pytestmark = [pytest.mark.needs("websocket"), pytest.mark.req("R-K-21")]
SOCKETS = 20
PROGRAM = Path(__file__).with_name("karma_live.mjs")


def opened(user: User) -> Connection:
    issued = user.api.call("POST", "/realtime/ticket")
    return connect(f"{issued['url']}?ticket={issued['ticket']}", open_timeout=DEADLINE_S, proxy=None)


def asked(socket: Connection, **message: object) -> dict[str, Any]:
    """Send a message and return its answer; events that come before it are dropped."""
    socket.send(json.dumps(message))
    while True:
        said: dict[str, Any] = json.loads(socket.recv(timeout=DEADLINE_S))
        if said["type"] != "event":
            return said


def told(socket: Connection, version: int) -> dict[str, Any]:
    """Return the event of a version; those of older ones are dropped."""
    while True:
        said: dict[str, Any] = json.loads(socket.recv(timeout=DEADLINE_S))
        if said.get("version", 0) >= version:
            return said


def test_a_change_is_told_to_every_socket_once(user: User) -> None:
    task = user.api.call("POST", "/tasks", {"title": "Look", "description": "at it"})["task"]
    channel = f"task:{task['id']}"
    with ExitStack() as stack:
        sockets = [stack.enter_context(opened(user)) for _ in range(SOCKETS)]
        for socket in sockets:
            assert asked(socket, action="subscribe", channel=channel)["objects"] == {channel: task["version"]}
        began = time.monotonic()
        changed = user.api.call("PATCH", f"/tasks/{task['id']}", {"title": "Found", "version": task["version"]})["task"]
        for socket in sockets:
            event = told(socket, changed["version"])
            assert (event["object"], event["data"]["title"]) == (channel, "Found")
        print(f"{SOCKETS} sockets were told within {time.monotonic() - began:.2f} s")  # noqa: T201  a figure to look at


def test_a_run_is_told_to_its_end_piece_by_piece(user: User, deployment: Deployment) -> None:
    said = {"id": new_id(), "role": "user", "content": "Which of my devices are online? Say it at length. " * 40}
    run_id = new_id()
    with opened(user) as socket:
        asked(socket, action="subscribe", channel=f"run:{run_id}")
        body = {"threadId": new_id(), "runId": run_id, "messages": [said]}
        given = {**body, "state": {}, "tools": [], "context": [], "forwardedProps": {}}
        headers = {"Authorization": f"Bearer {user.token}"}
        url = f"{deployment.addresses.stream_url}/api/v1/agent"
        httpx.post(url, json=given, headers=headers, timeout=DEADLINE_S, trust_env=False).raise_for_status()
        log: dict[int, dict[str, Any]] = {}
        while not any("RUN_FINISHED" in json.dumps(each) for each in log.values()):
            event = json.loads(socket.recv(timeout=DEADLINE_S))
            if event["object"] == f"log:{run_id}":
                log[event["seq"]] = event
    last = user.api.call("GET", f"/runs/{run_id}")["run"]
    assert last["status"] == "finished"
    assert sorted(log) == list(range(1, max(log) + 1))
    assert all(each["prev"] == n - 1 and each["data"]["events"] for n, each in log.items())


def test_a_stranger_hears_nothing(make_user: Callable[[], User]) -> None:
    owner, stranger = make_user(), make_user()
    task = owner.api.call("POST", "/tasks", {"title": "Look", "description": "at it"})["task"]
    channel = f"task:{task['id']}"
    with opened(owner) as mine, opened(stranger) as theirs:
        assert asked(theirs, action="subscribe", channel=channel)["objects"] == {}
        asked(mine, action="subscribe", channel=channel)
        changed = owner.api.call("PATCH", f"/tasks/{task['id']}", {"title": "Found", "version": task["version"]})[
            "task"
        ]
        told(mine, changed["version"])
        assert asked(theirs, action="ping") == {"type": "pong", "missed": 0}


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_npm_package_watches_a_list(user: User, deployment: Deployment, tmp_path: Path) -> None:
    made = made_clients.agent(tmp_path / "agent")
    node = str(shutil.which("node"))
    version = int(
        subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout[1:].split(".")[0]
    )
    flags = ["--experimental-websocket"] if version < 22 else []
    command: list[str | Path] = [
        node,
        "--no-warnings",
        *flags,
        PROGRAM,
        made / "dist",
        deployment.addresses.api_url,
        user.token,
    ]
    with subprocess.Popen(
        [*command, f"user:{user.id}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert json.loads(process.stdout.readline())["kind"] == "gap", "it reads the lists first"
            task = user.api.call("POST", "/tasks", {"title": "Look", "description": "at it"})["task"]
            seen: dict[str, Any] = {}
            while seen.get("object") != f"task:{task['id']}":
                seen = json.loads(process.stdout.readline())
            assert seen["data"]["title"] == "Look"
        finally:
            process.stdin.close()
            process.wait(timeout=10)

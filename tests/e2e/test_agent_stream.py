"""AG-UI from the model's tokens to the client: through the bootstrap, the Runtime API and a real HTTP server."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.api_client import ApiRefused, lines_of, stream_agent
from local.conversation import run_input
from local.deployment import Deployment

from .conftest import DEADLINE_S, Robot, User

CLIENT = Path(__file__).with_name("agui_client.mjs")
SMALL_TALK = "Tell me what you can do for me."


def model_spread_s(model_url: str, message: str) -> float:
    """Seconds between the first and the last text delta of the model itself."""
    body = {"model": "any", "max_tokens": 500, "stream": True, "messages": [{"role": "user", "content": message}]}
    times = []
    with httpx.stream("POST", f"{model_url}/v1/messages", json=body, timeout=30) as response:
        for line in lines_of(response):
            if line.startswith("data: ") and '"text_delta"' in line:
                times.append(time.monotonic())
    return times[-1] - times[0]


class TestStreaming:
    @pytest.mark.req("R-K-39", "R-K-40")
    def test_text_arrives_piece_by_piece_as_the_model_says_it(self, user: User, deployment: Deployment) -> None:
        assert deployment.model is not None
        times = []
        events = []
        for event in stream_agent(deployment.addresses.stream_url, run_input(SMALL_TALK), token=user.token):
            events.append(event)
            if event["type"] == "TEXT_MESSAGE_CONTENT":
                times.append(time.monotonic())
        assert events[0]["type"] == "RUN_STARTED"
        assert events[-1]["type"] == "RUN_FINISHED"
        assert len(times) >= 5
        assert times[-1] - times[0] >= 0.8 * model_spread_s(deployment.model.url, SMALL_TALK)

    @pytest.mark.req("R-K-01", "R-K-37", "R-K-40")
    @pytest.mark.parametrize("path", ["/api/agent", "/api/v1/agent"])
    def test_the_stock_client_accepts_the_stream(self, user: User, deployment: Deployment, path: str) -> None:
        heard = run_stock_client(deployment.addresses.stream_url + path, user.token, SMALL_TALK)
        assert heard["errors"] == []
        assert heard["warnings"] == []
        assert heard["events"][-1] == "RUN_FINISHED"
        assert heard["messages"][-1]["role"] == "assistant"
        assert len(heard["messages"][-1]["content"]) > 50

    @pytest.mark.req("R-K-37")
    def test_nobody_streams_without_a_token(self, deployment: Deployment) -> None:
        with pytest.raises(ApiRefused) as refused:
            list(stream_agent(deployment.addresses.stream_url, run_input("hello"), token="not.a.token"))
        assert refused.value.status == 401


class TestTools:
    @pytest.mark.req("R-K-41", "R-K-42")
    def test_the_agent_finds_the_device_and_moves_it_in_one_run(
        self, user: User, robot: Robot, deployment: Deployment, eventually: Callable[..., Any]
    ) -> None:
        eventually(
            lambda: user.api.call("GET", f"/devices/{robot.id}")["device"]["status"] == "online", "the device online"
        )
        asked = run_input("Find my online device and move it to x=15, y=25.")
        events = list(stream_agent(deployment.addresses.stream_url, asked, token=user.token))

        kinds = [event["type"] for event in events]
        assert kinds.count("RUN_STARTED") == kinds.count("RUN_FINISHED") == 1
        called = [event["toolCallName"] for event in events if event["type"] == "TOOL_CALL_START"]
        assert called == ["searchDatabase", "controlDevice"]
        found, moved = [json.loads(event["content"]) for event in events if event["type"] == "TOOL_CALL_RESULT"]
        assert [each["serial_number"] for each in found["results"]] == [robot.serial]
        assert set(moved) == {"success", "device_id", "command", "result"}
        assert (moved["success"], moved["command"]) == (True, "move")
        assert moved["device_id"] in {robot.id, robot.serial}
        assert moved["result"] == {"position": {"x": 15, "y": 25}}
        assert [each.params for each in robot.commands] == [{"x": 15, "y": 25}]

    @pytest.mark.req("R-K-41")
    def test_the_stock_client_builds_the_tool_calls_and_their_results(
        self, user: User, robot: Robot, deployment: Deployment, eventually: Callable[..., Any]
    ) -> None:
        eventually(
            lambda: user.api.call("GET", f"/devices/{robot.id}")["device"]["status"] == "online", "the device online"
        )
        message = f"Please ping {robot.serial}"
        heard = run_stock_client(deployment.addresses.stream_url + "/api/agent", user.token, message)
        assert heard["errors"] == []
        assert [each["role"] for each in heard["messages"]].count("tool") == 2
        assert [each.name for each in robot.commands] == ["ping"]


def run_stock_client(url: str, token: str, message: str) -> dict[str, Any]:
    """Run `@ag-ui/client` in Node.js; return what it heard and built."""
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        [node, str(CLIENT), url, token, message], capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    heard: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return heard

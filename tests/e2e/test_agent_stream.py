"""AG-UI from the model's tokens to the client: through the bootstrap, the Runtime API and a real HTTP server."""

import asyncio
import functools
import json
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from karma_agent.client import AgentClient
from karma_agent.errors import RunRefused
from local.api_client import agent_events
from local.deployment import Deployment
from sdk.clients import generate
from tests.support import chromium, made_clients
from tests.support.agui import verify
from tests.support.cutting import cutting
from tests.support.lost_runs import screen

from .conftest import DEADLINE_S, Robot, User

CLIENT = Path(__file__).with_name("agui_client.mjs")
SMALL_TALK = "Tell me what you can do for me."
LONG_TALK = "Say this again, please: " + " ".join(f"word {n}" for n in range(150))
"""The offline model says it in small pieces, for seconds."""
SLOW_TALK = "Say this slowly again, please: " + " ".join(f"word {n}" for n in range(8))
"""The offline model takes twenty times as long for each piece: a request that comes meanwhile finds it at work."""


def model_spread_s(model_url: str, message: str) -> float:
    """Seconds between the first and the last text delta of the model itself."""
    body = {"model": "any", "max_tokens": 500, "stream": True, "messages": [{"role": "user", "content": message}]}
    times = []
    with httpx.stream("POST", f"{model_url}/v1/messages", json=body, timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and '"text_delta"' in line:
                times.append(time.monotonic())
    return times[-1] - times[0]


class TestStreaming:
    @pytest.mark.req("R-K-39", "R-K-40")
    def test_text_arrives_piece_by_piece_as_the_model_says_it(self, user: User, deployment: Deployment) -> None:
        assert deployment.model is not None
        times = []
        events = []
        for event in agent_events(deployment.addresses.stream_url, SMALL_TALK, token=user.token):
            events.append(event)
            if event["type"] == "TEXT_MESSAGE_CONTENT":
                times.append(time.monotonic())
        assert events[0]["type"] == "RUN_STARTED"
        assert events[-1]["type"] == "RUN_FINISHED"
        assert len(times) >= 5
        assert times[-1] - times[0] >= 0.5 * model_spread_s(deployment.model.url, SMALL_TALK)

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
        async def ask() -> None:
            async with AgentClient(deployment.addresses.stream_url, token="not.a.token") as client:
                async for _ in client.run("hello"):
                    pass

        with pytest.raises(RunRefused) as refused:
            asyncio.run(ask())
        assert (refused.value.status, refused.value.code) == (401, "UNAUTHORIZED")


class Cuts:
    """Five cuts, each after some of the answer; then connections last."""

    def __init__(self, dice: random.Random) -> None:
        self._left = dice.choices(range(450, 800), k=5)
        self.made = 0

    def lasts(self) -> int | None:
        if not self._left:
            return None
        self.made += 1
        return self._left.pop()


def write_page(folder: Path, agent: Path) -> None:
    """Bundle the page with the compiled package as a front end would."""
    (agent / "node_modules").symlink_to(generate.ROOT / "node_modules")
    source = Path(__file__).with_name("karma_page.mjs")
    options = ["--bundle", "--format=iife", f"--alias:@karma-cloud/agent={agent}/dist/index.js"]
    command = [str(generate.NODE_TOOLS / "esbuild"), str(source), *options, f"--outfile={folder}/page.js"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (folder / "index.html").write_text('<!doctype html><body></body><script src="page.js"></script>')


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder; yield its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class TestOurClients:
    @pytest.mark.req("R-K-40")
    def test_in_python_has_the_whole_answer_once_over_five_cuts(
        self, user: User, deployment: Deployment, seed: int
    ) -> None:
        cuts = Cuts(random.Random(seed))

        async def ask() -> tuple[str, list[dict[str, Any]]]:
            async with (
                cutting(deployment.addresses.stream_url, cuts.lasts) as url,
                AgentClient(url, token=user.token) as client,
            ):
                stream = client.run(SMALL_TALK)
                return stream.run_id, [dict(event) async for event in stream]

        run_id, events = asyncio.run(ask())

        verify(events)
        stored = user.api.call("GET", f"/runs/{run_id}", messages="true")
        assert stored["run"]["status"] == "finished"
        assert [each["content"] for each in screen(events)] == [stored["messages"][-1]["content"]]
        assert (cuts.made, user.api.call("GET", "/runs")["total"]) == (5, 1), "a cut connection began another run"

    @pytest.mark.req("R-K-40")
    def test_pauses_a_run_resumes_it_and_cancels_another(self, user: User, deployment: Deployment) -> None:
        addresses = deployment.addresses

        async def ask() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
            async with AgentClient(addresses.stream_url, api_url=addresses.api_url, token=user.token) as client:
                stream, events = client.run(SLOW_TALK), []
                async for event in stream:
                    events.append(dict(event))
                    if event["type"] == "TEXT_MESSAGE_START":
                        await client.pause(stream.run_id)
                assert events[-1].get("name") == "karma.run_paused"
                await client.resume(stream.run_id)
                events += [dict(event) async for event in client.join(stream.run_id, after=stream.position)]

                other, stopped = client.run(SLOW_TALK), []
                async for event in other:
                    stopped.append(dict(event))
                    if event["type"] == "TEXT_MESSAGE_START":
                        await client.cancel(other.run_id, reason="enough")
                with pytest.raises(RunRefused) as refused:
                    await client.cancel(stream.run_id)
                assert (refused.value.status, refused.value.code) == (409, "RUN_ENDED")
                return events, stopped

        events, stopped = asyncio.run(ask())

        verify(events)
        verify(stopped)
        (message,) = screen(events)
        assert len(message["content"]) > 50
        assert events[-1]["outcome"]["type"] == "success"
        assert (stopped[-1]["type"], stopped[-1]["outcome"]["type"]) == ("RUN_FINISHED", "cancelled")

    @pytest.mark.req("R-K-40")
    def test_in_node_has_the_whole_answer_once_over_five_cuts(
        self, user: User, deployment: Deployment, tmp_path: Path, seed: int
    ) -> None:
        cuts, package = Cuts(random.Random(seed)), made_clients.agent(tmp_path / "agent")
        (package / "node_modules").symlink_to(generate.ROOT / "node_modules")

        async def ask() -> dict[str, Any]:
            async with cutting(deployment.addresses.stream_url, cuts.lasts) as url:
                script = (Path(__file__).with_name("karma_agent.mjs"), package / "dist/index.js")
                return await asyncio.to_thread(run_node, *script, url, user.token, SMALL_TALK)

        heard = asyncio.run(ask())

        assert (heard["errors"], heard["warnings"], heard["events"][-1]) == ([], [], "RUN_FINISHED")
        (run,) = user.api.call("GET", "/runs")["runs"]
        stored = user.api.call("GET", f"/runs/{run['id']}", messages="true")
        assert heard["messages"][-1]["content"] == stored["messages"][-1]["content"]
        assert cuts.made == 5

    @pytest.mark.req("R-K-40")
    @pytest.mark.skipif(chromium.found() is None, reason="no Chromium was found: KARMA_CHROMIUM may name one")
    def test_in_a_browser_shows_the_whole_answer_once_over_five_cuts(
        self, user: User, deployment: Deployment, tmp_path: Path, seed: int
    ) -> None:
        cuts, program = Cuts(random.Random(seed)), str(chromium.found())
        write_page(tmp_path / "site", made_clients.agent(tmp_path / "agent"))

        async def ask() -> dict[str, Any]:
            async with (
                cutting(deployment.addresses.stream_url, cuts.lasts) as url,
                chromium.page(browser) as page,
            ):
                await page.open(site)
                asked = ", ".join(map(json.dumps, (url, user.token, SMALL_TALK)))
                heard: dict[str, Any] = await page.evaluate(f"ask({asked})")
                return heard

        with serving(tmp_path / "site") as site, chromium.started(program, tmp_path / "profile") as browser:
            heard = asyncio.run(ask())

        (run,) = user.api.call("GET", "/runs")["runs"]
        stored = user.api.call("GET", f"/runs/{run['id']}", messages="true")
        assert heard["events"][-1] == "RUN_FINISHED"
        assert heard["shown"] == stored["messages"][-1]["content"]
        assert cuts.made == 5


class TestTools:
    @pytest.mark.req("R-K-41", "R-K-42")
    def test_the_agent_finds_the_device_and_moves_it_in_one_run(
        self, user: User, robot: Robot, deployment: Deployment, eventually: Callable[..., Any]
    ) -> None:
        eventually(
            lambda: user.api.call("GET", f"/devices/{robot.id}")["device"]["status"] == "online", "the device online"
        )
        asked = "Find my online device and move it to x=15, y=25."
        events = list(agent_events(deployment.addresses.stream_url, asked, token=user.token))

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
    return run_node(CLIENT, url, token, message)


def run_node(script: Path, *arguments: str | Path) -> dict[str, Any]:
    """Run a script of Node.js; return the last line that it printed."""
    node = shutil.which("node")
    assert node is not None
    command = [node, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    heard: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return heard

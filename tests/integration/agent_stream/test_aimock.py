"""A whole conversation with the offline model of `make dev`: a model server that nobody here wrote."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from karma.agents.configurable import built_in_components
from karma.configuration.repository import ConfigurationRepository
from karma.configuration.service import ConfigurationService
from karma.core.clock import SystemClock
from karma.core.ids import UserId
from local.cross_origin import CONTROL_HEADER
from local.model_server import front_command
from local.processes import running
from tests.fakes.runs import events_of, types
from tests.integration.agent_stream.conftest import Streams
from tests.support.agui import verify

ROOT = Path(__file__).resolve().parents[3]
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    NODE is None or not (ROOT / "node_modules/@copilotkit/aimock").is_dir(), reason="node or aimock is not installed"
)


@pytest.fixture
def aimock() -> Iterator[str]:
    assert NODE is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*front_command(NODE, port), "1"]
    with running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        end = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "aimock ended"
                assert time.monotonic() < end, "aimock did not start"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"


def of_anthropic(streams: Streams, aimock: str) -> None:
    streams.stack.use("agent_stream", MODEL_BASE_URL=aimock, MODEL_ID="claude-haiku-5-5")


def of_openai(streams: Streams, aimock: str) -> None:
    """Make the deployment's model another name for one of an OpenAI-compatible server."""
    from agent_stream import services

    name = "claude-haiku-5-5"
    configuration = ConfigurationService(
        ConfigurationRepository(),
        SystemClock(),
        built_in=built_in_components(name),
        models=(name,),
        has_agent=lambda _: True,
        on_change=lambda: services.configuration().forget(),
    )
    config = {"provider": "openai", "model": "gpt-4o", "base_url": f"{aimock}/v1"}
    configuration.put(name, config, by=UserId("admin"))


@pytest.mark.parametrize("use", [of_anthropic, of_openai])
def test_a_conversation_with_a_tool_loop(streams: Streams, aimock: str, use: Callable[[Streams, str], None]) -> None:
    use(streams, aimock)
    body = {"messages": [{"id": "u1", "role": "user", "content": "Which of my devices are online?"}]}

    events = events_of(streams.run(streams.agent(body)).data)

    verify(events)
    seen = types(events)
    assert events[-1]["type"] == "RUN_FINISHED"
    (started,) = [event for event in events if event["type"] == "TOOL_CALL_START"]
    assert started["toolCallName"] == "searchDatabase"
    (result,) = [event for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert json.loads(result["content"]) == {"results": []}
    assert seen.count("TEXT_MESSAGE_CONTENT") >= 2
    journal = urllib.request.Request(f"{aimock}/__aimock/journal", headers={CONTROL_HEADER: "1"})
    with urllib.request.urlopen(journal, timeout=10) as answer:
        asked = [entry["body"] for entry in json.load(answer)]
    assert len(asked) == 2
    assert all(each["stream"] for each in asked)

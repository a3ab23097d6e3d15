"""The npm package for runs: what it makes of cut connections is what its sibling in Python makes of them."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdk.clients import generate
from tests.support import made_clients
from tests.support.cut_runs import CutRun
from tests.support.lost_runs import KEY

HISTORIES = 40
SCRIPT = Path(__file__).with_name("continuity.mjs")
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(
    NODE is None or not (generate.NODE_TOOLS / "tsc").exists(), reason="node or typescript is not installed"
)

Follow = Callable[[object], dict[str, Any]]
"""Gives a line to the package and returns what it handed on."""


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Follow]:
    made = made_clients.agent(tmp_path / "agent")
    command = [str(NODE), str(SCRIPT), str(made / "dist")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        give, take = process.stdin, process.stdout

        def follow(line: object) -> dict[str, Any]:
            give.write(json.dumps(line) + "\n")
            give.flush()
            answer: dict[str, Any] = json.loads(take.readline())
            return answer

        yield follow
        give.close()


def pieces(data: bytes, dice: random.Random) -> list[str]:
    found = []
    while data:
        size = dice.randint(1, 400)
        found.append(base64.b64encode(data[:size]).decode())
        data = data[size:]
    return found


@pytest.mark.req("R-K-40")
def test_connections_that_are_cut_anywhere_are_one_stream(follow: Follow, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(HISTORIES):
        told, seen = follow(None), []
        history = CutRun(dice)
        while not told["isOver"] and (data := history.connection(told["position"])) is not None:
            told = follow(pieces(data, dice))
            seen += told["events"]
        if history.world.store.run(KEY) is not None:
            history.check(seen)


STARTED = 'data: {"type":"RUN_STARTED","threadId":"t","runId":"r"}\n\n'
TOLD = f'{STARTED}id: 1\ndata: {{"type":"STATE_SNAPSHOT","snapshot":{{}}}}\n\n'
END = 'id: 2\ndata: {"type":"RUN_FINISHED","threadId":"t","runId":"r"}\n\n'


@pytest.mark.fault("F-29r")
def test_failures_of_proxies_and_torn_frames_are_cut_connections_and_long_pauses_are_told(tmp_path: Path) -> None:
    made = made_clients.agent(tmp_path / "agent")
    failed = [{"status": status, "body": "<html>proxy</html>"} for status in (408, 425, 500, 520, 529)]
    torn = ['data: {"type":"RUN_FIN\n\n', "id: x\ndata: {}\n\n", "data: 7\n\n"]
    ok, rest = {"status": 200, "body": TOLD}, {"status": 200, "body": END}
    goes_on = [[each, ok, each, rest] for each in failed] + [
        [{"status": 200, "body": TOLD + each + END}, rest] for each in torn
    ]
    # A refusal that is cut says nothing: the request may be repeated.
    cut = [{"status": status, "body": "", "isCut": True} for status in (404, 422, 503)]
    goes_on += [[each, ok, each, rest] for each in cut]
    told = [[{"status": 503, "body": "later", "headers": {"retry-after": "86400"}}], [{"status": 404, "body": "none"}]]
    command = [str(NODE), str(SCRIPT.with_name("proxies.mjs")), str(made / "dist")]
    lines = "".join(json.dumps(each) + "\n" for each in [*goes_on, *told])
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in answers[: len(goes_on)]:
        types = [json.loads(line[6:])["type"] for line in answer["text"].splitlines() if line]
        assert (answer["status"], types) == (200, ["RUN_STARTED", "STATE_SNAPSHOT", "RUN_FINISHED"])
    assert answers[len(goes_on) :] == [{"status": 503, "text": "later"}, {"status": 404, "text": "none"}]

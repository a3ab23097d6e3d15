"""The npm package for runs: what it makes of cut connections is what its sibling in Python makes of them."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdk.clients import generate
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
    made = generate.make_agent(tmp_path / "agent")
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
def test_connections_that_are_cut_anywhere_are_one_stream(follow: Follow) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    print(f"seed {seed}")  # noqa: T201  shown when it fails
    dice = random.Random(seed)
    for _ in range(HISTORIES):
        told, seen = follow(None), []
        history = CutRun(dice)
        while not told["isOver"] and (data := history.connection(told["position"])) is not None:
            told = follow(pieces(data, dice))
            seen += told["events"]
        if history.world.store.run(KEY) is not None:
            history.check(seen)

"""Our npm package, and so AG-UI's own client, joins a run at each moment of it, with any part of its messages."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from karma.runs.events import frames
from karma.runs.joining import join
from karma.runs.replay import read
from sdk.clients import generate
from tests.fakes.runs import KeptFrames, MemoryRuns
from tests.support import made_clients
from tests.support.agui_client import HeldMessages
from tests.support.lost_runs import KEY, Life, World, begin, go_on
from tests.unit.runs.test_joining import Until

SCRIPT = Path(__file__).with_name("joining.mjs")
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(
    NODE is None or not (generate.NODE_TOOLS / "tsc").exists(), reason="node or typescript is not installed"
)


def frames_of(store: MemoryRuns, n: int) -> tuple[str, str]:
    """Return what who joins behind segment n is sent, and what follows."""
    first = join(Until(store, n), KEY, link=list)
    assert first is not None
    rest = [frames(each.events, n=each.n) for each in read(store, KEY, after=n, limit=10**6, link=list)]
    return frames(first.events, n=first.n).decode(), b"".join(rest).decode()


@pytest.mark.req("R-K-40")
@pytest.mark.parametrize("killed", [False, True])
def test_wherever_it_joins_it_ends_with_the_same_messages_and_state(tmp_path: Path, *, killed: bool) -> None:
    world, dice = World(thinks=True), random.Random(7)
    begin(world, Life(60 if killed else None), KeptFrames())
    if killed:
        go_on(world, Life(None))
    whole = len(world.log)
    last = join(world.store, KEY, link=list)
    assert last is not None
    expected = HeldMessages()
    for data in last.events:
        expected.take(json.loads(data))
    joins = []
    for n in range(1, whole + 1):
        head, tail = frames_of(world.store, n)
        for part in (0.0, 0.6, 1.0):
            held = [each for each in expected.messages if each["role"] != "reasoning" and dice.random() < part]
            joins.append({"head": head, "tail": tail, "messages": held})

    made = made_clients.agent(tmp_path / "agent")
    (made / "node_modules").symlink_to(generate.ROOT / "node_modules")
    done = subprocess.run(
        [str(NODE), str(SCRIPT), str(made / "dist/index.js")],
        input=json.dumps(joins).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode()
    told: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(told) == len(joins) >= 15
    for each in told:
        assert (each["error"], each["warnings"]) == ("", [])
        client = HeldMessages(each["messages"])
        assert client.conversation == expected.conversation
        assert expected.thoughts.items() <= client.thoughts.items()
        assert each["state"] == expected.state
    assert {len(each["asked"]) for each in told} == {1, 2}

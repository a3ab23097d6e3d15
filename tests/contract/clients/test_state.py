"""AG-UI's own client holds the state that the server holds, whatever a tool makes of whatever state."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from karma.core.json_patch import is_same
from karma.runs import events
from karma.runs.events import Event, frames
from sdk.clients import generate
from tests.support import made_clients
from tests.unit.core.test_json_patch import changed, value_of

SCRIPT = Path(__file__).with_name("joining.mjs")
NODE = shutil.which("node")
STATES = 300

pytestmark = pytest.mark.skipif(
    NODE is None or not (generate.NODE_TOOLS / "tsc").exists(), reason="node or typescript is not installed"
)

HARD: list[tuple[Any, Any]] = [
    ({"a": 1}, json.loads('{"a": 1, "__proto__": {"b": 1}}')),
    (json.loads('{"__proto__": {"b": 1}, "c": [1, 2, 3]}'), json.loads('{"__proto__": {"b": 2}, "c": [1, 2, 3]}')),
    ({"constructor": {"prototype": 1}, "x": "y" * 200}, {"constructor": {"prototype": 2}, "x": "y" * 200}),
    ({"constructor": 1, "toString": 2, "x": "y" * 200}, {"constructor": 2, "hasOwnProperty": 2, "x": "y" * 200}),
    ({"": {"": 1}, "x": "y" * 200}, {"": {"": 2}, "x": "y" * 200}),
    ({"a/b~c": [1, {"~1": 2}], "x": "y" * 200}, {"a/b~c": [0, 1, {"~1": 3}], "x": "y" * 200}),
    (None, {"a": None}),
    ({"a": None, "x": "y" * 200}, {"a": 0, "x": "y" * 200}),
    ([[1, 2], "y" * 200], [[2], "y" * 200]),
    ("text", ["text"]),
]


@pytest.mark.req("R-K-40")
def test_the_stock_client_holds_the_same_state(tmp_path: Path) -> None:
    dice = random.Random(11)
    pairs = list(HARD)
    while len(pairs) < STATES:
        old = {"pad": "x" * 300, "of": value_of(dice)} if dice.random() < 0.7 else value_of(dice)
        pairs.append((old, changed(dice, old)))
    told = [events.state_changed(old, new) for old, new in pairs]
    kinds = {event.type for each in told for event in each}
    assert kinds == {"STATE_DELTA", "STATE_SNAPSHOT"}
    begun = events.run_started(thread_id="t1", run_id="r1")
    over = events.run_finished(thread_id="t1", run_id="r1")

    def head(*between: Event) -> str:
        return frames([event.data for event in (begun, *between, over)], n=1).decode()

    runs = [
        {"head": head(events.state_snapshot(old), *each), "tail": "", "messages": []}
        for (old, _), each in zip(pairs, told, strict=True)
    ]
    made = made_clients.agent(tmp_path / "agent")
    (made / "node_modules").symlink_to(generate.ROOT / "node_modules")
    done = subprocess.run(
        [str(NODE), str(SCRIPT), str(made / "dist/index.js")],
        input=json.dumps(runs).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode()
    for (old, new), each in zip(pairs, json.loads(done.stdout), strict=True):
        assert (each["error"], each["warnings"]) == ("", []), (old, new)
        assert is_same(each["state"], new), (old, new)

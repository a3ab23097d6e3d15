"""Whatever form each answer has and wherever it is cut, AG-UI's client over our `fetch` holds what the server has."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sdk.clients import generate
from tests.support import made_clients
from tests.support.agui_client import HeldMessages
from tests.support.cut_answers import WORLDS, answers, told

CUTS = int(os.environ.get("CUTS") or 120)
NODE = shutil.which("node")
SCRIPT = Path(__file__).with_name("cut_answers.mjs")

pytestmark = pytest.mark.skipif(
    NODE is None or not (generate.NODE_TOOLS / "tsc").exists(), reason="node or typescript is not installed"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = made_clients.agent(tmp_path_factory.mktemp("clients") / "agent")
    (made / "node_modules").symlink_to(generate.ROOT / "node_modules")
    return made / "dist"


@pytest.mark.fault("F-33n")
@pytest.mark.req("R-K-40")
@pytest.mark.parametrize("joins", [False, True], ids=["runs", "joins"])
@pytest.mark.parametrize("kind", WORLDS)
def test_what_is_held_is_what_is_stored(package: Path, kind: str, seed: int, *, joins: bool) -> None:
    found = answers(kind)
    histories = found.histories(random.Random(seed), CUTS)
    command = [str(NODE), str(SCRIPT), str(package)]
    asked = told(found, histories, joins=joins)
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60, check=True)
    heard: dict[str, Any] = json.loads(done.stdout)

    assert heard["warnings"] == []
    assert len(heard["told"]) == len(histories) > 0
    for history, each in zip(histories, heard["told"], strict=True):
        assert each["error"] in ({"", "Error: rejected"} if kind == "failed" else {""})
        held = HeldMessages(each["messages"])
        held.state = each["state"]
        assert not found.differs(held), (history, each["asked"])

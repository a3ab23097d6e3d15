"""The offline model: npm's aimock, scripted by `model/server.mjs`, behind a check of the Messages API's rules.

Used when no ANTHROPIC_API_KEY is given.
"""

from __future__ import annotations

import json
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.cross_origin import CONTROL_HEADER
from local.errors import PrerequisiteMissing
from local.places import Places
from local.processes import Processes, Program, clean_environment, python
from local.waiting import http_status

NAME = "model"
API_KEY = "offline-model"
PACE_MS = 20
_SCRIPT = Path(__file__).parent / "model" / "server.mjs"


@dataclass(frozen=True)
class ModelServer:
    """The offline model, running or to be started."""

    places: Places
    port: int
    pace_ms: int = PACE_MS

    @property
    def url(self) -> str:
        """Return the base URL of the Messages API."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, processes: Processes) -> None:
        """Start without waiting.

        Raises:
            PrerequisiteMissing: Node.js or the package is not installed.
        """
        node = shutil.which("node")
        if node is None or not (self.places.node_modules / "@copilotkit" / "aimock").exists():
            raise PrerequisiteMissing("the offline model needs Node.js 20 and `npm ci`; run `make dev`")
        command = [*front_command(node, self.port), str(self.pace_ms)]
        processes.start(Program(NAME, command, clean_environment(), self.places.root))

    def wait_ready(self, processes: Processes) -> None:
        """Wait until it answers.

        Raises:
            NotReady: it did not answer in time; the message has the end of its log.
        """
        probe = f"{self.url}/health"
        processes.wait_ready(NAME, f"offline model on port {self.port}", lambda: http_status(probe) not in (None, 502))

    def journal(self) -> list[dict[str, Any]]:
        """Return the requests it has answered, oldest first."""
        asked = urllib.request.Request(f"{self.url}/__aimock/journal", headers={CONTROL_HEADER: "1"})  # noqa: S310 -- loopback
        with urllib.request.urlopen(asked, timeout=10) as response:  # noqa: S310
            entries = json.load(response)
        return entries if isinstance(entries, list) else []


def front_command(node: str, port: int) -> list[str]:
    """Return the command that serves the offline model on this port; the pause between its pieces, in ms, follows."""
    return [python(), "-m", "local.messages_api.front", str(port), node, str(_SCRIPT)]

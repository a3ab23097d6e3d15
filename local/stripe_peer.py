"""The Stripe peer: localstripe, which answers Stripe's API and posts signed webhooks of its own."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.cross_origin import CONTROL_HEADER
from local.errors import LocalError, PrerequisiteMissing
from local.places import Places
from local.processes import Processes, Program, clean_environment
from local.waiting import http_status

NAME = "stripe"
API_KEY = "sk_test_karmalocal"
_LAUNCHER = Path(__file__).parent / "stripe" / "launch.py"


@dataclass(frozen=True)
class StripePeer:
    """A localstripe process, running or to be started."""

    places: Places
    port: int

    @property
    def url(self) -> str:
        """Return the base URL of its API."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, processes: Processes) -> None:
        """Start without waiting; data of an earlier start of this environment is loaded.

        Raises:
            PrerequisiteMissing: its virtual environment is not installed.
        """
        interpreter = self.places.stripe_venv / "bin" / "python"
        if not interpreter.exists():
            raise PrerequisiteMissing(f"localstripe is not installed: {interpreter} is missing; run `make dev`")
        store = self.places.state / "stripe.pickle"
        command = [str(interpreter), str(_LAUNCHER), str(store), "--port", str(self.port)]
        if not store.exists():
            command.append("--from-scratch")
        processes.start(Program(NAME, command, clean_environment(), self.places.root))

    def wait_ready(self, processes: Processes) -> None:
        """Wait until the API answers.

        Raises:
            NotReady: it did not answer in time; the message has the end of its log.
        """
        processes.wait_ready(NAME, f"localstripe on port {self.port}", lambda: http_status(self.url) is not None)

    def post_webhooks_to(self, url: str, secret: str) -> None:
        """Let every future event be posted to `url`, signed with `secret`. It forgets this when it ends."""
        self._send("POST", "/_config/webhooks/karma", json.dumps({"url": url, "secret": secret}), "application/json")

    def call(self, method: str, path: str, **form: str) -> dict[str, Any]:
        """Call Stripe's API as a merchant's dashboard would; parameters spelled as Stripe's forms spell them.

        Raises:
            LocalError: the peer refused the call.
        """
        return self._send(method, path, urllib.parse.urlencode(form), "application/x-www-form-urlencoded")

    def _send(self, method: str, path: str, body: str, content_type: str) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 -- our own loopback URL
            self.url + path,
            data=body.encode() if body else None,
            method=method,
            headers={"Content-Type": content_type, "Authorization": f"Bearer {API_KEY}", CONTROL_HEADER: "1"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                answer = response.read()
        except urllib.error.HTTPError as refused:
            raise LocalError(
                f"localstripe refuses {method} {path}: {refused.read().decode(errors='replace')}"
            ) from None
        decoded = json.loads(answer) if answer else {}
        return decoded if isinstance(decoded, dict) else {}

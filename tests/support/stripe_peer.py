"""localstripe, a Stripe server by others: it stores the objects and posts signed webhooks by itself.

GPL: it runs as a program from a virtual environment of its own (.engine/stripe, requirements/stripe_peer.txt) and is
never imported. Beside it a receiver notes the exact bytes that it posts; handing them to the handler is the test's.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from local.places import of_repository
from local.processes import running as program_running

API_KEY = "sk_test_localstripe"
_START_S = 20


class PeerUnavailable(RuntimeError):
    """localstripe cannot be installed or does not start here; the message says why."""


@dataclass(frozen=True)
class Posted:
    """A webhook exactly as it was posted."""

    body: bytes
    headers: dict[str, str]

    @property
    def type(self) -> str:
        return str(json.loads(self.body)["type"])

    @property
    def id(self) -> str:
        return str(json.loads(self.body)["id"])


@dataclass
class StripePeer:
    """A running localstripe and the webhooks that it has posted."""

    url: str
    secret: str
    posted: list[Posted] = field(default_factory=list)

    def call(self, path: str, body: object = None, *, method: str = "POST") -> object:
        """Call localstripe's configuration interface."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.loads(answer.read() or b"null")

    def wait_for(self, event_type: str, count: int = 1, *, deadline_s: float = 15) -> list[Posted]:
        """Poll until that many events of a type were posted."""
        end = time.monotonic() + deadline_s
        while True:
            found = [each for each in list(self.posted) if each.type == event_type]
            if len(found) >= count:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"{len(found)} of {count} {event_type} after {deadline_s} s: {self.types()}")
            time.sleep(0.02)

    def types(self) -> list[str]:
        return [each.type for each in list(self.posted)]


@contextmanager
def running(*, secret: str) -> Iterator[StripePeer]:
    """Start localstripe and the receiver on free ports, and stop both afterwards.

    Raises:
        PeerUnavailable: localstripe cannot be installed or does not start here.
    """
    program = _program()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    peer = StripePeer(url=f"http://127.0.0.1:{port}", secret=secret)
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), _receiver(peer))
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    command = [str(program), "--port", str(port), "--from-scratch"]
    try:
        with program_running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            _await(peer, process)
            hook = {"url": f"http://127.0.0.1:{receiver.server_address[1]}/", "secret": secret, "events": None}
            peer.call("/_config/webhooks/karma", hook)
            yield peer
    finally:
        receiver.shutdown()
        receiver.server_close()
        thread.join(5)


def _program() -> Path:
    venv = of_repository().stripe_venv
    program = venv / "bin" / "localstripe"
    if not program.exists():
        requirements = of_repository().root / "requirements" / "stripe_peer.txt"
        for command in (
            [sys.executable, "-m", "venv", str(venv)],
            [str(venv / "bin" / "pip"), "install", "-q", "--require-hashes", "-r", str(requirements)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                raise PeerUnavailable(f"localstripe cannot be installed: {done.stderr[-500:]}")
    return program


def _await(peer: StripePeer, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(peer.url + "/", timeout=1):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise PeerUnavailable(f"localstripe did not start within {_START_S} s (exit status {process.poll()})")


def _receiver(peer: StripePeer) -> type[BaseHTTPRequestHandler]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            peer.posted.append(Posted(body, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's name
            return

    return Receiver

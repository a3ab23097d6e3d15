"""The whole backend on this machine: the engine with the synthesized stacks, and substitutes for other services.

`make dev` runs one that keeps its state; an e2e session runs a second one, from the same code, in a temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.catalog import FunctionName
from infra.config import LOOPBACK_ORIGINS
from infra.layers import host_target
from infra.local_artifacts import COMMON_FOLDER, make_views
from local import ports
from local.adapter import Adapter
from local.engine import NAME as ENGINE
from local.engine import Broker, Engine, MiniStack
from local.errors import LocalError
from local.model_server import API_KEY as OFFLINE_MODEL_KEY
from local.model_server import NAME as OFFLINE_MODEL
from local.model_server import ModelServer
from local.outputs import write_private
from local.places import Places
from local.processes import Processes, Program, clean_environment, python
from local.progress import Progress
from local.stacks import Stacks
from local.stripe_peer import API_KEY as STRIPE_KEY
from local.stripe_peer import StripePeer
from local.waiting import http_status

FRONT, STREAM, SIMULATOR, WATCH = "front", "stream", "simulator", "watch"
"""Names of the processes beside the engine, the model and the Stripe peer."""
_WEBHOOK_PATH = "/webhooks/stripe"
_SYNTHESIS_INPUTS = ("infra", "requirements")
"""Inputs of the synthesis of the local stage, which only points to code."""


@dataclass(frozen=True)
class Given:
    """Options for starting an environment."""

    anthropic_api_key: str = ""
    """Empty: the offline model answers."""
    model_pace_ms: int = 20
    python_path: tuple[Path, ...] = ()
    """Import roots that functions search after their own; the e2e tests record calls by one."""


@dataclass(frozen=True)
class Addresses:
    """Addresses for clients; others are in the stack outputs."""

    api_url: str
    stream_url: str
    websocket_url: str
    billing_webhook_url: str


Platform = Callable[[Places, Mapping[str, int]], tuple[Engine, Stacks]]
"""Makes the engine on the chosen ports, and the deployer of its stacks."""


def ministack(*, persistent: bool, python_path: tuple[Path, ...] = ()) -> Platform:
    """Return the embedded engine; one that is persistent writes its state when it ends."""

    def make(places: Places, chosen: Mapping[str, int]) -> tuple[Engine, Stacks]:
        engine = MiniStack(places, chosen["engine"], chosen["mqtt"], persistent, python_path=python_path)
        return engine, Adapter(engine)

    return make


class Deployment:
    """One environment: starts, stops and describes it."""

    def __init__(
        self, places: Places, *, persistent: bool, given: Given, progress: Progress, platform: Platform | None = None
    ) -> None:
        """Choose ports; `platform` is the embedded engine unless another one is given."""
        places.make()
        self.processes = Processes(places)
        running = self.processes.running()
        ours = [*running, *(["mqtt"] if ENGINE in running else [])]
        chosen = ports.choose(places.ports if persistent else None, ours=ours)
        self.places = places
        self.ports = chosen
        self.given = given
        self.progress = progress
        make = platform or ministack(persistent=persistent, python_path=given.python_path)
        self.engine, self.adapter = make(places, chosen)
        self.stripe = StripePeer(places, chosen["stripe"])
        self.model = None if given.anthropic_api_key else ModelServer(places, chosen["model"], given.model_pace_ms)
        self.webhook_secret = self._secret("stripe-webhook", "whsec_")
        self.outputs: Mapping[str, str] = {}

    # Bringing it up

    def start(self) -> None:
        """Start everything that is not running, deploy what changed, and wait until each part answers.

        Raises:
            LocalError: a part does not start; the message says which and why.
        """
        self.processes.reap()
        restarted = (self.places.state / "deployed.json").exists() and not self.processes.is_running(ENGINE)
        with self.progress.step("AWS engine"):
            self._start_peers()
            self.engine.wait_ready(self.processes)
            if restarted:
                self.adapter.after_restart()
        self._write_settings()
        digest = synthesis_digest(self.places.settings, self.places.root)
        if self._synthesized() != digest:
            with self.progress.step("synthesis of the stacks"):
                self._synthesize(digest)
        else:
            self.progress.say("synthesis: nothing changed since the last one")
        with self.progress.step("deployment"):
            self.outputs = self.adapter.deploy(self.places.assembly, self.progress.say)
        with self.progress.step("functions, front, stream host, peers"):
            self._start_front()
            self.stripe.wait_ready(self.processes)
            if self.model is not None:
                self.model.wait_ready(self.processes)
            self._warm()
            self.stripe.post_webhooks_to(self.addresses.billing_webhook_url, self.webhook_secret)

    def is_current(self) -> bool:
        """Tell whether what is deployed was made of the files and settings of now."""
        self._write_settings()
        return self._synthesized() == synthesis_digest(self.places.settings, self.places.root)

    def start_watch(self) -> None:
        """Start the program that makes functions run changed code, once everything answers."""
        functions = {
            self.outputs[f"Function{name.label}"]: name.package
            for name in FunctionName
            if f"Function{name.label}" in self.outputs
        }
        watched = {
            "root": str(self.places.root),
            "port": self.ports["engine"],
            "functions": functions,
            "stream_host": self.processes.running().get(STREAM, 0),
        }
        file = self.places.state / "watch.json"
        file.write_text(json.dumps(watched, indent=1))
        command = [python(), "-m", "local.watch", str(file)]
        self.processes.start(Program(WATCH, command, clean_environment(), self.places.root))

    def stop(self) -> list[str]:
        """End every process of this environment; return the names of those that ran."""
        self.adapter.close()
        return stop_everything(self.processes)

    def restart_engine(self) -> None:
        """Stop the engine, so that it writes its state, and start it from there; the rest stays."""
        self.engine.stop(self.processes)
        self.adapter.close()
        self.engine.start(self.processes)
        self.engine.wait_ready(self.processes)
        self.adapter.after_restart()
        self._warm()

    @property
    def addresses(self) -> Addresses:
        """Return the addresses for clients."""
        front = f"http://127.0.0.1:{self.ports['front']}"
        webhook = self.adapter.billing_webhook(self.outputs)
        return Addresses(
            api_url=front,
            stream_url=f"http://127.0.0.1:{self.ports['stream']}",
            websocket_url=str(self.adapter.stage_settings().get("websocket_url", "")),
            billing_webhook_url=f"{front if webhook.host else webhook.url}{_WEBHOOK_PATH}",
        )

    @property
    def broker(self) -> Broker:
        """Return the broker to which devices connect.

        Raises:
            LocalError: the engine has no IoT.
        """
        if self.engine.broker is None:
            raise LocalError(f"{self.engine.name} has no MQTT broker")
        return self.engine.broker

    @property
    def tables(self) -> dict[str, str]:
        """Return the tables by short name."""
        prefix = "Table"
        return {
            key.removeprefix(prefix).lower(): value for key, value in self.outputs.items() if key.startswith(prefix)
        }

    def _start_peers(self) -> None:
        if not self.processes.is_running(ENGINE):
            self.adapter.before_start()
            self.engine.start(self.processes)
        self.stripe.start(self.processes)
        if self.model is not None:
            self.model.start(self.processes)
        else:
            # One of an earlier start, before there was a key.
            self.processes.stop([OFFLINE_MODEL])

    # Synthesis

    def _write_settings(self) -> None:
        settings = {
            **self.adapter.stage_settings(),
            "layer_python": str(self.engine.python),
            "public_api_url": f"http://127.0.0.1:{self.ports['front']}",
            "model_base_url": self.model.url if self.model else "",
            "model_api_key": OFFLINE_MODEL_KEY if self.model else self.given.anthropic_api_key,
            "stripe_api_base": self.stripe.url,
            "stripe_api_key": STRIPE_KEY,
            "stripe_webhook_secrets": [self.webhook_secret],
        }
        write_private(self.places.settings, json.dumps(settings, indent=1))

    def _synthesized(self) -> str:
        marker = self.places.assembly / ".inputs"
        return marker.read_text() if marker.exists() else ""

    def _synthesize(self, digest: str) -> None:
        command = [python(), "-m", "infra.app", "--stage", self.engine.stage]
        command += ["--settings", str(self.places.settings), "--out", str(self.places.assembly)]
        done = subprocess.run(
            command, cwd=self.places.root, env=clean_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise LocalError(f"the stacks cannot be synthesized:\n{done.stdout}{done.stderr}")
        (self.places.assembly / ".inputs").write_text(digest)

    # What runs beside the engine

    def _start_front(self) -> None:
        api, webhook = self.adapter.api(self.outputs), self.adapter.billing_webhook(self.outputs)
        command = [python(), "-m", "local.front", str(self.ports["front"]), api.url, "--host", api.host]
        if webhook.host:
            # Stripe cannot be told of a header.
            command += ["--also", _WEBHOOK_PATH, webhook.url, webhook.host]
        self.processes.start(Program(FRONT, command, clean_environment(), self.places.root))

    def _start_stream_host(self) -> None:
        """Run the stream function's bootstrap behind a real HTTP server: the engine buffers what a function streams.

        It has the deployed function's variables and its role's credentials, and the packages of its own layer.
        """
        function = self.outputs["FunctionAgentStream"]
        environment = {
            **self.adapter.function_environment(function),
            **self.engine.client_environment(),
            **self.adapter.function_credentials(function),
            "AWS_LAMBDA_FUNCTION_NAME": function,
            "KARMA_PYTHON": str(self.engine.python),
        }
        env_file = self.places.state / "agent_stream.json"
        write_private(env_file, json.dumps(environment, indent=1))
        root = self.places.root
        command = [python(), "-m", "local.streamhost", "--port", str(self.ports["stream"])]
        command += ["--function-dir", str(root / "functions" / "agent_stream"), "--env-file", str(env_file)]
        command += ["--prewarm", "2", "--log-file", str(self.processes.log("stream-function"))]
        for origin in LOOPBACK_ORIGINS:
            command += ["--allow-origin", origin]
        packages = make_views(host_target(self.engine.python)) / "agent_stream"
        for path in (COMMON_FOLDER, packages, *self.given.python_path):
            command += ["--python-path", str(path)]
        self.processes.start(Program(STREAM, command, clean_environment(), root))

    def _warm(self) -> None:
        """Call each function once, so that the first real request does not wait for its start."""
        self.adapter.warm(
            {
                self.outputs["FunctionApi"]: http_event("GET", "/api/v1/health"),
                self.outputs["FunctionAgentStream"]: http_event("GET", "/health"),
                self.outputs["FunctionDeviceIngest"]: {"Records": []},
                self.outputs["FunctionBillingWebhook"]: http_event("POST", "/webhooks/stripe"),
                self.outputs["FunctionBackgroundInbox"]: {"Records": []},
                self.outputs["FunctionBackgroundRouter"]: {"Records": []},
                self.outputs["FunctionBackgroundMail"]: {"Records": []},
            },
            self.progress.say,
        )
        self._start_stream_host()
        stream = f"{self.addresses.stream_url}/health"
        front = f"{self.addresses.api_url}/api/v1/health"
        self.processes.wait_ready(STREAM, "stream host", lambda: http_status(stream) is not None, deadline_s=60)
        self.processes.wait_ready(FRONT, "API front", lambda: http_status(front) is not None, deadline_s=60)
        # Two instances of the API: the front lets two requests through at a time.
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(http_status, [front, front], timeout=60))

    def _secret(self, name: str, prefix: str) -> str:
        """Return a random value that stays the same for this environment."""
        path = self.places.secrets / name
        if not path.exists():
            write_private(path, prefix + secrets.token_urlsafe(24))
        return path.read_text()


def synthesis_digest(settings: Path, root: Path) -> str:
    """Return a digest of what the stacks are synthesized from: the stage's settings, and files of the work tree."""
    digest = hashlib.sha256(settings.read_bytes())
    for top in _SYNTHESIS_INPUTS:
        for path in sorted((root / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(root)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def stop_everything(processes: Processes) -> list[str]:
    """End the processes of an environment; return the names of those that ran."""
    running = list(processes.running())
    # The device first, so that its farewell is still seen; the engine last, it writes what the others did.
    first = [name for name in running if name == SIMULATOR]
    last = [name for name in running if name == ENGINE]
    between = [name for name in running if name not in (*first, *last)]
    stopped = processes.stop(first) + processes.stop(between)
    return stopped + processes.stop(last, deadline_s=40)


def http_event(method: str, path: str) -> dict[str, Any]:
    """Return the smallest event of an HTTP API (payload 2.0) that our handlers read."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "localhost", "accept": "application/json"},
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "warm",
            "domainName": "localhost",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "warm",
            },
            "requestId": "warm",
            "routeKey": "$default",
            "stage": "$default",
            "timeEpoch": 0,
        },
        "body": "",
        "isBase64Encoded": False,
    }

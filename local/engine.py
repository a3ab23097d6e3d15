"""Engines that run AWS's services on this machine: their interface, and the embedded one (MiniStack).

It has start, readiness and stop; the quirks of the embedded engine are in `local.adapter`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

from local import ports
from local.errors import PrerequisiteMissing
from local.places import Places
from local.processes import Processes, Program, clean_environment
from local.waiting import http_status

REGION = "us-east-1"
NAME = "engine"
FAILURES = "failures"
"""Name of the log of functions' calls that failed."""


class Capability(StrEnum):
    """A capability that an engine may lack; tests name those that they need (`@pytest.mark.needs`)."""

    HTTP_API = "http-api"
    """API Gateway v2 for HTTP, with CORS."""
    WEBSOCKET = "websocket"
    IOT = "iot"
    """Things, certificates, rules, and an MQTT broker with mutual TLS."""
    SES_V2 = "ses-v2"
    IAM = "iam"
    """Grants are enforced."""
    FUNCTIONS = "functions"
    """Functions are run, and reach what listens on this machine's loopback."""
    STATE = "state"
    """Data survive a restart."""
    LOCAL_STAGE = "local-stage"
    """The environment of `make dev` runs on it, with its programs, commands and limits of functions."""
    ACCOUNTS = "accounts"
    """Each 12-digit access key has an account of its own, which holds nothing at first."""


@dataclass(frozen=True)
class Broker:
    """Address of the MQTT broker to which devices connect."""

    host: str
    port: int
    ca_path: Path
    """PEM file of the authority that signed its certificate."""


class Engine(Protocol):
    """A process, or a container, that answers in place of AWS.

    Access key `test` is root of account 000000000000; any 12-digit access key is root of an account of its own.
    """

    @property
    def name(self) -> str:
        """Return its name in reports."""

    @property
    def stage(self) -> str:
        """Return the stage whose templates it accepts (`infra.config.Stage`)."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Return its capabilities besides storage, queues, secrets and CloudFormation."""

    @property
    def places(self) -> Places:
        """Return the folders of its files."""

    @property
    def region(self) -> str:
        """Return the region of its resources."""

    @property
    def endpoint_url(self) -> str:
        """Return the URL of every AWS service."""

    @property
    def python(self) -> Path:
        """Return the interpreter that runs functions, for which their packages are built."""

    @property
    def broker(self) -> Broker | None:
        """Return the MQTT broker; None: the engine has no IoT."""

    def client_environment(self, access_key: str = "test") -> dict[str, str]:
        """Return the variables that point an AWS SDK at this engine."""

    def start(self, processes: Processes) -> None:
        """Start without waiting; `wait_ready` follows."""

    def wait_ready(self, processes: Processes, *, deadline_s: float = 60) -> None:
        """Wait until it answers."""

    def stop(self, processes: Processes) -> None:
        """Stop it, and wait."""


_LAUNCHER = Path(__file__).parent / "ministack" / "launch.py"


@dataclass(frozen=True)
class MiniStack:
    """One MiniStack engine, running or to be started.

    Access key `test` is root of account 000000000000; any 12-digit access key is root of an account of its own.
    """

    places: Places
    port: int
    mqtt_port: int
    persistent: bool
    region: str = REGION
    mqtt_host: str = "localhost"
    """Host of the broker, which its certificate names."""
    python_path: tuple[Path, ...] = ()
    """Import roots that deployed functions search after their own."""
    name: ClassVar[str] = "ministack"
    stage: ClassVar[str] = "local"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability)

    @property
    def endpoint_url(self) -> str:
        """Return the URL of every AWS service."""
        return f"http://localhost:{self.port}"

    @property
    def ca_path(self) -> Path:
        """Return the PEM file of the broker certificate's authority; written when the engine is ready."""
        return self.places.state / "iot-ca.pem"

    @property
    def broker(self) -> Broker:
        """Return the MQTT broker, which starts with the engine."""
        return Broker(self.mqtt_host, self.mqtt_port, self.ca_path)

    @property
    def python(self) -> Path:
        """Return the interpreter that runs functions: the engine's own."""
        return self.places.engine_venv / "bin" / "python"

    def client_environment(self, access_key: str = "test") -> dict[str, str]:
        """Return the variables that point an AWS SDK at this engine."""
        return client_environment(self.port, region=self.region, access_key=access_key)

    def start(self, processes: Processes) -> None:
        """Start without waiting; `wait_ready` follows.

        Raises:
            PrerequisiteMissing: the engine's virtual environment is not installed.
        """
        if not (self.places.engine_venv / "bin" / "ministack").exists():
            raise PrerequisiteMissing(f"the local AWS engine is not in {self.places.engine_venv}; run `make dev`")
        scratch = self._fresh_scratch()
        flag = "1" if self.persistent else "0"
        env = clean_environment(
            GATEWAY_PORT=str(self.port),
            IOT_MTLS_ENABLED="1",
            IOT_MTLS_PORT=str(self.mqtt_port),
            # The string `true`; `1` switches nothing on, and then no policy is enforced.
            AUTH="true",
            MINISTACK_REGION=self.region,
            PERSIST_STATE=flag,
            STATE_DIR=str(self.places.state / "engine"),
            S3_PERSIST=flag,
            S3_DATA_DIR=str(self.places.state / "s3"),
            TMPDIR=str(scratch),
            SFTP_ENABLED="0",
            LOG_LEVEL="INFO",
            PYTHONPATH=os.pathsep.join(map(str, self.python_path)),
        )
        # -P: this project's own packages are not the engine's.
        command = [str(self.python), "-P", str(_LAUNCHER), str(self.port), str(processes.log(FAILURES))]
        processes.start(Program(NAME, command, env, self.places.root))

    def _fresh_scratch(self) -> Path:
        """Return an empty folder for the functions' unpacked code; the last run's is removed in the background.

        It has tens of thousands of files, and removing them may take longer than the engine's start.
        """
        scratch = self.places.state / "tmp"
        for old in (scratch, *self.places.state.glob("tmp-old-*")):
            if old.exists():
                retired = old if old != scratch else old.rename(scratch.with_name(f"tmp-old-{uuid.uuid4().hex[:8]}"))
                threading.Thread(target=shutil.rmtree, args=(retired, True), name="forget-unpacked-code").start()
        scratch.mkdir(parents=True)
        return scratch

    def wait_ready(self, processes: Processes, *, deadline_s: float = 60) -> None:
        """Wait for the HTTP port and the MQTT listener, then write the CA file.

        Raises:
            NotReady: the engine did not answer in time; the message has the end of its log.
        """
        processes.wait_ready(NAME, f"engine on port {self.port}", self.healthy, deadline_s=deadline_s)
        url = f"{self.endpoint_url}/_ministack/iot/ca.pem"
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 -- our own loopback URL
            self.ca_path.write_bytes(response.read())

    def healthy(self) -> bool:
        """Tell whether both the HTTP port and the MQTT listener answer."""
        return http_status(f"{self.endpoint_url}/_ministack/ready") == 200

    def stop(self, processes: Processes) -> None:
        """Stop it and wait: it writes its state only then."""
        processes.stop([NAME], deadline_s=30)


def client_environment(port: int, *, region: str, access_key: str) -> dict[str, str]:
    """Return the variables that point an AWS SDK at an engine on a port of this machine."""
    return {
        "AWS_ENDPOINT_URL": f"http://localhost:{port}",
        # Digits, so that SDKs name buckets in the path: `<bucket>.localhost` does not resolve everywhere.
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        # A profile or the instance metadata service must not be asked.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


@contextmanager
def ephemeral() -> Iterator[MiniStack]:
    """Run an engine that leaves nothing: temporary folder, free ports, no saved state."""
    folder = Path(tempfile.mkdtemp(prefix="karma-engine-"))
    places = Places(base=folder)
    places.make()
    chosen = ports.choose(None)
    engine = MiniStack(places, chosen["engine"], chosen["mqtt"], persistent=False)
    processes = Processes(places)
    try:
        engine.start(processes)
        engine.wait_ready(processes)
        yield engine
    finally:
        engine.stop(processes)
        shutil.rmtree(folder, ignore_errors=True)

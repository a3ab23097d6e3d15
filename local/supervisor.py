"""Runs one background program for as long as its starter lives, and ends it with everything that it started.

    python -I supervisor.py LIFELINE_FD COMMAND...

The starter holds the other end of a pipe. The end of the pipe means that the starter is gone, however it went, and
that nobody will stop the program; a byte in it means that the program is to outlive its starter. Whatever becomes of
the program, none of its descendants is left: on Linux the supervisor adopts those whose parents have gone, and the
program is sent SIGTERM should the supervisor itself be killed. macOS has neither; there a killed supervisor's program
is found by the next start (`local.processes`).
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

import psutil

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
_GRACE_S = 20
"""Seconds for a program to end: the engine writes its state then."""
_LINUX = sys.platform.startswith("linux")


def main() -> int:
    """Run the program; return its exit status."""
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    if _LINUX:
        _prctl(_SET_CHILD_SUBREAPER, 1)
    os.set_inheritable(lifeline, False)
    # Whatever else its starter handed on is for the program.
    program = subprocess.Popen(command, preexec_fn=_end_with_supervisor, close_fds=False)  # noqa: PLW1509 -- no thread runs yet

    def forward(number: int, _: object) -> None:
        program.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    signal.signal(signal.SIGHUP, forward)
    signal.signal(signal.SIGALRM, lambda *_: program.kill())
    signal.signal(signal.SIGCHLD, lambda *_: _collect_adopted(program.pid))
    threading.Thread(target=_watch, args=(lifeline, program), daemon=True, name="lifeline").start()
    status = program.wait()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _end_descendants()
    return status if status >= 0 else 128 - status


def _watch(lifeline: int, program: subprocess.Popen[bytes]) -> None:
    if os.read(lifeline, 1):
        os.close(lifeline)
        return
    program.terminate()
    signal.alarm(_GRACE_S)


def _end_with_supervisor() -> None:
    """Run in the program's process before the program: ask Linux for SIGTERM at the supervisor's end."""
    if _LINUX:
        _prctl(_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _collect_adopted(program: int) -> None:
    """Collect the exit status of adopted processes, which would stay as zombies; never the program's own."""
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid == program:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


def _end_descendants() -> None:
    for end, wait_s in ((psutil.Process.terminate, 2), (psutil.Process.kill, 2)):
        left = psutil.Process().children(recursive=True)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        psutil.wait_procs(left, timeout=wait_s)


if __name__ == "__main__":
    sys.exit(main())

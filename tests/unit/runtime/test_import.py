"""Effects of importing the runtime client in a fresh interpreter; `-S` leaves it the standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
BOOTSTRAP = ROOT / "functions" / "agent_stream" / "bootstrap"

PROBE = """
import random, socket, sys
before = random.getstate()
def forbidden(*args, **kwargs): raise AssertionError("a socket was opened at import")
socket.socket.connect = socket.create_connection = socket.socketpair = forbidden
import karma.core.runtime.serve
assert random.getstate() == before, "something random happened at import"
print([name for name in sys.modules if name.startswith("karma.") and not name.startswith("karma.core.runtime")])
"""


def test_nothing_but_the_standard_library_is_imported_nothing_opened_nothing_random() -> None:
    environment = {"PYTHONPATH": str(ROOT / "layers" / "common" / "python"), "PATH": os.environ["PATH"]}

    result = subprocess.run(
        [sys.executable, "-S", "-c", PROBE], env=environment, capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stdout.strip()) == (0, "['karma.core', 'karma.core.records']"), result.stderr


def test_the_bootstrap_is_executable() -> None:
    assert os.access(BOOTSTRAP, os.X_OK)


def test_the_bootstrap_runs_the_interpreter_that_lambda_names_and_puts_the_layers_first(tmp_path: Path) -> None:
    """As AWS_LAMBDA_EXEC_WRAPPER it is called with the original command: interpreter first."""
    function = tmp_path / "task" / "agent_stream"
    function.mkdir(parents=True)
    wrapper = function / "bootstrap"
    wrapper.write_bytes(BOOTSTRAP.read_bytes())
    wrapper.chmod(0o755)
    interpreter = tmp_path / "python"
    interpreter.write_text('#!/bin/sh\nprintf "%s\\n" "$PYTHONPATH" "$@"\n')
    interpreter.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "/given", "LAMBDA_RUNTIME_DIR": "/var/runtime"}

    result = subprocess.run(
        [wrapper, interpreter, "/var/runtime/bootstrap.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )

    task = tmp_path / "task"
    assert result.stdout.splitlines() == [
        f"{task}:{task}/python:/opt/python:/given:/var/runtime",
        "-P",
        "-m",
        "karma.core.runtime",
        "agent_stream.app:app",
    ]

"""Python interpreters of this machine. Standard library only: it runs before anything is installed.

`python3 -m infra.interpreters` prints the path of that which the project runs on here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

LAMBDA_PYTHON = "3.13"
"""Version of Python on which Lambda runs the functions."""


def preferred() -> Path:
    """Return the interpreter for the project: of Lambda's version if a working one is found, else this program's."""
    found = find_python(LAMBDA_PYTHON)
    # A distribution may have left out what virtual environments are made with.
    return found if found and _answer(found, "import ensurepip; print()") is not None else Path(sys.executable)


def find_python(version: str) -> Path | None:
    """Find a Python of a version (`X.Y`) by running candidates, since one on PATH may be a broken shim; None: none."""
    candidates = [shutil.which(f"python{version}")]
    # A version manager keeps its interpreters side by side: beside ours, or in its usual folders.
    homes = (Path(sys.base_prefix).parent, Path.home() / ".pyenv/versions", Path.home() / ".local/share/uv/python")
    for home in homes:
        candidates += sorted(map(str, home.glob(f"*{version}*/bin/python{version}")), reverse=True)
    for candidate in candidates:
        if candidate and version_of(Path(candidate)) == version:
            return Path(candidate)
    return None


def version_of(interpreter: Path) -> str | None:
    """Return `X.Y` of an interpreter, None when it does not run."""
    return _answer(interpreter, "import sys; print('%d.%d' % sys.version_info[:2])")


def _answer(interpreter: Path, script: str) -> str | None:
    try:
        done = subprocess.run([interpreter, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    print(preferred())

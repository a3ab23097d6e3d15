import sys
from pathlib import Path

import pytest

from infra.interpreters import LAMBDA_PYTHON, find_python, preferred


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is the whole PATH, on a machine with no other interpreter than this."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "opt" / "ours"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def _write(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


WHOLE = f"case $2 in *version_info*) echo {LAMBDA_PYTHON} ;; esac"
WITHOUT_ENSUREPIP = f"case $2 in *version_info*) echo {LAMBDA_PYTHON} ;; *) exit 1 ;; esac"
DEAD_SHIM = "echo 'command not found' >&2; exit 127"


def test_a_dead_shim_on_path_is_passed_over_for_what_a_version_manager_keeps(put: Path, tmp_path: Path) -> None:
    name = f"python{LAMBDA_PYTHON}"
    _write(put / name, DEAD_SHIM)
    kept = _write(tmp_path / ".pyenv" / "versions" / f"{LAMBDA_PYTHON}.9" / "bin" / name, WHOLE)
    assert find_python(LAMBDA_PYTHON) == kept


def test_lambdas_version_is_preferred_where_it_is_whole(put: Path) -> None:
    found = _write(put / f"python{LAMBDA_PYTHON}", WHOLE)
    assert preferred() == found


@pytest.mark.parametrize("script", [DEAD_SHIM, WITHOUT_ENSUREPIP], ids=["dead", "without ensurepip"])
def test_else_that_which_asks_is(put: Path, script: str) -> None:
    _write(put / f"python{LAMBDA_PYTHON}", script)
    assert preferred() == Path(sys.executable)

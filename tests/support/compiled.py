"""Test modules are compiled once for all processes that run tests side by side, a share by each.

pytest rewrites the asserts of a module before it compiles it, which takes longer than all imports, and keeps the result
(`__pycache__/*-pytest-*.pyc`). Processes that begin together on a fresh checkout would each do it for every module. So
each does its share before it collects, and finds what the others did; what another has not done yet it does by itself.

tests/conftest.py registers this as a plugin of pytest.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.assertion import rewrite


def pytest_sessionstart(session: pytest.Session) -> None:
    worker: dict[str, object] | None = getattr(session.config, "workerinput", None)
    if worker is None or sys.dont_write_bytecode:
        return
    number, count = int(str(worker["workerid"]).removeprefix("gw")), int(str(worker["workercount"]))
    for file in sorted(set(_modules(session.config)))[number::count]:
        keep_compiled(file, session.config)


def keep_compiled(file: Path, config: pytest.Config) -> None:
    """Compile a test module as pytest does, unless that is there already."""
    state = config.stash[rewrite.assertstate_key]
    folder = rewrite.get_cache_dir(file)
    kept = folder / f"{file.stem}{rewrite.PYC_TAIL}"
    if rewrite._read_pyc(file, kept, state.trace) is None and rewrite.try_makedirs(folder):
        digest, code = rewrite._rewrite_test(file, config)
        rewrite._write_pyc(state, code, digest, kept)


def _modules(config: pytest.Config) -> Iterator[Path]:
    for argument in config.args:
        path = config.invocation_params.dir / argument.partition("::")[0]
        yield from [path] if path.is_file() else path.rglob("test_*.py")

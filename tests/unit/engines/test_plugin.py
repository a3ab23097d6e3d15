"""A test that the engine cannot run is unsupported: by name and count, neither passed nor skipped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from local.places import ROOT

CONFTEST = """
import dataclasses

import pytest

from tests.engines.plugin import CHOICE

@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    config.stash[CHOICE] = dataclasses.replace(config.stash[CHOICE], capabilities=frozenset({"iot"}))
"""
TESTS = """
import pytest

def test_anywhere():
    pass

@pytest.mark.needs("iot")
def test_with_a_broker():
    pass

@pytest.mark.needs("websocket")
class TestSockets:
    @pytest.mark.needs("iot", "state")
    def test_that_needs_more(self):
        raise AssertionError("not run")

@pytest.mark.needs("teleport")
def test_that_needs_what_nobody_knows():
    pass
"""


def test_a_test_that_the_engine_cannot_run_is_unsupported_and_named(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_some.py").write_text(TESTS)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'layers/common/python'}"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.engines.plugin",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
    ]
    # The last one fails: a capability that nobody knows would never be unsupported.
    done = subprocess.run(
        [*command, "--engine-report", str(tmp_path / "all")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "2 passed, 1 failed, 1 unsupported on ministack" in done.stdout
    assert "test_some.py::TestSockets::test_that_needs_more  (needs state, websocket)" in done.stdout
    assert "'teleport' is not a valid Capability" in done.stdout
    assert not re.search(r"\d+ skipped", done.stdout)
    assert not (tmp_path / "all").exists(), "a run with failures is not kept"

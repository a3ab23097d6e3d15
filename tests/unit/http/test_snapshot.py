"""Before a snapshot is taken of the API, all of its routes are imported: no restored process imports one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import pkgutil, sys
from api import handler, routes
from karma.core.runtime.snapshot import run_before_snapshot

names = {f"api.routes.{found.name}" for found in pkgutil.iter_modules(routes.__path__)}
print(sorted(names & sys.modules.keys()))
run_before_snapshot()
print(sorted(names - sys.modules.keys()))
"""


def test_before_a_snapshot_every_route_is_imported() -> None:
    environment = {
        "PYTHONPATH": f"{ROOT / 'layers/common/python'}:{ROOT / 'functions'}",
        "POWERTOOLS_SERVICE_NAME": "x",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=ROOT
    )
    assert done.stdout.split() == ["[]", "[]"]

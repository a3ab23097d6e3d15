"""Modules that the streaming function loads before its first event, and before a snapshot is taken of it."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from infra.catalog import COMMON_ENVIRONMENT, FUNCTIONS

ROOT = Path(__file__).resolve().parents[3]
FORBIDDEN = {"anthropic", "httpx2", "pydantic", "ag_ui", "fastapi", "starlette", "boto3", "argon2", "cryptography"}

NOT_KEPT = {
    "agent_stream.openapi",  # nobody waits for the description
    # Of agent_stream.execution alone, which has no snapshot:
    "karma.conversations.repository",
    "karma.conversations.title_repository",
    "karma.runs.background",
    "karma.runs.expiry",
    "karma.runs.places",
    # When a run first needs them; nobody waits for the import of what then waits for a device or S3:
    "karma.devices.lookup",
    "karma.devices.repository.devices",
    "karma.files.entries",
    "karma.files.reading",
    "karma.files.repository.files",
}
"""Modules that are imported by need, also after a snapshot."""


def loaded(program: str) -> set[str]:
    code = f"""
import sys
sys.path[:0] = [{str(ROOT / "layers/common/python")!r}, {str(ROOT / "functions")!r}]
{program}
print(*sorted(sys.modules))
"""
    environment = {
        "PATH": os.defpath,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        **{name: "x" for spec in FUNCTIONS.values() for name in (*COMMON_ENVIRONMENT, *spec.environment)},
        "EXECUTION_WORKERS": "2",
        "POWERTOOLS_LOG_LEVEL": "INFO",
        "POWERTOOLS_LOGGER_SAMPLE_RATE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=ROOT
    )
    return set(done.stdout.splitlines()[-1].split())


def imported_by_need() -> Iterator[str]:
    """Yield the modules that functions of agent_stream import themselves."""
    for path in (ROOT / "functions/agent_stream").glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.ImportFrom) and node.module:
                        yield f"{node.module}.{node.names[0].name}" if node.module == "agent_stream" else node.module


def test_the_entry_loads_nothing_heavy() -> None:
    packages = {name.partition(".")[0] for name in loaded("import agent_stream.app")}

    assert FORBIDDEN & packages == set()
    assert "karma" in packages


def test_before_a_snapshot_everything_is_imported_for_which_a_client_would_wait() -> None:
    wanted = set(imported_by_need())
    assert wanted >= NOT_KEPT
    kept = loaded("from agent_stream import app\napp.warm()")
    assert wanted - kept <= NOT_KEPT, "name it in LATER of functions/agent_stream/app.py"

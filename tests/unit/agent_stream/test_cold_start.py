"""Modules that the streaming function loads before its first event."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FORBIDDEN = {"anthropic", "httpx2", "pydantic", "ag_ui", "fastapi", "starlette", "boto3", "argon2", "cryptography"}


def test_the_entry_loads_nothing_heavy() -> None:
    code = f"""
import sys
sys.path[:0] = [{str(ROOT / "layers/common/python")!r}, {str(ROOT / "functions")!r}]
import agent_stream.app
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert FORBIDDEN & set(loaded) == set()
    assert "karma" in loaded

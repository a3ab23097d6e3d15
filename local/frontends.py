"""Finds the versions of `@ag-ui/client` that the newest front ends on npm depend on. Standard library only.

The lock pins 1.0 and the version that they depended on when it was made (`@ag-ui/client-0` in package.json), so that
an installation is the same every day. When the packages are installed, npm is asked what the front ends depend on
today; a version that the lock does not have is installed beside it, for the contract tests to run as well. Without an
answer from npm the pinned ones are what is tested.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FRONT_ENDS = ("@copilotkit/react-core", "@copilotkit/runtime", "@assistant-ui/react-ag-ui")
_CLIENT = "@ag-ui/client"
_PINNED = ("@ag-ui/client", "@ag-ui/client-0")
_FOUND = ROOT / "node_modules" / ".frontends"
_TIMEOUT_S = 60


def clients() -> Mapping[str, str]:
    """Return each installed version of the client, and the name by which Node.js imports it."""
    modules = ROOT / "node_modules"
    pinned = {_version(modules / name): name for name in _PINNED if (modules / name).is_dir()}
    beside = [folder / "node_modules" / _CLIENT for folder in sorted(_FOUND.glob("*")) if folder.is_dir()]
    return {_version(found): str(found / "dist" / "index.mjs") for found in beside if found.is_dir()} | pinned


def install_missing() -> list[str]:
    """Install and return the versions that front ends depend on and that the lock does not have.

    Installs nothing when npm does not answer.
    """
    wanted = {spec.lstrip("^~") for spec in map(_dependency, FRONT_ENDS) if spec}
    missing = sorted(wanted - set(clients()))
    return [version for version in missing if _install(version)]


def _dependency(front_end: str) -> str:
    told = _npm("view", f"{front_end}@latest", "dependencies", "--json")
    try:
        found = json.loads(told or "{}").get(_CLIENT, "")
    except (json.JSONDecodeError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def _install(version: str) -> bool:
    folder = _FOUND / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n')
    done = _npm("install", "--prefix", str(folder), "--ignore-scripts", "--no-save", f"{_CLIENT}@{version}")
    return done is not None


def _npm(*arguments: str) -> str | None:
    npm = shutil.which("npm")
    if npm is None:
        return None
    try:
        done = subprocess.run(
            [npm, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout if done.returncode == 0 else None


def _version(package: Path) -> str:
    version: str = json.loads((package / "package.json").read_text())["version"]
    return version

"""Installs everything that a fresh machine needs. Standard library only, since it runs before anything is installed.

    python3 -m local.prerequisites                   `make install`
    python3 -m local.prerequisites localstack        besides, what `make test-localstack` needs: with Docker nothing
    python3 -m local.prerequisites localstack-host   the same without Docker

Python 3.11 and Node 20 have to be there; virtual environments and npm's packages are made, all at the same time,
each only if its lock file is newer than the last installation. LocalStack's host mode needs Python 3.13 and Java 17;
where one is missing the program says which, and ends with status 3.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from infra.interpreters import LAMBDA_PYTHON, find_python
from local import api_pages, frontends

ROOT = Path(__file__).resolve().parent.parent
PYTHON = (3, 11)
NODE = 20

_printing = threading.Lock()


class Missing(Exception):
    """This machine lacks a program that is not installed here."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment and the lock file of its packages."""

    folder: str
    lock: str
    what: str
    editable: tuple[str, ...] = ()
    """Packages of this repository that are importable in it from the work tree."""
    python: str = ""
    """Version of Python that it needs; empty: this program's."""

    def interpreter(self) -> str:
        """Return the interpreter that makes the environment.

        Raises:
            Missing: there is no interpreter of its version.
        """
        if not self.python:
            return sys.executable
        found = find_python(self.python)
        if found is None:
            raise Missing(f"{self.what} needs Python {self.python}; none was found that runs")
        return str(found)

    @property
    def path(self) -> Path:
        """Return the folder of the environment."""
        return ROOT / self.folder

    def is_current(self) -> bool:
        """Tell whether it was installed after its lock file last changed, and with these packages of the repository."""
        marker = self.path / ".installed"
        changed = (ROOT / "requirements" / self.lock).stat().st_mtime
        return marker.exists() and marker.stat().st_mtime >= changed and marker.read_text() == self.installed

    @property
    def installed(self) -> str:
        """Return the text that marks it as installed."""
        return "\n".join(self.editable)


DEVELOPMENT = Environment(".venv", "dev.txt", "Python packages", (".", "layers/common", "sdk/device", "sdk/python"))
TOOLS = (
    Environment(".engine/venv", "engine.txt", "the AWS engine"),
    Environment(".engine/stripe", "stripe_peer.txt", "the Stripe peer"),
    Environment(".engine/contract", "contract.txt", "the contract's tools"),
)
LOCALSTACK = Environment(".engine/localstack", "localstack.txt", "LocalStack's host mode", python=LAMBDA_PYTHON)
"""Only for those who test on LocalStack: 330 MB."""
_CANNOT = 3
_JAVA = 17
_NPM_MARKER = ROOT / "node_modules" / ".package-lock.json"


def main() -> int:
    """Check and install; 0 when everything is there."""
    wanted = sys.argv[1:]
    try:
        ensure(say=_say)
    except (Missing, subprocess.CalledProcessError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    try:
        if wanted == ["localstack-host"] or (wanted == ["localstack"] and not docker_answers()):
            ensure_localstack(say=_say)
    except Missing as missing:
        print(f"LocalStack: {missing}", file=sys.stderr)
        return _CANNOT
    except subprocess.CalledProcessError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def ensure(*, say: Callable[[str], None]) -> float:
    """Install what is missing or out of date; return the seconds it took, 0 when nothing was to do.

    Raises:
        Missing: there is no Python 3.11 or no Node 20.
        subprocess.CalledProcessError: an installer failed; its output was shown.
    """
    check_python()
    check_node()
    stale = [environment for environment in (DEVELOPMENT, *TOOLS) if not environment.is_current()]
    npm = not _npm_is_current()
    if not stale and not npm:
        return 0.0
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=4) as pool:
        jobs = [pool.submit(_install_npm, say)] if npm else []
        if stale:
            _ensure_uv(say)
            jobs += [pool.submit(_install, environment, say) for environment in stale]
        for job in jobs:
            job.result()
    took = time.monotonic() - began
    say(f"downloads and installation took {took:.1f} s")
    return took


def ensure_localstack(*, say: Callable[[str], None]) -> None:
    """Install LocalStack's host mode, unless it is there.

    Raises:
        Missing: there is no Python 3.13 or no Java 17.
        subprocess.CalledProcessError: an installer failed; its output was shown.
    """
    check_java()
    if not LOCALSTACK.is_current():
        _install(LOCALSTACK, say)


def docker_answers() -> bool:
    """Tell whether a Docker daemon listens where DOCKER_HOST says, or at the usual place."""
    address = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    by_path = address.scheme == "unix"
    with socket.socket(socket.AF_UNIX if by_path else socket.AF_INET) as probe:
        probe.settimeout(2)
        try:
            probe.connect(address.path if by_path else (address.hostname, address.port))
        except OSError:
            return False
    return True


def check_java() -> None:
    """Refuse a machine without Java, or with an old one.

    Raises:
        Missing: Java is absent or too old; the message says what needs it.
    """
    need = f"its DynamoDB needs Java {_JAVA}"
    java = shutil.which("java")
    if java is None:
        raise Missing(f"{need}; none is on PATH")
    # On standard error, as Java does: `openjdk version "17.0.15" …`
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    number = re.search(r'version "(\d+)', said)
    if number is None or int(number[1]) < _JAVA:
        raise Missing(f"{need}; {java} is {said.splitlines()[0] if said else 'not working'}")


def check_python() -> None:
    """Refuse an interpreter that is too old.

    Raises:
        Missing: Python is too old; the message says what to install.
    """
    if sys.version_info < PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        raise Missing(f"Python {PYTHON[0]}.{PYTHON[1]} or newer is needed, this is {found} ({sys.executable})")


def check_node() -> None:
    """Refuse a machine without Node.js or with an old one.

    Raises:
        Missing: Node.js is absent or too old; the message says what to install.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    need = f"Node.js {NODE} or newer with npm is needed (CDK, the offline model and the AG-UI client run on it)"
    if node is None or npm is None:
        raise Missing(f"{need}; none is on PATH. Get it from https://nodejs.org or your package manager.")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    number = re.match(r"v(\d+)", version)
    if number is None or int(number[1]) < NODE:
        raise Missing(f"{need}; {node} is {version or 'not working'}.")


def _npm_is_current() -> bool:
    return (
        api_pages.are_there()
        and _NPM_MARKER.exists()
        and _NPM_MARKER.stat().st_mtime >= (ROOT / "package-lock.json").stat().st_mtime
    )


def _ensure_uv(say: Callable[[str], None]) -> None:
    """Make `.venv` and put uv into it; uv fills the environments, several times faster than pip."""
    uv = DEVELOPMENT.path / "bin" / "uv"
    if uv.exists():
        return
    began = time.monotonic()
    _run([sys.executable, "-m", "venv", str(DEVELOPMENT.path)])
    pip = [str(DEVELOPMENT.path / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--require-hashes", "-r", str(ROOT / "requirements" / "uv.txt")])
    say(f"uv: {time.monotonic() - began:.1f} s")


def _install(environment: Environment, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    if not (environment.path / "bin" / "python").exists():
        _run([environment.interpreter(), "-m", "venv", "--without-pip", str(environment.path)])
    # uv ignores pip's certificate settings; this makes it trust what the system trusts.
    settings = {"UV_SYSTEM_CERTS": "1", **os.environ}
    uv, python = str(DEVELOPMENT.path / "bin" / "uv"), str(environment.path / "bin" / "python")
    lock = str(ROOT / "requirements" / environment.lock)
    report = _run([uv, "pip", "sync", "--python", python, "--require-hashes", lock], {**settings, "NO_COLOR": "1"})
    if environment.editable:
        options = [option for package in environment.editable for option in ("--editable", package)]
        _run([uv, "pip", "install", "--python", python, "--no-deps", "--no-build-isolation", *options], settings)
    (environment.path / ".installed").write_text(environment.installed)
    prepared = re.search(r"Prepared \d+ packages? in (.+)", report)
    downloads = f", {prepared[1]} of it downloads" if prepared else ""
    say(f"{environment.what}: {time.monotonic() - began:.1f} s{downloads}")


def _install_npm(say: Callable[[str], None]) -> None:
    began = time.monotonic()
    _run([str(shutil.which("npm")), "ci", "--ignore-scripts", "--silent"])
    api_pages.put()
    beside = frontends.install_missing()
    _NPM_MARKER.touch()
    more = f", with @ag-ui/client {', '.join(beside)} for front ends of today" if beside else ""
    say(f"npm packages: {time.monotonic() - began:.1f} s{more}")


def _run(command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        with _printing:
            print(done.stdout + done.stderr, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, list(command))
    return done.stderr


def _say(text: str) -> None:
    with _printing:
        print(f"  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""The clients that `make clients` makes, made once for all tests: a compiler takes seconds for each.

They lie in build/test-clients, under the digest of what they are made of; a test gets a copy of its own.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from infra.layers import locked
from sdk.clients import generate

_KEPT = generate.ROOT / "build" / "test-clients"
_CLIENTS = Path(generate.__file__).parent


def agent(out: Path) -> Path:
    """Copy the npm package of sdk/js into a folder that is not there yet; return it."""
    return _copied(generate.make_agent, out, generate.AGENT)


def typescript(out: Path) -> Path:
    """Copy the npm package of the API's client into a folder that is not there yet; return it."""
    return _copied(generate.make_typescript, out, _CLIENTS, generate.DOCUMENT)


def python(out: Path) -> Path:
    """Copy the Python package of the API's client into a folder that is not there yet; return it."""
    return _copied(generate.make_python, out, _CLIENTS, generate.DOCUMENT)


def _copied(make: Callable[[Path], Path], out: Path, *sources: Path) -> Path:
    digest = hashlib.sha256()
    # What makes them, and the locks of the compilers.
    locks = (generate.ROOT / "package-lock.json", generate.ROOT / "requirements" / "contract.txt")
    for file in _files(Path(generate.__file__), *locks, *sources):
        digest.update(f"{file.relative_to(generate.ROOT).as_posix()} ".encode() + file.read_bytes())
    kept = _KEPT / f"{make.__name__}-{digest.hexdigest()[:24]}"
    with locked(kept):
        if not (kept / "is-whole").exists():
            make(kept / "package")
            (kept / "is-whole").touch()
    shutil.copytree(kept / "package", out)
    return out


def _files(*sources: Path) -> Iterator[Path]:
    for source in sources:
        found = [source] if source.is_file() else source.rglob("*")
        passed_over = {"node_modules", "__pycache__"}
        yield from sorted(each for each in found if each.is_file() and not passed_over & set(each.parts))

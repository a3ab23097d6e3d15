"""Archives of the local stage, which point to code and packages on this machine.

An engine on this machine reads the same disk, so nothing is copied, compiled or zipped for it: the packages of all
functions are installed once and each function sees those of its own requirement file; our own code is read from the
work tree. A change of code is no change of an archive: a function that starts anew runs it (`local.watch`).

    build/layers/<target>/packages-<digest>/python     every package that some function pins, installed once
    build/layers/<target>/views-<digest>/<function>/   links to those that one function pins
"""

import hashlib
import importlib.metadata
import json
import re
import shutil
import tempfile
from pathlib import Path

from infra.artifacts import BUILD, Archive, Artifacts, Entry, digest_of, write_zip
from infra.catalog import FUNCTIONS, FunctionName
from infra.config import ROOT
from infra.layers import LayerError, Target, install, layer_digest, locked, strip

FUNCTION_FOLDER = ROOT / "functions"
COMMON_FOLDER = ROOT / "layers" / "common" / "python"
_POINTER = "packages.txt"
_SITECUSTOMIZE = f"""import os, sys

# One of several layers: only the first one's sitecustomize is imported, so it looks into all of them.
path = []
for entry in sys.path:
    path.append(entry)
    pointer = os.path.join(entry, "{_POINTER}")
    if os.path.exists(pointer):
        with open(pointer) as file:
            path.append(file.read())
sys.path[:] = path
"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def build_local_artifacts(target: Target) -> Artifacts:
    """Install missing packages, and make the archives that point to code and packages."""
    packages = sorted({name.package for name in FunctionName})
    views = make_views(target)
    streaming = {spec.name.package for spec in FUNCTIONS.values() if spec.streaming}
    return Artifacts(
        dependencies={package: _layer(f"deps-{package}", views / package, target) for package in packages},
        common=_layer("common", COMMON_FOLDER, target),
        code={
            package: _stream_code(package, views / package) if package in streaming else _code(package)
            for package in packages
        },
    )


def make_views(target: Target) -> Path:
    """Install the packages of all functions once; return the folder with one folder of links a function.

    Raises:
        LayerError: an installation failed, or two functions pin different versions of a package.
    """
    requirements = {name.package: ROOT / "requirements" / f"{name.package}.txt" for name in FunctionName}
    pins = {package: pinned(file) for package, file in requirements.items()}
    union = united(pins)
    with tempfile.TemporaryDirectory(prefix="karma-pins-") as scratch:
        together = Path(scratch) / "local.txt"
        together.write_text("".join(union[name] for name in sorted(union)), encoding="utf-8")
        digest = layer_digest(together, target)[:16]
        folder = BUILD / "layers" / target.label
        held = json.dumps({package: sorted(own) for package, own in pins.items()}, sort_keys=True)
        installed = folder / f"packages-{digest}"
        # Also by who pins what: a function that pins one more of the same packages needs another view.
        views = folder / f"views-{digest}-{hashlib.sha256(held.encode()).hexdigest()[:8]}"
        with locked(folder / "local"):
            if views.is_dir():
                return views
            shutil.rmtree(installed, ignore_errors=True)
            # Links into uv's cache, which nothing here may write through: files are removed or replaced, never changed.
            install(together, installed / "python", target, link="hardlink")
            tops = _top_levels(installed / "python")
            strip(installed / "python")
            fresh = Path(tempfile.mkdtemp(prefix=".views-", dir=folder))
            for package, own in pins.items():
                view = fresh / package
                view.mkdir()
                for name in own:
                    for top in tops.get(name, ()):
                        if (installed / "python" / top).exists() and not (view / top).is_symlink():
                            (view / top).symlink_to(installed / "python" / top)
            fresh.rename(views)
    return views


def united(pins: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the pins of all functions together.

    Raises:
        LayerError: two of them pin different versions of a package, which one installation cannot hold.
    """
    union: dict[str, str] = {}
    for package, own in pins.items():
        for name, pin in own.items():
            if union.setdefault(name, pin) != pin:
                raise LayerError(f"requirements/{package}.txt pins another {name} than the others; run `make lock`")
    return union


def pinned(requirements: Path) -> dict[str, str]:
    """Return the pins of a requirement file, hashes included, by normalized name."""
    found: dict[str, str] = {}
    name = ""
    for line in requirements.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("#") or not line.strip():
            continue
        if not line[0].isspace():
            matched = _NAME.match(line)
            if matched is None:
                raise LayerError(f"{requirements}: a line that names no package: {line.strip()}")
            name = normalized(matched[0])
            found[name] = ""
        found[name] += line
    return found


def _top_levels(site: Path) -> dict[str, set[str]]:
    """Return the top-level names that each installed distribution has in a folder, by normalized name."""
    return {
        normalized(distribution.metadata["Name"]): {
            file.parts[0] for file in distribution.files or () if not file.is_absolute() and file.parts[0] != ".."
        }
        for distribution in importlib.metadata.distributions(path=[str(site)])
    }


def normalized(name: str) -> str:
    """Return a distribution's name as packaging tools compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _layer(name: str, folder: Path, target: Target) -> Archive:
    """Make a layer whose `python/` points to a folder.

    There are two pointers: a `.pth` file, which the embedded engine's Python workers read, and a file that
    `sitecustomize` reads, which an interpreter imports that has `python/` on its path.
    """
    pth = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    return _archive(
        name,
        [
            Entry(f"python/lib/python{target.python}/site-packages/packages.pth", pth.encode()),
            Entry(f"python/{_POINTER}", str(folder).encode()),
            Entry("python/sitecustomize.py", _SITECUSTOMIZE.encode()),
        ],
    )


def _code(package: str) -> Archive:
    """Make an archive that finds the function's package in the work tree; its own `__init__.py` is empty."""
    return _archive(f"code-{package}", [_pointer(package)])


def _pointer(package: str) -> Entry:
    init = f"__path__ = [{str(FUNCTION_FOLDER / package)!r}]\n"
    return Entry(f"{package}/__init__.py", init.encode())


def _stream_code(package: str, view: Path) -> Archive:
    """Make an archive that starts the function's bootstrap; the runtime `provided.al2023` gets no layers."""
    path = f"{COMMON_FOLDER}:{view}"
    script = (
        "#!/bin/sh\n"
        f"export PYTHONPATH='{path}'\"${{PYTHONPATH:+:$PYTHONPATH}}\"\n"
        f"exec '{FUNCTION_FOLDER / package / 'bootstrap'}' \"$@\"\n"
    )
    bootstrap = Entry("bootstrap", script.encode(), executable=True)
    return _archive(f"code-{package}", [_pointer(package), bootstrap])


def _archive(name: str, entries: list[Entry]) -> Archive:
    digest = digest_of(entries)
    path = BUILD / "local" / f"{name}-{digest[:16]}.zip"
    if not path.exists():
        write_zip(entries, path)
    return Archive(path=path, digest=digest)

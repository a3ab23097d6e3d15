"""Reproducible archives of function code and layers.

Lambda and the local engine get finished zip files. The name of an archive is a digest of what went into it (relative
paths, executable bits, bytes of the sources, version of the bytecode), so that the same input publishes nothing new.
"""

import hashlib
import os
import shutil
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.config import ROOT

BUILD = ROOT / "build"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every zip entry: the earliest that one can have."""
NOISE = frozenset({"__pycache__", ".DS_Store", ".mypy_cache", ".ruff_cache", ".pytest_cache"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A finished zip and the digest that names it."""

    path: Path
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """All archives that a synthesis ships, by name of the function package."""

    code: Mapping[str, Archive]
    dependencies: Mapping[str, Archive]
    common: Archive


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive."""

    name: str
    data: bytes
    executable: bool = False


def source_entries(folder: Path, *, prefix: str) -> list[Entry]:
    """Read a source tree in a stable order, without caches and bytecode."""
    return [
        Entry(
            name=f"{prefix}/{path.relative_to(folder).as_posix()}",
            data=path.read_bytes(),
            executable=bool(path.stat().st_mode & stat.S_IXUSR),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc" and NOISE.isdisjoint(path.relative_to(folder).parts)
    ]


def digest_of(entries: Iterable[Entry], *, salt: str = "") -> str:
    """Return the SHA-256 over names, executable bits and bytes, in order of names."""
    sha = hashlib.sha256(salt.encode())
    for entry in sorted(entries, key=lambda item: item.name):
        for part in (entry.name.encode(), b"x" if entry.executable else b"-", entry.data):
            sha.update(len(part).to_bytes(8, "big"))
            sha.update(part)
    return sha.hexdigest()


def write_zip(entries: Iterable[Entry], target: Path) -> None:
    """Write a zip whose bytes depend on the entries alone; the file appears complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    with zipfile.ZipFile(partial, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for entry in sorted(entries, key=lambda item: item.name):
            info = zipfile.ZipInfo(entry.name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | (0o755 if entry.executable else 0o644)) << 16
            archive.writestr(info, entry.data)
    partial.replace(target)


def write_tree(entries: Iterable[Entry], folder: Path) -> None:
    """Write entries as files, replacing what the folder had."""
    shutil.rmtree(folder, ignore_errors=True)
    for entry in entries:
        path = folder / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.data)
        path.chmod(0o755 if entry.executable else 0o644)

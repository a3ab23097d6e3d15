"""Archives of functions, unpacked once for all engines and all deployments.

Engines unpack what they are given for each function instance, or each version: thousands of files at 1 ms each. So
what is uploaded in a large archive's place points to where it is unpacked already.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_MANY_FILES = 300
_KEPT = 32
"""Of each engine's interpreter there are as many as functions have packages."""
_POINTER = "unpacked.txt"
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


class Unpacked:
    """Unpacked archives in a folder, named by what they hold."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, archives: Iterable[Path]) -> None:
        """Unpack those that are not; two at a time."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(self._tree, archives))

    def linked(self, file: Path) -> bytes:
        """Return the archive with a large `python/` folder replaced by a pointer to where it is unpacked.

        There are two pointers: a `.pth` file, which the embedded engine's Python workers read, and a file that
        `sitecustomize` reads, which an interpreter imports that has `python/` on its path.
        """
        tree = self._tree(file)
        if tree is None:
            return file.read_bytes()
        linked = io.BytesIO()
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(linked, "w", zipfile.ZIP_DEFLATED) as out:
            for info in archive.infolist():
                if not info.filename.startswith("python/"):
                    out.writestr(info, archive.read(info))
            packages = str(tree / "python")
            version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
            pointer = f"import sys; sys.path.insert(0, {packages!r})\n"
            out.writestr(f"python/lib/{version}/site-packages/unpacked.pth", pointer)
            out.writestr(f"python/{_POINTER}", packages)
            out.writestr("python/sitecustomize.py", _SITECUSTOMIZE)
        return linked.getvalue()

    def forget_old(self) -> None:
        """Remove all but those used last."""
        trees = sorted(self._folder.glob("*"), key=lambda tree: tree.stat().st_mtime, reverse=True)
        for tree in trees[_KEPT:]:
            shutil.rmtree(tree, ignore_errors=True)

    def _tree(self, file: Path) -> Path | None:
        """Unpack an archive with many packages, unless it was; return where, None for a small one.

        All environments share the result: an archive's name is its content's digest.
        """
        with zipfile.ZipFile(file) as archive:
            if sum(name.startswith("python/") for name in archive.namelist()) < _MANY_FILES:
                return None
        tree = self._folder / file.stem
        if not tree.exists():
            scratch = tree.with_name(f"{tree.name}.{os.getpid()}")
            # A process of its own: threads would wait for each other's turn at every one of the files.
            command = [sys.executable, "-m", "zipfile", "-e", str(file), str(scratch)]
            subprocess.run(command, check=True)
            try:
                scratch.rename(tree)
            except OSError:
                # Another environment was faster.
                shutil.rmtree(scratch)
        tree.touch()
        return tree

"""Copies the programs that show the API's description to the API's folder. Standard library only.

They come from npm, at the versions of the lock, and are compressed here once instead of at every request. Their bytes
depend on the versions alone, so that the same packages make the same archive of the function.
"""

from __future__ import annotations

import gzip
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "functions" / "api" / "static"
SOURCES = (
    "swagger-ui-dist/swagger-ui.css",
    "swagger-ui-dist/swagger-ui-bundle.js",
    "redoc/bundles/redoc.standalone.js",
)
"""Below node_modules."""


def are_there() -> bool:
    """Tell whether every program has been copied."""
    return all(_target(source).exists() for source in SOURCES)


def put() -> None:
    """Compress every program into the folder."""
    for source in SOURCES:
        target = _target(source)
        partial = target.with_suffix(".partial")
        partial.write_bytes(gzip.compress((ROOT / "node_modules" / source).read_bytes(), 9, mtime=0))
        partial.replace(target)


def _target(source: str) -> Path:
    return STATIC / f"{Path(source).name}.gz"

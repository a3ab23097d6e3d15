"""The committed descriptions: docs/openapi.json of the API, docs/openapi-stream.json of the stream URL.

`python -m tests.support.contract` writes them; a contract test says what changed when one is stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {"api": ROOT / "docs/openapi.json", "stream": ROOT / "docs/openapi-stream.json"}


def served(name: str = "api") -> dict[str, Any]:
    """Return the document that an address answers at `/openapi.json`."""
    # Local: the settings of the functions are not needed for it.
    if name == "api":
        from api.app import build

        made: object = build().openapi()
    else:
        from agent_stream.app import ROUTES
        from agent_stream.openapi import document

        made = document(ROUTES)
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


def committed(name: str = "api") -> dict[str, Any]:
    """Return a document in the repository."""
    found: dict[str, Any] = json.loads(DOCUMENTS[name].read_text())
    return found


def changes(before: object, after: object, at: str = "") -> Iterator[str]:
    """Name each difference of two documents: what was added, removed or changed, and where."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            where = f"{at} > {key}" if at else key
            if key not in after:
                yield f"removed: {where}"
            elif key not in before:
                yield f"added: {where}"
            else:
                yield from changes(before[key], after[key], where)
    elif before != after:
        yield f"changed: {at}: {_short(before)} -> {_short(after)}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def main() -> None:
    for name, path in DOCUMENTS.items():
        path.write_text(json.dumps(served(name), indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()

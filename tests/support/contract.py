"""The committed description of the API: docs/openapi.json.

`python -m tests.support.contract` writes it; a contract test says what changed when it is stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "docs/openapi.json"


def served() -> dict[str, Any]:
    """Return the document that `/openapi.json` answers."""
    from api.app import build  # local: the settings of the function are not needed for it

    document: dict[str, Any] = json.loads(json.dumps(build().openapi()))
    return document


def committed() -> dict[str, Any]:
    """Return the document in the repository."""
    document: dict[str, Any] = json.loads(COMMITTED.read_text())
    return document


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
    COMMITTED.write_text(json.dumps(served(), indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()

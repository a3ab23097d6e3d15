"""The log is appended to and read; no code changes or deletes an entry."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LOG = ROOT / "layers/common/python/karma/audit/repository.py"
CHANGES = {"update", "upsert", "delete", "save", "fold"}
"""Names of the calls that change an existing item, in karma.core.dynamo and in PynamoDB."""


def sources() -> Iterator[Path]:
    for folder in (ROOT / "layers/common/python", ROOT / "functions", ROOT / "local"):
        yield from folder.rglob("*.py")


def calls(path: Path) -> set[str]:
    """Return the names of all functions and methods that a module calls."""
    called = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {each.attr if isinstance(each, ast.Attribute) else ast.unparse(each) for each in called}


def test_only_the_log_knows_its_items() -> None:
    assert {path for path in sources() if "AuditItem" in path.read_text()} == {LOG}


def test_the_log_has_no_path_to_change_or_delete() -> None:
    assert "put" in calls(LOG), "the names are looked for where they are"
    assert not calls(LOG) & CHANGES

"""Every code that the code base can answer stands in the table of docs/api.md: derived, so that none is forgotten."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


def _codes_of(tree: ast.AST) -> Iterator[str]:
    """Name the codes that classes have by default, parameters have by default, and calls give by name."""
    for node in ast.walk(tree):
        values: list[ast.expr | None] = []
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                targets = each.targets if isinstance(each, ast.Assign) else []
                if isinstance(each, ast.AnnAssign):
                    targets = [each.target]
                if any(isinstance(target, ast.Name) and target.id == "code" for target in targets):
                    assert isinstance(each, ast.Assign | ast.AnnAssign)
                    values.append(each.value)
        elif isinstance(node, ast.Call):
            values += [each.value for each in node.keywords if each.arg == "code"]
        for value in values:
            for part in ast.walk(value) if value is not None else ():
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and CODE.fullmatch(part.value):
                    yield part.value


def _enumerated(trees: Iterable[ast.AST]) -> Iterator[str]:
    """Name all codes of an enumeration of which a class has one by default: its instances have any of them."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assigned = [(of, each) for of in classes for each in of.body if isinstance(each, ast.Assign)]
    used = {
        part.id
        for _, each in assigned
        if any(isinstance(target, ast.Name) and target.id == "code" for target in each.targets)
        for part in ast.walk(each.value)
        if isinstance(part, ast.Name)
    }
    for of, each in assigned:
        if of.name in used and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str):
            yield each.value.value


def answered() -> dict[str, str]:
    """Return each code with a file that answers it."""
    files = sorted([*(ROOT / "layers/common/python/karma").rglob("*.py"), *(ROOT / "functions").rglob("*.py")])
    trees = {path: ast.parse(path.read_text()) for path in files}
    found = {code: path.name for path, tree in trees.items() for code in _codes_of(tree)}
    return {**found, **dict.fromkeys(_enumerated(trees.values()), "an enumeration")}


@pytest.mark.fault("F-24c")
def test_each_code_stands_in_the_table() -> None:
    page = (ROOT / "docs/api.md").read_text()
    table = page[page.index("| status | codes |") : page.index("**Outside the envelope**")]
    listed = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", table))
    codes = answered()
    assert {"NOT_FOUND", "UPLOAD_INCOMPLETE", "INVALID_PAGE", "ACCOUNT_HOLDS", "MCP_TIMED_OUT"} <= set(codes)
    missing = {code: path for code, path in codes.items() if code not in listed}
    assert not missing, f"docs/api.md, Answers: add {missing}"
    assert not listed - set(codes), f"docs/api.md, Answers: nothing answers {sorted(listed - set(codes))}"

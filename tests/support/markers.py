"""Find which tests name an id in a marker, from the source of the tests: `@pytest.mark.req("R-K-37")`."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEST_FOLDERS = (ROOT / "tests", ROOT / "sdk/device/tests")


def marked_ids(path: Path, marker: str) -> Iterator[tuple[str, str]]:
    """Yield pairs of id and test name from one file's markers of that name, on functions, classes and the module."""
    text = path.read_text()
    if f"pytest.mark.{marker}" not in text:
        return  # parsing all tests takes a second; few have this marker
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                yield from ((found, node.name) for found in _ids(decorator, marker))
        elif isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "pytestmark" for t in node.targets):
            yield from ((found, path.stem) for found in _ids(node.value, marker))


def _ids(expression: ast.expr, marker: str) -> Iterator[str]:
    for node in ast.walk(expression):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"pytest.mark.{marker}":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


@cache
def named_tests(marker: str) -> Mapping[str, list[str]]:
    """Return, for each id that a marker of that name holds, the tests that hold it, as pytest's node ids."""
    found: dict[str, list[str]] = defaultdict(list)
    for folder in TEST_FOLDERS:
        for path in sorted(folder.rglob("test_*.py")):
            for identifier, name in marked_ids(path, marker):
                found[identifier].append(f"{path.relative_to(ROOT).as_posix()}::{name}")
    return found


def cell(text: str) -> str:
    """Return the text as a cell of a Markdown table shows it."""
    return text.replace("|", "\\|")

"""An alarm watches a metric that some function really counts."""

import ast
from pathlib import Path

from infra.stacks.ops import BAD_FACTS

ROOT = Path(__file__).resolve().parents[2]


def counted() -> set[str]:
    names = set()
    for folder in (ROOT / "functions", ROOT / "layers/common/python"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "count" and node.args:
                    # Of a choice between two facts, both.
                    for argument in ast.walk(node.args[0]):
                        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                            names.add(argument.value)
    return names


def test_alarmed_facts_are_counted() -> None:
    assert {str(fact[0]) for fact in BAD_FACTS} <= counted()

"""A public class of karma has a name of its own, so that a name says which class is meant wherever it is read."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

KARMA = Path(__file__).resolve().parents[2] / "layers/common/python/karma"

SHARED = {
    # name -> why several classes may have it
    "Turn": "one call of a model: the parser of its stream, and what a run has shown of it; no module knows both",
}
STRIPES = "integrations/stripe_objects.py"
"""Stripe's own words for its objects, which are written `objects.Price` wherever they are used."""


def classes() -> dict[str, list[str]]:
    """Return the modules that define each public class, without ports: those are named by what they are asked for."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(KARMA.rglob("*.py")):
        module = path.relative_to(KARMA).as_posix()
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef) or node.name.startswith("_") or module == STRIPES:
                continue
            if not any("Protocol" in ast.unparse(base) for base in node.bases):
                found[node.name].append(module)
    return found


def test_no_two_public_classes_share_a_name() -> None:
    found = classes()
    assert len(found) > 500
    assert {name: modules for name, modules in found.items() if len(modules) > 1 and name not in SHARED} == {}


def test_each_exception_is_still_one() -> None:
    assert {name for name in SHARED if len(classes()[name]) < 2} == set()

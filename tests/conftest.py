"""How the tests are dealt out to the processes that run them side by side (pytest-xdist, `make test`)."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
DEPLOYMENT = "deployment"
"""Tests that build layers and stacks: dear fixtures, and one folder `build`. One process takes them all."""
_BUILDERS = (HERE / "infra", HERE / "e2e")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests together, whose fixtures they share; begin with the longest piece of work."""
    groups = {}
    for item in items:
        builds = any(folder in item.path.parents for folder in _BUILDERS)
        groups[item] = DEPLOYMENT if builds else str(item.path)
        item.add_marker(pytest.mark.xdist_group(groups[item]))
    items.sort(key=lambda item: groups[item] != DEPLOYMENT)

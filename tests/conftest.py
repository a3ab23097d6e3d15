"""How the tests are dealt out to the processes that run them side by side (pytest-xdist, `make test`)."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

HERE = Path(__file__).parent
DEPLOYMENT = "deployment"
"""Tests that build layers and stacks: dear fixtures, and one folder `build`. One process takes them all."""
_BUILDERS = ("infra", "e2e")


@pytest.hookimpl(tryfirst=True)  # the order among all others is a random one
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest piece of work."""
    items.sort(key=lambda item: _portion(item.nodeid) != DEPLOYMENT)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Deal out by portions, instead of xdist's groups: those are lost on the way to the scheduler with pytest 9.2."""
    return _ByPortion(config, log)


class _ByPortion(LoadFileScheduling):  # type: ignore[misc]  # xdist is untyped
    """A file's tests stay together, whose fixtures they share."""

    def _split_scope(self, nodeid: str) -> str:
        return _portion(nodeid)


def _portion(nodeid: str) -> str:
    path = nodeid.partition("::")[0]
    return DEPLOYMENT if path.startswith(tuple(f"{HERE.name}/{folder}/" for folder in _BUILDERS)) else path

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support import hops
from tests.support.event_loop import nothing_blocks


@pytest.fixture
def no_blocking_calls() -> Iterator[None]:
    """Fail whatever blocks the event loop."""
    with nothing_blocks():
        yield


@pytest.fixture(autouse=True)
def blocking_calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocking calls at once where the test is not about threads."""
    if not hops.has_threads(request.node):
        monkeypatch.setattr(asyncio, "to_thread", hops.made_at_once)

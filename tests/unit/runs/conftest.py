from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.event_loop import nothing_blocks


@pytest.fixture
def no_blocking_calls() -> Iterator[None]:
    """Fail whatever blocks the event loop."""
    with nothing_blocks():
        yield

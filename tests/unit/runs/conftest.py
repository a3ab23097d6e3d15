from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture
def no_blocking_calls() -> Iterator[None]:
    """Fail whatever blocks the event loop."""
    with blockbuster_ctx():
        yield

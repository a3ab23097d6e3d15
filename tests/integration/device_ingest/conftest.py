"""See tests/support/devices.py."""

from typing import Any

import pytest

from tests.support.devices import World


@pytest.fixture
def world(stack: Any) -> World:
    stack.use("api")
    return World(stack)

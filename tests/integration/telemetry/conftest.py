"""Fixtures over the `World` of tests/support/devices.py."""

import pytest

from tests.support.devices import World
from tests.support.stack import Stack


@pytest.fixture
def world(stack: Stack) -> World:
    stack.use("api")
    return World(stack)

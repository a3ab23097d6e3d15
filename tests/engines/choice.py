"""An engine that tests can be run on, as the command line chose it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from local.engine import Capability, Engine

if TYPE_CHECKING:
    from local.deployment import Platform


class NotHere(Exception):
    """The engine cannot run on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Choice:
    """One engine."""

    name: str
    title: str
    """Name of the engine in messages."""
    capabilities: frozenset[Capability]
    platform: Platform | None
    """Deploys the stacks; none: the embedded engine, or one that runs no functions."""
    started: Callable[[pytest.FixtureRequest], AbstractContextManager[Engine]]
    """Gives an engine to tests that call functions in process."""

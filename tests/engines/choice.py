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
    """An engine that can be chosen."""

    name: str
    title: str
    """Name of the engine in messages."""
    capabilities: frozenset[Capability]
    platform: Platform | None
    """Platform that deploys the stacks; None: the embedded engine, or one that runs no functions."""
    started: Callable[[pytest.FixtureRequest], AbstractContextManager[Engine]]
    """Starts an engine for tests that call functions in process."""

"""Ports of configuration; the second implementation is in tests/fakes/configuration.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from karma.configuration.domain import Change, Component


class StoredComponent(NamedTuple):
    """A stored component, with the number of its changes."""

    component: Component
    version: int


class ComponentReader(Protocol):
    """The reads that runs need. Blocks."""

    def components(self) -> Sequence[StoredComponent]:
        """Read all stored components by name, consistently."""


class Components(ComponentReader, Protocol):
    """A store of components and their histories. All calls block."""

    def last_change(self, name: str) -> Change | None:
        """Read the newest change of a component, consistently; None: it was never configured."""

    def change(self, name: str, version: int) -> Change | None:
        """Read one change; None: there is none."""

    def changes(self, name: str, *, below: int, limit: int) -> Sequence[Change]:
        """Read changes with versions under `below`, newest first."""

    def count(self, *, most: int) -> int:
        """Count the components that `components` lists, up to `most`."""

    def append(self, change: Change) -> None:
        """Write a change and the component's new state: both or neither.

        Raises:
            ComponentChanged: there is a change of this version already.
        """

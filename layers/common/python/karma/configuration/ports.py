"""What configuration needs from outside; its second implementation is in tests/fakes/configuration.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from karma.configuration.domain import Change, Component


class StoredComponent(NamedTuple):
    """A component that somebody wrote, with the number of its changes."""

    component: Component
    version: int


class ComponentReader(Protocol):
    """What runs read. Blocks."""

    def components(self) -> Sequence[StoredComponent]:
        """Read all that was written and not deleted, by name, consistently."""


class ComponentStore(ComponentReader, Protocol):
    """Components and their histories at rest. All calls block."""

    def last_change(self, name: str) -> Change | None:
        """Read the newest change of a component, consistently; None: nobody wrote anything."""

    def change(self, name: str, version: int) -> Change | None:
        """Read one change."""

    def changes(self, name: str, *, below: int, limit: int) -> Sequence[Change]:
        """Read changes with versions under `below`, newest first."""

    def count(self, *, most: int) -> int:
        """Count the components that `components` lists, no further than `most`."""

    def append(self, change: Change) -> None:
        """Write a change and how the component stands after it: both or neither.

        Raises:
            ComponentChanged: there is a change of this version already.
        """

"""Port of the figures' store. Its second implementation is in tests/fakes/metrics.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from karma.core.errors import Conflict
from karma.core.ids import UserId
from karma.core.records import Record
from karma.metrics.domain import Cell, Figures, Series, Stage, Totals
from karma.runs.domain import RunKey


class MarksChanged(Conflict):
    """Another process has counted one of the runs meanwhile."""


class Move(NamedTuple):
    """A run that is counted, and what of it was counted before."""

    key: RunKey
    was: Stage | None
    to: Stage


class Count(Record, kw_only=True):
    """One write: marks of runs, and what these add."""

    moves: Sequence[Move]
    cells: Mapping[Cell, Figures]
    totals: Totals
    """Changes of the totals."""
    owners: Collection[UserId]
    """Accounts that must exist: those of which `cells` have figures."""
    at: datetime


class MetricStore(Protocol):
    """A store of figures. All calls block."""

    def marks(self, keys: Collection[RunKey]) -> Mapping[RunKey, Stage]:
        """Read what of runs was counted, consistently; those of which nothing was are left out."""

    def count(self, count: Count) -> None:
        """Mark runs and add what they add: all or nothing.

        Raises:
            MarksChanged: a mark is not what its move says it was.
            AccountGone: one of the owners is deleted.
        """

    def hours(self, series: Series, start: datetime, end: datetime) -> list[tuple[datetime, Figures]]:
        """Read the hours of [start, end) in which runs ended, in order; eventually consistent."""

    def totals(self) -> Totals:
        """Read what is known of all runs; eventually consistent."""

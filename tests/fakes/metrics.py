"""In-memory stand-in for the store of figures. It passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from karma.core.ids import UserId
from karma.identity.transactional import AccountGone
from karma.metrics.domain import NOTHING, Cell, Figures, Series, Stage, Totals
from karma.metrics.ports import Count, MarksChanged
from karma.runs.domain import RunKey


@dataclass
class MemoryMetrics:
    """Figures in dictionaries."""

    marked: dict[RunKey, Stage] = field(default_factory=dict)
    cells: dict[Cell, Figures] = field(default_factory=dict)
    sums: Totals = field(default_factory=Totals)
    deleted_accounts: set[UserId] = field(default_factory=set)

    def marks(self, keys: Collection[RunKey]) -> Mapping[RunKey, Stage]:
        return {key: self.marked[key] for key in keys if key in self.marked}

    def count(self, count: Count) -> None:
        if any(self.marked.get(move.key) is not move.was for move in count.moves):
            raise MarksChanged("")
        for owner in count.owners:
            if owner in self.deleted_accounts:
                raise AccountGone(owner)
        self.marked |= {move.key: move.to for move in count.moves}
        for cell, figures in count.cells.items():
            self.cells[cell] = self.cells.get(cell, NOTHING) + figures
        active = self.sums.active + count.totals.active
        self.sums = Totals(active=active, ended=self.sums.ended + count.totals.ended)

    def hours(self, series: Series, start: datetime, end: datetime) -> list[tuple[datetime, Figures]]:
        found = [(cell.hour, figures) for cell, figures in self.cells.items() if cell.series == series]
        return sorted((each for each in found if start <= each[0] < end), key=lambda each: each[0])

    def totals(self) -> Totals:
        return self.sums

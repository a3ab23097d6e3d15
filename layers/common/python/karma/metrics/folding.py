"""Counts changes of runs' rows, as the table's stream brings them: often twice, sometimes late or out of order.

What of a run has been counted is marked in the transaction that counts it. A repeat finds the mark; a start that comes
behind its end, too. A run that began before anybody counted, and so has no mark when it ends, was never among the
active ones and is not taken from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from karma.core.clock import Clock
from karma.core.errors import StorageThrottled
from karma.core.streams import StreamRecord
from karma.identity.transactional import AccountGone
from karma.metrics.domain import NOTHING, Cell, Figures, Stage, Totals, cells_of, figures_of, stage_of
from karma.metrics.ports import Count, MarksChanged, MetricStore, Move
from karma.runs.changes import run_in
from karma.runs.domain import ACTIVE, Run, RunKey

ITEMS_AT_ONCE: Final = 90
"""Items of a transaction, of which 100 are the limit, without the total of all runs in an hour and in all."""
_TRIES: Final = 5


class RunChange(NamedTuple):
    """A change of a run's row; None: there was none before, or is none behind it."""

    old: Run | None
    new: Run | None

    @property
    def counted(self) -> Run | None:
        """Return the run if it has begun or ended by the change."""
        if self.new is None:
            return None
        was_active = self.old is not None and self.old.status in ACTIVE
        has_ended = self.new.status not in ACTIVE
        return self.new if self.old is None or (was_active and has_ended) else None


class Folding:
    """Folds changes of runs into figures."""

    def __init__(self, store: MetricStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Count a batch of changes of the table, and return the number of runs; raises as `fold`."""
        return self.fold([RunChange(run_in(each.change.old), run_in(each.change.new)) for each in records])

    def fold(self, changes: Sequence[RunChange]) -> int:
        """Count what was not counted before, and return the number of runs.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer; all may be given again.
        """
        runs: dict[RunKey, Run] = {}
        for change in changes:
            run = change.counted
            if run is not None and (run.key not in runs or stage_of(run) is Stage.ENDED):
                runs[run.key] = run
        return sum(map(self._count, _batches(runs.values())))

    def _count(self, runs: Sequence[Run], *, without_owner: bool = False) -> int:
        for _ in range(_TRIES):
            marks = self._store.marks([run.key for run in runs])
            fresh = [run for run in runs if _advances(marks.get(run.key), stage_of(run))]
            if not fresh:
                return 0
            count = count_of(fresh, marks, at=self._clock.now(), without_owner=without_owner)
            try:
                self._store.count(count)
            except MarksChanged:
                continue
            except AccountGone:
                return self._count_each(fresh)
            return len(fresh)
        raise StorageThrottled("The database is busy; try again")

    def _count_each(self, runs: Sequence[Run]) -> int:
        """Count runs of which some owner is deleted; a deleted account has no figures, but its runs count in others."""
        if len(runs) == 1:
            return self._count(runs, without_owner=True)
        half = len(runs) // 2
        return self._count(runs[:half]) + self._count(runs[half:])


def _batches(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """Split runs into those of one transaction each.

    A run writes a mark, requires its owner, and adds to two cells, and two for each agent that its own one has called.
    """
    batch: list[Run] = []
    items = 0
    for run in runs:
        own = 4 + 2 * len(run.delegated)
        if batch and items + own > ITEMS_AT_ONCE:
            yield batch
            batch, items = [], 0
        batch.append(run)
        items += own
    if batch:
        yield batch


def count_of(runs: Sequence[Run], marks: Mapping[RunKey, Stage], *, at: datetime, without_owner: bool = False) -> Count:
    """Return what counting runs writes, given what of them was counted before."""
    cells: dict[Cell, Figures] = {}
    whole = NOTHING
    moves = [Move(run.key, marks.get(run.key), stage_of(run)) for run in runs]
    for run in runs:
        if stage_of(run) is Stage.BEGAN:
            continue
        whole += figures_of(run)
        for cell, figures in cells_of(run):
            if cell.series.user_id is None or not without_owner:
                cells[cell] = cells.get(cell, NOTHING) + figures
    owners = {cell.series.user_id for cell in cells if cell.series.user_id is not None}
    totals = Totals(active=sum(_active_change(move) for move in moves), ended=whole)
    return Count(moves=moves, cells=cells, totals=totals, owners=owners, at=at)


def _advances(counted: Stage | None, stage: Stage) -> bool:
    return counted is None or (counted is Stage.BEGAN and stage is Stage.ENDED)


def _active_change(move: Move) -> int:
    if move.to is Stage.BEGAN:
        return 1
    return -1 if move.was is Stage.BEGAN else 0

"""Whatever the stream does to its records, the figures are those of the runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.errors import StorageThrottled, StorageUnavailable
from karma.core.ids import AgentId, RunId, UserId
from karma.metrics.domain import ALL_RUNS, NOTHING, Cell, Figures, Stage, Totals, cells_of, figures_of
from karma.metrics.folding import Folding, RunChange
from karma.metrics.ports import Count
from karma.runs.domain import ACTIVE, Run, RunKey, RunStatus
from tests.contexts.metrics import AGENT, begun, counted_run, ended
from tests.fakes.metrics import MemoryMetrics
from tests.fakes.runs import SetClock
from tests.support.rows import NOW

ADA, BOB, GONE = UserId("ada"), UserId("bob"), UserId("gone")


@dataclass
class Unreliable(MemoryMetrics):
    """A store that fails as `faults` says, call by call: before it writes, behind it, or since another was first."""

    faults: list[str] = field(default_factory=list)

    def marks(self, keys: Collection[RunKey]) -> Mapping[RunKey, Stage]:
        self._fail("read")
        return super().marks(keys)

    def count(self, count: Count) -> None:
        fault = self.faults.pop() if self.faults else ""
        if fault == "before":
            raise StorageUnavailable("away")
        if fault == "raced":
            # Another process counts the same meanwhile.
            super().count(count)
        super().count(count)
        if fault == "behind":
            raise StorageUnavailable("the answer is lost")

    def _fail(self, name: str) -> None:
        if self.faults and self.faults[-1] == name:
            self.faults.pop()
            raise StorageUnavailable("away")


@st.composite
def some_runs(draw: st.DrawFn) -> list[Run]:
    number = draw(st.integers(1, 12))
    return [
        counted_run(
            draw(st.sampled_from((ADA, BOB, GONE))),
            draw(st.sampled_from(list(RunStatus))),
            run_id=f"r{n}",
            agent=draw(st.sampled_from((AGENT, AgentId("other"), None))),
            began_at=NOW + timedelta(minutes=draw(st.integers(0, 180))),
            lasted_ms=draw(st.integers(0, 2_000_000)),
            tokens=draw(st.integers(0, 10_000)),
            cost_micros=draw(st.none() | st.integers(0, 10_000)),
        )
        for n in range(number)
    ]


def records_of(runs: Sequence[Run]) -> list[RunChange]:
    return [change for run in runs for change in ([begun(run)] if run.status in ACTIVE else [begun(run), ended(run)])]


def recomputed(runs: Sequence[Run]) -> tuple[dict[Cell, Figures], Totals]:
    cells: dict[Cell, Figures] = {}
    whole = NOTHING
    over = [run for run in runs if run.status not in ACTIVE]
    for run in over:
        whole += figures_of(run)
        for cell, figures in cells_of(run):
            if cell.series.user_id != GONE:
                cells[cell] = cells.get(cell, NOTHING) + figures
    return cells, Totals(active=len(runs) - len(over), ended=whole)


def settle(folding: Folding, batch: Sequence[RunChange]) -> None:
    """Give a batch until it is taken, as the stream does."""
    for _ in range(40):
        try:
            folding.fold(batch)
        except (StorageUnavailable, StorageThrottled):
            continue
        return
    pytest.fail("never taken")


@pytest.mark.req("R-A-28", "R-A-29", "R-C-05")
@given(st.data(), some_runs())
def test_repeats_disorder_and_deaths_change_no_figure(data: st.DataObject, runs: list[Run]) -> None:
    faults = data.draw(st.lists(st.sampled_from(("", "read", "before", "behind", "raced")), max_size=15))
    store = Unreliable(deleted_accounts={GONE}, faults=faults)
    folding = Folding(store, SetClock(NOW))
    records = records_of(runs)
    again = data.draw(st.lists(st.sampled_from(records), max_size=10))
    left = data.draw(st.permutations([*records, *again]))
    while left:
        size = data.draw(st.integers(1, len(left)))
        settle(folding, left[:size])
        left = left[size:]
    cells, totals = recomputed(runs)
    late = {run.key for run in runs if run.status not in ACTIVE}
    assert store.cells == cells
    assert store.sums.ended == totals.ended
    assert store.sums.active == totals.active
    assert {key for key, stage in store.marked.items() if stage is Stage.ENDED} == late


def test_a_run_from_before_counting_began_is_not_taken_from_the_active_ones() -> None:
    store = MemoryMetrics()
    run = counted_run(ADA)
    assert Folding(store, SetClock(NOW)).fold([ended(run)]) == 1
    assert (store.sums.active, store.sums.ended.runs) == (0, 1)


def test_what_neither_begins_nor_ends_a_run_counts_nothing() -> None:
    store, running, run = MemoryMetrics(), counted_run(ADA, RunStatus.RUNNING), counted_run(ADA)
    paused = counted_run(ADA, RunStatus.PAUSED)
    changes = [
        RunChange(None, None),
        RunChange(run, None),
        RunChange(running, paused),
        RunChange(paused, running),
        RunChange(run, run),
    ]
    assert Folding(store, SetClock(NOW)).fold(changes) == 0
    assert store == MemoryMetrics()


def test_a_batch_is_written_by_few_transactions() -> None:
    counts: list[Count] = []

    class Watched(MemoryMetrics):
        def count(self, count: Count) -> None:
            counts.append(count)
            super().count(count)

    runs = [counted_run(UserId(f"u{n}"), agent=AgentId(f"a{n}"), run_id=f"r{n}") for n in range(40)]
    assert Folding(Watched(), SetClock(NOW)).fold([ended(run) for run in runs]) == 40
    assert len(counts) == 2
    # DynamoDB takes a hundred items: a mark, a check and two cells of each, the hour of all runs, and the totals.
    assert all(len(each.moves) + len(each.owners) + len(each.cells) + 1 <= 100 for each in counts)


def test_one_that_is_always_late_gives_up_as_throttled() -> None:
    folding = Folding(Unreliable(faults=["raced"]), SetClock(NOW))
    assert folding.fold([begun(counted_run(ADA))]) == 0

    class Busy(MemoryMetrics):
        def count(self, count: Count) -> None:
            self.marked |= {move.key: Stage.BEGAN for move in count.moves if move.was is None}
            super().count(count)

        def marks(self, keys: Collection[RunKey]) -> Mapping[RunKey, Stage]:
            self.marked.clear()
            return {}

    with pytest.raises(StorageThrottled):
        Folding(Busy(), SetClock(NOW)).fold([begun(counted_run(ADA))])


def test_what_called_agents_used_is_theirs_and_all_of_it_is_the_run_s() -> None:
    used = [
        {"agent_id": "scout", "calls": 2, "turns": 3, "tokens": 30, "cost_micros": 7},
        {"agent_id": "digger", "calls": 1, "turns": 1, "tokens": 20, "cost_micros": 5},
    ]
    usage = {"provider": "p", "model": "m", "totalTokens": 100}
    run = replace(
        counted_run(UserId("u1"), agent=AgentId("lead"), run_id="r1"),
        usages=(usage,),
        cost_micros=40,
        delegated=tuple(used),
    )
    found = {cell.series: (figures.tokens, figures.cost_micros, figures.completed) for cell, figures in cells_of(run)}
    of_agents = {series.agent_id: each for series, each in found.items() if series.user_id and series.agent_id}
    assert of_agents == {"lead": (50, 28, 1), "scout": (30, 7, 0), "digger": (20, 5, 0)}
    assert found[ALL_RUNS] == (100, 40, 1)
    store = MemoryMetrics()
    folding = Folding(store, SetClock(NOW))
    runs = [replace(run, key=run.key._replace(run_id=RunId(f"r{n}"))) for n in range(30)]
    assert folding.fold([ended(each) for each in runs]) == 30
    assert folding.fold([ended(each) for each in runs]) == 0


def test_tokens_are_counted_of_models_whose_answers_broke_off_and_told_no_total() -> None:
    told = ({"model": "a", "inputTokens": 10}, {"model": "b", "inputTokens": 5, "outputTokens": 5, "totalTokens": 10})
    run = replace(counted_run(UserId("u1"), agent=AgentId("lead"), run_id="r1"), usages=told)
    assert {figures.tokens for _, figures in cells_of(run)} == {20}


def test_what_a_called_agent_read_is_taken_from_its_caller() -> None:
    used = {"agent_id": "scout", "calls": 1, "turns": 2, "tokens": 9_000, "cost_micros": 7}
    used |= {"input_tokens": 30, "output_tokens": 4, "cached_input_tokens": 20}
    told = {"model": "m", "inputTokens": 90, "outputTokens": 10, "totalTokens": 100, "cachedInputTokens": 50}
    run = replace(
        counted_run(UserId("u1"), agent=AgentId("lead"), run_id="r1"), usages=(told,), cost_micros=40, delegated=(used,)
    )
    found = {
        cell.series.agent_id: (each.tokens, each.input_tokens, each.cached_tokens)
        for cell, each in cells_of(run)
        if cell.series.user_id
    }
    assert found == {"lead": (66, 60, 30), "scout": (34, 30, 20)}

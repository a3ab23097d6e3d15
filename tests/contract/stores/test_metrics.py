"""Figures of runs: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import pytest

from karma.core.clock import monotonic
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.identity.transactional import AccountGone
from karma.metrics.domain import ALL_RUNS, NOTHING, Series, Stage, cells_of, figures_of, hour_of
from karma.metrics.folding import Folding, count_of
from karma.metrics.ports import MarksChanged, MetricStore
from karma.metrics.repository import MetricRepository
from karma.runs.domain import RunStatus
from tests.contexts.metrics import AGENT, begun, counted_run, ended
from tests.fakes.metrics import MemoryMetrics
from tests.fakes.runs import SetClock
from tests.support.accounts import open_account
from tests.support.rows import NOW
from tests.support.stores import Database, Store

ADA, BOB, GONE = (UserId(new_id()) for _ in range(3))
HOUR = timedelta(hours=1)


@pytest.fixture
def metrics(store: Store) -> MetricStore:
    if store.in_memory:
        return MemoryMetrics(deleted_accounts={GONE})
    return stored(store.database)


def stored(_: Database) -> MetricRepository:
    for user in (ADA, BOB):
        open_account(user)
    return MetricRepository()


def test_sums_and_marks_are_those_of_the_runs(metrics: MetricStore) -> None:
    """Also of a batch that came in pieces, twice, and in disorder; and those of a deleted account's runs."""
    runs = [
        counted_run(user, status, began_at=NOW + HOUR * n, lasted_ms=1_700 * n, tokens=n, run_id=f"r{n}")
        for n, (user, status) in enumerate((user, status) for user in (ADA, BOB, GONE) for status in RunStatus)
    ]
    over = [run for run in runs if run.finished_at is not None]
    changes = [*(begun(run) for run in runs), *(ended(run) for run in over)] * 2
    random.Random(4).shuffle(changes)
    folding = Folding(metrics, SetClock(NOW))
    assert folding.fold(changes[:17]) > 0
    folding.fold(changes)
    assert folding.fold(changes) == 0
    totals = metrics.totals()
    assert totals.active == len(runs) - len(over)
    assert totals.ended == sum((figures_of(run) for run in over), NOTHING)
    for series in {cell.series for run in over for cell, _ in cells_of(run)}:
        counted = [run for run in over if series in {cell.series for cell, _ in cells_of(run)}]
        expected = {hour_of(run.finished_at or NOW): figures_of(run) for run in counted}
        found = metrics.hours(series, NOW, NOW + 24 * HOUR)
        assert found == ([] if series.user_id == GONE else sorted(expected.items()))
    marks = metrics.marks([run.key for run in runs])
    assert marks == {run.key: Stage.ENDED if run in over else Stage.BEGAN for run in runs}


def test_of_two_that_count_the_same_run_one_counts(metrics: MetricStore) -> None:
    run = counted_run(ADA)
    first = count_of([run], {}, at=NOW)
    metrics.count(first)
    for late in (first, count_of([run], {run.key: Stage.BEGAN}, at=NOW)):
        with pytest.raises(MarksChanged):
            metrics.count(late)
    assert metrics.totals().ended.runs == 1


def test_a_deleted_account_gets_no_figures(metrics: MetricStore) -> None:
    with pytest.raises(AccountGone):
        metrics.count(count_of([counted_run(GONE), counted_run(ADA)], {}, at=NOW))
    assert metrics.totals().ended == NOTHING
    assert metrics.hours(Series(ADA, AGENT), NOW - HOUR, NOW + HOUR) == []


def test_hours_are_those_that_begin_within(metrics: MetricStore) -> None:
    runs = [counted_run(ADA, began_at=NOW + HOUR * n, run_id=f"h{n}") for n in range(4)]
    Folding(metrics, SetClock(NOW)).fold([ended(run) for run in runs])
    for series in (ALL_RUNS, Series(agent_id=AGENT), Series(ADA, AGENT)):
        found = metrics.hours(series, NOW + HOUR, NOW + 3 * HOUR)
        assert [hour for hour, _ in found] == [NOW + HOUR, NOW + 2 * HOUR]
    assert metrics.hours(Series(BOB, AGENT), NOW, NOW + 4 * HOUR) == []


def test_an_agent_s_hours_are_not_another_s_whose_id_begins_alike(metrics: MetricStore) -> None:
    Folding(metrics, SetClock(NOW)).fold([ended(replace(counted_run(ADA), agent_id=f"{AGENT}2"))])  # type: ignore[arg-type]
    for series in (Series(agent_id=AGENT), Series(ADA, AGENT)):
        assert metrics.hours(series, NOW - 9 * HOUR, NOW + 9 * HOUR) == []


def test_a_deletion_leaves_nothing_of_the_account(database: Database) -> None:
    metrics = stored(database)
    Folding(metrics, SetClock(NOW)).fold([ended(counted_run(user, run_id=f"r-{user}")) for user in (ADA, BOB)])
    attempt = PurgeAttempt(user_id=ADA, requested_at=NOW, ends_at=monotonic() + 60, settled=True)
    assert metrics.purge_account(attempt)
    assert not [item for item in database.items("agents") if ADA in str(item)]
    assert metrics.hours(Series(BOB, AGENT), NOW, NOW + HOUR)
    assert metrics.totals().ended.runs == 2

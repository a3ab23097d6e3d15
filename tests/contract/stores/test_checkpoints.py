"""Points of runs for their owners: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from datetime import timedelta

import orjson
import pytest

from karma.core.errors import AlreadyExists, Conflict, NotFound
from karma.core.requests import IdempotencyKeyReused
from karma.models.domain import Usage, Usages
from karma.runs.checkpoint_repository import CheckpointRepository
from karma.runs.domain import Checkpoint, CheckpointKind, Progress, RunStatus
from karma.runs.items import run_pk
from karma.runs.points import MAX_LABELS, PointId, RunPoint, label_of
from karma.runs.ports import Checkpoints, Runs
from tests.contract.stores.test_runs import NOW, begin, run, said, segment, stored_runs
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import MemoryRuns
from tests.support.requests import asked
from tests.support.stores import Store

KEY = run().key
LATER = NOW + timedelta(seconds=9)


@pytest.fixture
def stores(store: Store) -> tuple[Runs, Checkpoints]:
    if store.in_memory:
        runs = MemoryRuns()
        return runs, MemoryCheckpoints(runs)
    return stored_runs(store.database), CheckpointRepository()


def checkpoint(n: int, kind: CheckpointKind = CheckpointKind.TURN) -> Checkpoint:
    used = Usages({("anthropic", "m"): Usage(3 * n, n)})
    progress = Progress(turns=n, steps=n - 1, usages=used, spent_micros=7 * n, messages=n)
    return Checkpoint(n=n, epoch=1, position=n - 1, progress=progress, kind=kind, at=NOW + timedelta(seconds=n))


def recorded(runs: Runs, *numbers: int) -> None:
    begin(runs, None, said("hi"))
    for n in range(2, max(numbers, default=1) + 1):
        runs.append(segment(n), checkpoint=checkpoint(n) if n in numbers else None)


def label(n: int, description: str = "Mine", *tags: str) -> RunPoint:
    return RunPoint(
        id=PointId(KEY.run_id, n, label_of(description, tags)),
        kind=CheckpointKind.MANUAL,
        position=n - 1,
        steps=n - 1,
        messages=n,
        total_tokens=4 * n,
        cost_micros=None,
        status=RunStatus.RUNNING,
        at=LATER,
        description=description,
        tags=tags,
    )


def test_a_run_without_checkpoints_has_no_points(stores: tuple[Runs, Checkpoints]) -> None:
    runs, points = stores
    assert points.points(KEY, limit=5) == []
    recorded(runs)
    assert points.points(KEY, limit=5) == []
    assert points.point(KEY, PointId(KEY.run_id, 1)) is None


def test_checkpoints_read_back_as_they_were_written(stores: tuple[Runs, Checkpoints]) -> None:
    runs, points = stores
    recorded(runs, 3)
    (found,) = points.points(KEY, limit=5)
    assert found == RunPoint(
        id=PointId(KEY.run_id, 3),
        kind=CheckpointKind.TURN,
        position=2,
        steps=2,
        messages=3,
        total_tokens=12,
        cost_micros=21,
        status=RunStatus.RUNNING,
        at=NOW + timedelta(seconds=3),
        description="After turn 2 of the model",
    )
    assert points.point(KEY, found.id) == found
    assert runs.last_checkpoint(KEY) == checkpoint(3)


def test_points_are_listed_in_the_order_of_the_run_by_pages(stores: tuple[Runs, Checkpoints]) -> None:
    runs, points = stores
    recorded(runs, 2, 4, 5, 7)
    for n, word in ((1, "start"), (4, "a"), (4, "b"), (4, "c"), (7, "last")):
        points.label(KEY, label(n, word), at=LATER, request=None)
    places = [found.id.place for found in points.points(KEY, limit=50)]
    labels = sorted(label_of(word, ()) for word in "abc")
    assert [place[0] for place in places] == [1, 2, 4, 4, 4, 4, 5, 7, 7]
    assert places[2:6] == [(4, ""), *((4, each) for each in labels)]
    for size in range(1, 6):
        paged: list[tuple[int, str]] = []
        while page := points.points(KEY, limit=size, after=paged[-1] if paged else None):
            assert len(page) <= size
            paged += [found.id.place for found in page]
        assert paged == places


def test_a_label_is_kept_once_and_is_no_checkpoint_to_go_on_from(stores: tuple[Runs, Checkpoints]) -> None:
    runs, points = stores
    recorded(runs, 3)
    mine = label(3, "Before the lamps go out", "lamps", "night")
    points.label(KEY, mine, at=LATER, request=None)
    with pytest.raises(AlreadyExists):
        points.label(KEY, mine, at=LATER, request=None)
    assert points.point(KEY, mine.id) == mine
    assert runs.last_checkpoint(KEY) == checkpoint(3)


def test_a_run_has_a_bounded_number_of_labels(stores: tuple[Runs, Checkpoints]) -> None:
    runs, points = stores
    recorded(runs, 3)
    for n in range(MAX_LABELS):
        points.label(KEY, label(3, f"No. {n}"), at=LATER, request=None)
    with pytest.raises(AlreadyExists):
        points.label(KEY, label(3, "No. 0"), at=LATER, request=None)
    with pytest.raises(Conflict) as refused:
        points.label(KEY, label(3, "One more"), at=LATER, request=asked("k"))
    assert refused.value.code == "TOO_MANY_OBJECTS"
    assert points.labelled_by(KEY, asked("k")) is None
    assert len(points.points(KEY, limit=MAX_LABELS + 5)) == MAX_LABELS + 1


def test_a_request_with_a_key_gives_one_label(stores: tuple[Runs, Checkpoints]) -> None:
    runs, points = stores
    recorded(runs, 3)
    assert points.labelled_by(KEY, asked("k")) is None
    points.label(KEY, label(3), at=LATER, request=asked("k"))
    with pytest.raises(AlreadyExists):
        points.label(KEY, label(3, "Another"), at=LATER, request=asked("k"))
    assert points.labelled_by(KEY, asked("k")) == label(3).id
    assert [found.id.label for found in points.points(KEY, limit=5)] == ["", label(3).id.label]
    with pytest.raises(IdempotencyKeyReused):
        points.labelled_by(KEY, asked("k", "another"))


def test_a_run_that_does_not_exist_gets_no_label(stores: tuple[Runs, Checkpoints]) -> None:
    _, points = stores
    with pytest.raises(NotFound):
        points.label(KEY, label(1), at=LATER, request=asked("k"))
    assert points.labelled_by(KEY, asked("k")) is None


def test_a_checkpoint_takes_less_than_a_write_unit(stores: tuple[Runs, Checkpoints], store: Store) -> None:
    runs, _ = stores
    recorded(runs, 3)
    if not store.in_memory:
        (item,) = [
            each for each in store.database.items("agents") if each["pk"] == {"S": run_pk(KEY)} and "position" in each
        ]
        assert len(orjson.dumps(item)) < 1024


def test_what_older_checkpoints_lack_is_not_known(stores: tuple[Runs, Checkpoints], store: Store) -> None:
    runs, points = stores
    begin(runs, None, said("hi"))
    old = Checkpoint(n=2, epoch=1, position=0, progress=Progress(turns=1, usages=Usages(), spent_micros=4))
    runs.append(segment(2), checkpoint=old)
    (found,) = points.points(KEY, limit=5)
    assert (found.kind, found.at, found.messages, found.description, found.total_tokens) == (None,) * 5
    assert runs.last_checkpoint(KEY) == old

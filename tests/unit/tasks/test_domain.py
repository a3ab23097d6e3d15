"""Statuses, progress and dependencies of tasks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.errors import InvalidTransition
from karma.core.ids import SubtaskId, TaskId, UserId
from karma.tasks.domain import (
    SUBTASK_TRANSITIONS,
    TRANSITIONS,
    AlreadyCompleted,
    DependenciesUnfinished,
    NewSubtask,
    Subtask,
    Task,
    TaskStatus,
    cancelled_with,
    require_open,
    require_ready,
    require_step,
    require_subtask_step,
    wrong_dependencies,
)

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
PENDING, IN_PROGRESS, COMPLETED, FAILED, CANCELLED = TaskStatus
STEPS = {
    (PENDING, IN_PROGRESS),
    (PENDING, CANCELLED),
    (IN_PROGRESS, COMPLETED),
    (IN_PROGRESS, FAILED),
    (IN_PROGRESS, CANCELLED),
}


def task(*, status: TaskStatus = PENDING, done: int = 0, of: int = 0) -> Task:
    return Task(
        id=TaskId("t"),
        user_id=UserId("u"),
        title="Inventory",
        description="",
        priority=5,
        status=status,
        metadata={},
        subtask_count=of,
        completed_count=done,
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


def subtask(name: str = "s", *, status: TaskStatus = PENDING, dependencies: tuple[str, ...] = ()) -> Subtask:
    return Subtask(
        id=SubtaskId(name),
        task_id=TaskId("t"),
        ref=None,
        title=name,
        description="",
        status=status,
        dependencies=tuple(SubtaskId(each) for each in dependencies),
        tools=(),
        metadata={},
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


def refusal_of(one: Subtask, siblings: list[Subtask]) -> DependenciesUnfinished | None:
    try:
        require_ready(one, siblings)
    except DependenciesUnfinished as exc:
        return exc
    return None


def blockers(refusal: DependenciesUnfinished) -> dict[str, TaskStatus]:
    details: Any = refusal.details
    return {each["id"]: each["status"] for each in details["blockers"]}


def new(ref: str | None, *dependencies: str) -> NewSubtask:
    return NewSubtask(title="x", ref=ref, dependencies=dependencies, metadata={})


@pytest.mark.req("R-M-39")
@pytest.mark.parametrize(("current", "wanted"), list(product(TaskStatus, TaskStatus)))
def test_the_table_has_every_step_and_no_other(current: TaskStatus, wanted: TaskStatus) -> None:
    assert TRANSITIONS.keys() == set(TaskStatus)
    if (current, wanted) in STEPS:
        require_step("Task t", current, wanted)
        return
    error = AlreadyCompleted if current is COMPLETED else InvalidTransition
    with pytest.raises(error, match="Task t is"):
        require_step("Task t", current, wanted)


@pytest.mark.fault("F-27a")
@pytest.mark.parametrize(("current", "wanted"), list(product(TaskStatus, TaskStatus)))
def test_a_subtask_may_also_be_tried_again(current: TaskStatus, wanted: TaskStatus) -> None:
    assert SUBTASK_TRANSITIONS.keys() == set(TaskStatus)
    if (current, wanted) in STEPS | {(FAILED, PENDING), (CANCELLED, PENDING)}:
        require_subtask_step("Subtask s", current, wanted)
        return
    error = AlreadyCompleted if current is COMPLETED else InvalidTransition
    with pytest.raises(error, match="to pending" if current in (FAILED, CANCELLED) else "Subtask s is"):
        require_subtask_step("Subtask s", current, wanted)


@pytest.mark.parametrize("status", TaskStatus)
def test_what_is_over_takes_no_changes(status: TaskStatus) -> None:
    assert status.is_over == (status in {COMPLETED, FAILED, CANCELLED})
    if not status.is_over:
        require_open("Task t", status)
        return
    with pytest.raises(AlreadyCompleted if status is COMPLETED else InvalidTransition):
        require_open("Task t", status)


@pytest.mark.req("R-M-04")
def test_a_status_has_at_most_twenty_characters() -> None:
    assert max(len(status) for status in TaskStatus) <= 20


@pytest.mark.parametrize(
    ("one", "progress"),
    [
        (task(), 0),
        (task(of=3), 0),
        (task(of=3, done=1, status=IN_PROGRESS), 33),
        (task(of=3, done=3, status=IN_PROGRESS), 100),
        (task(of=3, done=2, status=FAILED), 66),
        (task(of=3, done=1, status=COMPLETED), 100),
        (task(status=COMPLETED), 100),
    ],
)
def test_progress_is_the_share_of_completed_subtasks(one: Task, progress: int) -> None:
    assert one.progress == progress


class TestDependencies:
    @pytest.mark.parametrize(
        ("subtasks", "fields"),
        [
            ([], []),
            ([new(None), new(None)], []),
            ([new("a"), new("b", "a"), new("c", "a", "b")], []),
            ([new("b", "a"), new("a")], []),
            ([new("a", "x")], ["subtasks.0.dependencies.0"]),
            ([new("a"), new(None, "a", "A")], ["subtasks.1.dependencies.1"]),
            ([new("a"), new("a")], ["subtasks.1.ref"]),
            ([new("a", "a")], ["subtasks.0.dependencies"]),
            ([new("a", "b"), new("b", "a")], ["subtasks.0.dependencies"]),
            ([new("a"), new("b", "a", "d"), new("c", "b"), new("d", "c")], ["subtasks.1.dependencies"]),
        ],
    )
    def test_are_a_graph_without_cycles(self, subtasks: list[NewSubtask], fields: list[str]) -> None:
        assert [field for field, _ in wrong_dependencies(subtasks)] == fields

    def test_name_their_cycle(self) -> None:
        ((_, message),) = wrong_dependencies([new("a", "c"), new("b", "a"), new("c", "b"), new("d", "c")])
        assert message == "form a cycle: a -> c -> b -> a"

    @given(st.data(), st.integers(1, 12))
    def test_on_earlier_ones_in_any_order_are_right_and_a_way_back_is_not(self, data: st.DataObject, n: int) -> None:
        earlier = [data.draw(st.sets(st.integers(0, i - 1))) if i else set() for i in range(n)]
        order = data.draw(st.permutations(range(n)))
        graph = {i: [str(j) for j in earlier[i]] for i in range(n)}

        def body() -> list[NewSubtask]:
            return [new(str(i), *graph[i]) for i in order]

        assert wrong_dependencies(body()) == []
        last = n - 1
        reached = {last}
        while more := {int(j) for i in reached for j in graph[i]} - reached:
            reached |= more
        back = data.draw(st.sampled_from(sorted(reached)))
        graph[back].append(str(last))
        assert len(wrong_dependencies(body())) == 1

    def test_unfinished_keep_a_subtask_from_starting(self) -> None:
        siblings = [subtask("a", status=COMPLETED), subtask("b", status=IN_PROGRESS), subtask("c", status=FAILED)]
        require_ready(subtask("d", dependencies=("a",)), siblings)
        with pytest.raises(DependenciesUnfinished) as failed:
            require_ready(subtask("d", dependencies=("a", "b", "c")), siblings)
        assert failed.value.details == {
            "subtasks": ["b", "c"],
            "blockers": [
                {"id": "b", "ref": None, "status": "in_progress"},
                {"id": "c", "ref": None, "status": "failed"},
            ],
        }

    @pytest.mark.fault("F-27a")
    @given(st.data(), st.lists(st.sampled_from(TaskStatus), min_size=1, max_size=8))
    def test_all_in_the_way_are_named_and_a_retry_of_what_ended_frees_what_waits(
        self, data: st.DataObject, statuses: list[TaskStatus]
    ) -> None:
        needs = [data.draw(st.sets(st.sampled_from(range(i)))) if i else set() for i in range(len(statuses))]
        parts = {
            str(i): subtask(str(i), status=status, dependencies=tuple(map(str, sorted(needs[i]))))
            for i, status in enumerate(statuses)
        }
        last = subtask("last", dependencies=tuple(parts))
        while refusal := refusal_of(last, list(parts.values())):
            named = blockers(refusal)
            ended = [name for name, status in named.items() if status in (FAILED, CANCELLED)]
            assert named == {name: part.status for name, part in parts.items() if part.status is not COMPLETED}
            assert ("set to pending again" in str(refusal)) == bool(ended)
            for name in named:
                status = parts[name].status
                for wanted in ((PENDING,) if name in ended else ()) + (IN_PROGRESS, COMPLETED):
                    if status is not wanted:
                        require_subtask_step(name, status, wanted)
                    status = wanted
                parts[name] = replace(parts[name], status=COMPLETED)

    @pytest.mark.fault("F-27a")
    def test_what_a_dependency_waits_for_is_named_too(self) -> None:
        siblings = [subtask("a", status=CANCELLED), subtask("b", dependencies=("a",))]
        with pytest.raises(DependenciesUnfinished, match="; a failed or cancelled") as failed:
            require_ready(subtask("c", dependencies=("b",)), siblings)
        assert blockers(failed.value) == {"b": PENDING, "a": CANCELLED}


def test_only_unfinished_subtasks_end_with_their_task() -> None:
    ended = cancelled_with([subtask(status, status=status) for status in TaskStatus], at=NOW)
    assert [(str(each.id), each.status, each.version) for each in ended] == [
        ("pending", CANCELLED, 2),
        ("in_progress", CANCELLED, 2),
    ]

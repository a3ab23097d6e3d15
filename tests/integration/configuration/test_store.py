"""One suite for both stores of components: the fake is only trusted because it passes here."""

from datetime import UTC, datetime
from typing import Any

import pytest

from karma.configuration.domain import (
    Change,
    ChangeType,
    Component,
    ComponentChanged,
    ComponentType,
    ModelSettings,
)
from karma.configuration.ports import ComponentStore, StoredComponent
from karma.configuration.repository import ConfigurationRepository
from karma.core.ids import UserId
from tests.fakes.configuration import MemoryComponentStore

TOOL = Component(name="searchDatabase", type=ComponentType.TOOL, enabled=False)
MODEL = Component(
    name="Größer, 更快",
    type=ComponentType.MODEL,
    description="Two\nlines",
    tags=("production", "x#y"),
    model=ModelSettings(model="claude-opus-5-5", temperature=0.1, max_tokens=100),
)


@pytest.fixture(params=["memory", "dynamodb"])
def store(request: pytest.FixtureRequest) -> ComponentStore:
    if request.param == "memory":
        return MemoryComponentStore()
    return ConfigurationRepository(request.getfixturevalue("stack").tables["agents"])


def change(version: int, new: Component | None, old: Component | None = None, name: str = "", **more: Any) -> Change:
    told = {"type": ChangeType.UPDATED, "at": datetime(2026, 11, 21, 12, version, tzinfo=UTC), **more}
    return Change(
        name=name or (new.name if new else old.name if old else ""),
        version=version,
        by=UserId("01890000-0000-7000-8000-000000000001"),
        old=old,
        new=new,
        **told,
    )


def test_a_change_reads_back_whole(store: ComponentStore) -> None:
    first = change(1, MODEL, type=ChangeType.CREATED)
    second = change(2, MODEL, TOOL, type=ChangeType.ROLLED_BACK, rolled_back_to=1)

    store.append(first)
    store.append(second)

    assert store.last_change(MODEL.name) == second
    assert [store.change(MODEL.name, n) for n in (1, 2, 3)] == [first, second, None]
    assert list(store.components()) == [StoredComponent(MODEL, 2)]


def test_what_nobody_wrote_is_nothing(store: ComponentStore) -> None:
    assert store.last_change("x") is None
    assert list(store.components()) == []
    assert list(store.changes("x", below=9, limit=9)) == []
    assert store.count(most=9) == 0


def test_a_version_is_written_once(store: ComponentStore) -> None:
    store.append(change(1, TOOL))

    with pytest.raises(ComponentChanged):
        store.append(change(1, Component(name=TOOL.name, type=ComponentType.TOOL)))

    assert list(store.components()) == [StoredComponent(TOOL, 1)]


def test_a_deleted_component_leaves_its_history(store: ComponentStore) -> None:
    store.append(change(1, TOOL))
    store.append(change(2, None, TOOL, type=ChangeType.DELETED))

    assert list(store.components()) == []
    assert store.count(most=9) == 0
    assert [each.version for each in store.changes(TOOL.name, below=9, limit=9)] == [2, 1]

    store.append(change(3, TOOL))
    assert list(store.components()) == [StoredComponent(TOOL, 3)]


def test_histories_are_apart_and_begin_with_the_newest(store: ComponentStore) -> None:
    for n in range(1, 12):
        store.append(change(n, TOOL))
    store.append(change(1, Component(name=TOOL.name + "2", type=ComponentType.TOOL)))

    def versions(below: int, limit: int) -> list[int]:
        return [each.version for each in store.changes(TOOL.name, below=below, limit=limit)]

    assert versions(12, 3) == [11, 10, 9]
    assert versions(3, 9) == [2, 1]
    assert versions(1, 9) == []
    assert [each.component.name for each in store.components()] == [TOOL.name, TOOL.name + "2"]
    assert (store.count(most=9), store.count(most=1)) == (2, 1)


def test_a_change_and_what_stands_after_it_are_two_items(stack: Any) -> None:
    store = ConfigurationRepository(stack.tables["agents"])
    store.append(change(1, TOOL))
    items = stack.aws("dynamodb").scan(TableName=stack.tables["agents"])["Items"]
    assert sorted((item["pk"]["S"], item["sk"]["S"]) for item in items) == [
        ("CONFIG", "COMPONENT#searchDatabase"),
        ("CONFIG#searchDatabase", "CHANGE#00000001"),
    ]

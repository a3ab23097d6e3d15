"""Components and their changes: one suite for the store in memory and for DynamoDB."""

import pytest

from karma.configuration.domain import (
    ChangeType,
    Component,
    ComponentChanged,
    ComponentType,
    ModelSettings,
)
from karma.configuration.ports import Components, StoredComponent
from karma.configuration.repository import ConfigurationRepository
from tests.contexts.configuration import change
from tests.fakes.configuration import MemoryComponents
from tests.support.stores import Database, Store

TOOL = Component(name="searchDatabase", type=ComponentType.TOOL, enabled=False)
MODEL = Component(
    name="Größer, 更快",
    type=ComponentType.MODEL,
    description="Two\nlines",
    tags=("production", "x#y"),
    model=ModelSettings(model="claude-opus-5-5", temperature=0.1, max_tokens=100),
)


@pytest.fixture
def components(store: Store) -> Components:
    return MemoryComponents() if store.in_memory else ConfigurationRepository()


def test_a_change_reads_back_whole(components: Components) -> None:
    first = change(1, MODEL, type=ChangeType.CREATED)
    second = change(2, MODEL, TOOL, type=ChangeType.ROLLED_BACK, rolled_back_to=1)

    components.append(first)
    components.append(second)

    assert components.last_change(MODEL.name) == second
    assert [components.change(MODEL.name, n) for n in (1, 2, 3)] == [first, second, None]
    assert list(components.components()) == [StoredComponent(MODEL, 2)]


def test_a_component_that_nobody_wrote_is_not_found(components: Components) -> None:
    assert components.last_change("x") is None
    assert list(components.components()) == []
    assert list(components.changes("x", below=9, limit=9)) == []
    assert components.count(most=9) == 0


def test_a_version_is_written_once(components: Components) -> None:
    components.append(change(1, TOOL))

    with pytest.raises(ComponentChanged):
        components.append(change(1, Component(name=TOOL.name, type=ComponentType.TOOL)))

    assert list(components.components()) == [StoredComponent(TOOL, 1)]


def test_a_deleted_component_leaves_its_history(components: Components) -> None:
    components.append(change(1, TOOL))
    components.append(change(2, None, TOOL, type=ChangeType.DELETED))

    assert list(components.components()) == []
    assert components.count(most=9) == 0
    assert [each.version for each in components.changes(TOOL.name, below=9, limit=9)] == [2, 1]

    components.append(change(3, TOOL))
    assert list(components.components()) == [StoredComponent(TOOL, 3)]


def test_histories_are_apart_and_begin_with_the_newest(components: Components) -> None:
    for n in range(1, 12):
        components.append(change(n, TOOL))
    components.append(change(1, Component(name=TOOL.name + "2", type=ComponentType.TOOL)))

    def versions(below: int, limit: int) -> list[int]:
        return [each.version for each in components.changes(TOOL.name, below=below, limit=limit)]

    assert versions(12, 3) == [11, 10, 9]
    assert versions(3, 9) == [2, 1]
    assert versions(1, 9) == []
    assert [each.component.name for each in components.components()] == [TOOL.name, TOOL.name + "2"]
    assert (components.count(most=9), components.count(most=1)) == (2, 1)


def test_a_change_and_what_stands_after_it_are_two_items(database: Database) -> None:
    store = ConfigurationRepository()
    store.append(change(1, TOOL))
    items = database.items("agents")
    assert sorted((item["pk"]["S"], item["sk"]["S"]) for item in items) == [
        ("CONFIG", "COMPONENT#searchDatabase"),
        ("CONFIG#searchDatabase", "CHANGE#00000001"),
    ]

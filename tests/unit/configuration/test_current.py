"""Current configuration for runs, and how old it may be."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from karma.configuration import current
from karma.configuration.current import MAX_AGE_S, CurrentConfiguration, RunChoice
from karma.configuration.domain import (
    Change,
    ChangeType,
    Component,
    ComponentType,
    ComponentUnavailable,
    ModelSettings,
)
from karma.core.ids import UserId
from karma.models.domain import Target
from tests.fakes.configuration import MemoryComponents, built_in

BUILT_IN = built_in(searchDatabase="Search", controlDevice="Control")
AS_BUILT = RunChoice(target=Target(model="claude-test"), disabled_tools=frozenset())


@pytest.fixture
def store() -> MemoryComponents:
    return MemoryComponents()


@pytest.fixture
def configuration(store: MemoryComponents) -> CurrentConfiguration:
    return CurrentConfiguration(store, built_in=BUILT_IN)


def write(store: MemoryComponents, component: Component) -> None:
    last = store.last_change(component.name)
    store.append(
        Change(
            name=component.name,
            version=(last.version if last else 0) + 1,
            type=ChangeType.UPDATED,
            at=datetime(2026, 11, 21, tzinfo=UTC),
            by=UserId("admin"),
            old=None,
            new=component,
        )
    )


def alias(name: str, model: str, *, max_tokens: int | None = None) -> Component:
    return Component(name=name, type=ComponentType.MODEL, model=ModelSettings(model=model, max_tokens=max_tokens))


def disabled(name: str) -> Component:
    return replace(BUILT_IN[name], enabled=False)


def test_a_run_goes_as_code_has_it_while_nobody_configured_anything(configuration: CurrentConfiguration) -> None:
    assert configuration.for_run(agent="karma", model="claude-test") == AS_BUILT


def test_a_disabled_tool_is_taken_from_runs(store: MemoryComponents, configuration: CurrentConfiguration) -> None:
    write(store, disabled("controlDevice"))

    assert configuration.for_run(agent="karma", model="claude-test").disabled_tools == {"controlDevice"}
    assert configuration.disabled_tools() == {"controlDevice"}


@pytest.mark.parametrize(("name", "kind"), [("claude-test", "model"), ("karma", "agent")])
def test_a_disabled_model_or_agent_refuses_runs(
    store: MemoryComponents, configuration: CurrentConfiguration, name: str, kind: str
) -> None:
    write(store, disabled(name))

    with pytest.raises(ComponentUnavailable) as refused:
        configuration.for_run(agent="karma", model="claude-test")

    assert refused.value.message == f"{kind.capitalize()} '{name}' is disabled"
    assert refused.value.details == {"type": kind, "name": name}
    other = configuration.for_run(agent="scout", model="claude-other")
    assert other.target.model == "claude-other"


def test_another_name_for_a_model_is_resolved(store: MemoryComponents, configuration: CurrentConfiguration) -> None:
    write(store, alias("fast", "claude-other", max_tokens=100))

    found = configuration.for_run(agent="karma", model="fast")

    assert (found.target.model, found.target.max_tokens) == ("claude-other", 100)


def test_nobody_runs_on_a_disabled_model_by_another_name(
    store: MemoryComponents, configuration: CurrentConfiguration
) -> None:
    write(store, alias("fast", "claude-other"))
    write(store, disabled("claude-other"))

    with pytest.raises(ComponentUnavailable, match="Model 'claude-other' is disabled"):
        configuration.for_run(agent="karma", model="fast")


@pytest.mark.parametrize("model", ["gone", "searchDatabase"])
def test_a_model_that_is_configured_no_more_refuses_runs(configuration: CurrentConfiguration, model: str) -> None:
    with pytest.raises(ComponentUnavailable, match=f"Model '{model}' is not configured"):
        configuration.for_run(agent="karma", model=model)


def test_a_tool_of_an_agent_s_name_disables_no_agent(
    store: MemoryComponents, configuration: CurrentConfiguration
) -> None:
    write(store, disabled("searchDatabase"))
    assert configuration.for_run(agent="searchDatabase", model="claude-test").target.model == "claude-test"


def test_it_is_read_once_in_its_age_and_when_something_changed_here(
    store: MemoryComponents, configuration: CurrentConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(current, "monotonic", lambda: now)

    for _ in range(3):
        configuration.for_run(agent="karma", model="claude-test")
    assert store.reads == 1

    write(store, disabled("controlDevice"))
    now += MAX_AGE_S - 1
    assert configuration.disabled_tools() == frozenset()
    now += 1
    assert configuration.disabled_tools() == {"controlDevice"}
    assert store.reads == 2

    write(store, BUILT_IN["controlDevice"])
    configuration.forget()
    assert configuration.disabled_tools() == frozenset()

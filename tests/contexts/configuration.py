"""Declarations of configuration for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from karma.configuration.domain import MAX_PRICES, Change, ChangeType, Component, ComponentType
from karma.configuration.repository import ConfigurationRepository
from karma.core.ids import UserId, new_id
from tests.fakes.configuration import MemoryComponents
from tests.integration.permissions.world import Bodies, Objects, World, bearer
from tests.support.contexts import Fakes, Scenarios, made
from tests.support.rows import AccountRows


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


class ConfigurationRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.configuration = ConfigurationRepository()

    @property
    def change(self) -> Change:
        return change(1, Component(name=f"tool-{self.id}", type=ComponentType.TOOL))

    @cached_property
    def changed(self) -> Change:
        self.configuration.append(self.change)
        return self.change


FAKES: Fakes = {MemoryComponents: (ConfigurationRepository,)}

SCENARIOS = Scenarios[ConfigurationRows](
    ConfigurationRows,
    {
        "ConfigurationRepository.components": made(lambda r: r.changed, lambda r, _: r.configuration.components()),
        "ConfigurationRepository.last_change": made(
            lambda r: r.changed, lambda r, c: r.configuration.last_change(c.name)
        ),
        "ConfigurationRepository.change": made(lambda r: r.changed, lambda r, c: r.configuration.change(c.name, 1)),
        "ConfigurationRepository.changes": made(
            lambda r: r.changed, lambda r, c: r.configuration.changes(c.name, below=9, limit=5)
        ),
        "ConfigurationRepository.count": made(lambda r: r.changed, lambda r, _: r.configuration.count(most=5)),
        "ConfigurationRepository.append": made(
            lambda r: r.changed, lambda r, c: r.configuration.append(replace(c, version=2))
        ),
    },
)


_MODEL = {"type": "model", "model": "claude-sonnet-5-5"}


def _component(world: World, _: str, __: Mapping[str, str]) -> str:
    name = f"model-{new_id()}"
    answer = world.api("PUT", f"/api/v1/config/{name}", {"config": _MODEL}, headers=bearer(world.person("admin").token))
    assert answer.status == 200, answer.text
    return name


OBJECTS: Objects = {"component_name": _component}

SHARED = {"component_name"}

BODIES: Bodies = {
    "PUT /api/v1/config/{component_name}": lambda *_: {"config": {"enabled": False}},
    "POST /api/v1/config/{component_name}/rollback": lambda *_: {"version": 1},
    "PUT /api/config/{component_name}": lambda *_: {"config": {"enabled": False}},
    "POST /api/config/{component_name}/rollback": lambda *_: {"version": 1},
}

PAGES = {"config/{component_name}": (MAX_PRICES, 1_000), "llm/models": (250, 10_000)}
"""Of one component: the prices of a model."""

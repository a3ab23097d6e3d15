"""The current configuration for runs and for descriptions of the agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from karma.configuration.domain import Component, ComponentType, ComponentUnavailable
from karma.configuration.ports import ComponentReader
from karma.core.clock import monotonic

MAX_AGE_S: Final = 30.0
"""Seconds after which a change takes effect in other processes at the latest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChoice:
    """The configuration's part of one run: model, limit and disabled tools."""

    model: str
    """The provider's id of the model."""
    max_tokens: int | None
    """Output tokens of one call; None: the engine's own limit."""
    disabled_tools: frozenset[str]


class CurrentConfiguration:
    """Caches all components for `MAX_AGE_S`: one read every half minute, whatever the number of runs."""

    def __init__(self, store: ComponentReader, *, built_in: Mapping[str, Component]) -> None:
        self._store = store
        self._built_in = built_in
        self._kept: tuple[float, Mapping[str, Component]] | None = None

    def forget(self) -> None:
        """Drop the cache after a change in this process."""
        self._kept = None

    def for_run(self, *, agent: str, model: str) -> RunChoice:
        """Return the choices for a new run; agent and model are named as in the agent's configuration.

        Raises:
            ComponentUnavailable: the agent or its model is disabled, or the model is not configured any more.
        """
        components = self._components()
        found = components.get(agent)
        if found is not None and found.type is ComponentType.AGENT and not found.enabled:
            raise ComponentUnavailable(ComponentType.AGENT, agent, "is disabled")
        chosen = components.get(model)
        if chosen is None or chosen.model is None:
            raise ComponentUnavailable(ComponentType.MODEL, model, "is not configured any more")
        # The model that a component names may be a component as well, which must not be disabled either.
        called = components.get(chosen.model.model, chosen)
        for each in (chosen, called):
            if not each.enabled:
                raise ComponentUnavailable(ComponentType.MODEL, each.name, "is disabled")
        return RunChoice(
            model=chosen.model.model, max_tokens=chosen.model.max_tokens, disabled_tools=_disabled_tools(components)
        )

    def disabled_tools(self) -> frozenset[str]:
        """Return the names of the tools that new runs must not use."""
        return _disabled_tools(self._components())

    def _components(self) -> Mapping[str, Component]:
        now = monotonic()
        kept = self._kept
        if kept is None or now - kept[0] >= MAX_AGE_S:
            stored = {component.name: component for component, _ in self._store.components()}
            kept = self._kept = now, {**self._built_in, **stored}
        return kept[1]


def _disabled_tools(components: Mapping[str, Component]) -> frozenset[str]:
    return frozenset(each.name for each in components.values() if each.type is ComponentType.TOOL and not each.enabled)

"""What is configured now, for those who act on it: runs, and what tells people about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from karma.configuration.domain import Component, ComponentType, ComponentUnavailable
from karma.configuration.ports import ComponentReader
from karma.core.clock import monotonic

MAX_AGE_S: Final = 30.0
"""A change acts within this time in other processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChoice:
    """What the configuration says of one run."""

    model: str
    """The provider's id."""
    max_tokens: int | None
    """Output tokens a call; None: the engine's own limit."""
    disabled_tools: frozenset[str]


class CurrentConfiguration:
    """Keeps all components for `MAX_AGE_S`: one call every half minute, whatever the number of runs."""

    def __init__(self, store: ComponentReader, *, built_in: Mapping[str, Component]) -> None:
        self._store = store
        self._built_in = built_in
        self._kept: tuple[float, Mapping[str, Component]] | None = None

    def forget(self) -> None:
        """Drop what is kept: something was changed here."""
        self._kept = None

    def for_run(self, *, agent: str, model: str) -> RunChoice:
        """Tell what a new run of an agent uses; both are named as the agent's configuration names them.

        Raises:
            ComponentUnavailable: the agent or its model is disabled, or the model is configured no more.
        """
        components = self._components()
        found = components.get(agent)
        if found is not None and found.type is ComponentType.AGENT and not found.enabled:
            raise ComponentUnavailable(ComponentType.AGENT, agent, "is disabled")
        chosen = components.get(model)
        if chosen is None or chosen.model is None:
            raise ComponentUnavailable(ComponentType.MODEL, model, "is not configured any more")
        # What a component stands for may be a component as well: nobody runs on a model that is disabled.
        called = components.get(chosen.model.model, chosen)
        for each in (chosen, called):
            if not each.enabled:
                raise ComponentUnavailable(ComponentType.MODEL, each.name, "is disabled")
        return RunChoice(
            model=chosen.model.model, max_tokens=chosen.model.max_tokens, disabled_tools=_disabled_tools(components)
        )

    def disabled_tools(self) -> frozenset[str]:
        """Name the tools that new runs do without."""
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

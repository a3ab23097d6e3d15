"""The current configuration for runs and for descriptions of the agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from karma.configuration.domain import (
    MAX_FALLBACKS,
    Component,
    ComponentType,
    ComponentUnavailable,
    target_of,
)
from karma.configuration.ports import ComponentReader
from karma.core.clock import monotonic
from karma.core.records import Record
from karma.models.domain import ANTHROPIC, Target

MAX_AGE_S: Final = 30.0
"""Seconds after which a change takes effect in other processes at the latest."""


class RunChoice(Record, kw_only=True):
    """The configuration's part of one run: model, limit and disabled tools."""

    target: Target
    """The model to ask."""
    disabled_tools: frozenset[str]
    fallbacks: tuple[Target, ...] = ()
    """Models that answer in its place, in this order, where it cannot."""
    summaries: Target | None = None
    """Model that summarises a conversation which becomes too long; None: the same."""


class CurrentConfiguration:
    """Caches all components for `MAX_AGE_S`: one read every half minute, whatever the number of runs."""

    def __init__(self, store: ComponentReader, *, built_in: Mapping[str, Component]) -> None:
        self._store = store
        self._built_in = built_in
        self._kept: tuple[float, Mapping[str, Component]] | None = None

    def forget(self) -> None:
        """Drop the cache after a change in this process."""
        self._kept = None

    def for_run(self, *, agent: str, model: str, summaries: str = "") -> RunChoice:
        """Return the choices for a new run; agent and models are named as in the agent's configuration.

        Where the model `summaries` is disabled or not configured any more, the run's own model summarises.

        Raises:
            ComponentUnavailable: the agent or its model is disabled, or the model is not configured.
        """
        components = self._components()
        found = components.get(agent)
        if found is not None and found.type is ComponentType.AGENT and not found.enabled:
            raise ComponentUnavailable(ComponentType.AGENT, agent, "is disabled")
        chosen = components.get(model)
        if chosen is None or chosen.model is None:
            raise ComponentUnavailable(ComponentType.MODEL, model, "is not configured")
        disabled = next(_disabled(chosen, components), None)
        if disabled is not None:
            raise ComponentUnavailable(ComponentType.MODEL, disabled.name, "is disabled")
        return RunChoice(
            target=target_of(chosen.model),
            fallbacks=tuple(_fallbacks(chosen, components)),
            summaries=_usable(components.get(summaries), components),
            disabled_tools=_disabled_tools(components),
        )

    def for_refusal(self) -> RunChoice:
        """Return the choices for a run that asks no model, where `for_run` has none for its agent."""
        components = self._components()
        built_in = next(each.model for each in self._built_in.values() if each.model is not None)
        return RunChoice(target=target_of(built_in), disabled_tools=_disabled_tools(components))

    def models(self) -> list[Component]:
        """Return the models that new runs may use, by name."""
        components = self._components()
        models = (each for each in components.values() if each.model is not None)
        return sorted((each for each in models if not any(_disabled(each, components))), key=lambda each: each.name)

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


def _disabled(chosen: Component, components: Mapping[str, Component]) -> Iterator[Component]:
    """Yield a model's component if it is disabled, and that of the model which it names, which may have its own."""
    if not chosen.enabled:
        yield chosen
    called = components.get(chosen.model.model) if chosen.model and chosen.model.provider == ANTHROPIC else None
    if called is not None and not called.enabled:
        yield called


def _fallbacks(chosen: Component, components: Mapping[str, Component]) -> Iterator[Target]:
    """Yield the models that answer in a model's place.

    One that was deleted or disabled since it was named ends the row, as does a circle, which two changes at the same
    moment can make.
    """
    seen = {chosen.name}
    at: Component | None = chosen
    while at is not None and at.model is not None and at.model.fallback and len(seen) <= MAX_FALLBACKS:
        at = components.get(at.model.fallback)
        if at is None or at.model is None or at.name in seen or any(_disabled(at, components)):
            return
        seen.add(at.name)
        yield target_of(at.model)


def _usable(found: Component | None, components: Mapping[str, Component]) -> Target | None:
    if found is None or found.model is None or any(_disabled(found, components)):
        return None
    return target_of(found.model)


def _disabled_tools(components: Mapping[str, Component]) -> frozenset[str]:
    return frozenset(each.name for each in components.values() if each.type is ComponentType.TOOL and not each.enabled)

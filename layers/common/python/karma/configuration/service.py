"""Use cases of configuration: list, show, change, delete, show the history, and roll back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from karma.configuration.domain import (
    MAX_FALLBACKS,
    MAX_NAME_CHARS,
    MAX_STORED,
    Change,
    ChangeType,
    Component,
    ComponentChanged,
    ComponentType,
    InvalidConfiguration,
    Standing,
    change_type,
    component_config,
    is_name,
    is_reachable,
    missing,
    standing,
)
from karma.configuration.ports import Components
from karma.configuration.validation import validated
from karma.core.clock import Clock
from karma.core.errors import NotFound, PreconditionFailed, StaleVersion, StorageThrottled
from karma.core.ids import UserId
from karma.core.lines import is_line
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat

_MET: Final = (ComponentChanged, StorageThrottled)


class Listed(Record, kw_only=True):
    """A component in the list."""

    component: Component
    version: int
    is_built_in: bool


class HistoryPage(Record, kw_only=True):
    """Changes of a component, newest first."""

    changes: Sequence[Change]
    total: int
    next_below: int | None
    """Versions of the next page are below this one; None at the end."""


class ConfigurationService:
    """Changes of components by admins, and reads of components by everybody."""

    def __init__(
        self,
        store: Components,
        clock: Clock,
        *,
        built_in: Mapping[str, Component],
        models: Collection[str],
        has_agent: Callable[[str], bool],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the service.

        Args:
            store: the stored components.
            clock: source of the times of changes.
            built_in: components that are part of the code, by name.
            models: ids of models that the engine can run.
            has_agent: tells whether the catalogue has an agent of exactly this name.
            on_change: called after every write.
        """
        self._store = store
        self._clock = clock
        self._built_in = built_in
        self._models = models
        self._tools = [each.name for each in built_in.values() if each.type is ComponentType.TOOL]
        self._has_agent = has_agent
        self._on_change = on_change

    # Reading

    def components(self, kind: ComponentType | None = None) -> list[Listed]:
        """List all components, or those of a type: by type and name."""
        written = self._store.components()
        stored = {component.name: version for component, version in written}
        brought = [component for name, component in self._built_in.items() if name not in stored]
        found = [
            Listed(component=each, version=stored.get(each.name, 0), is_built_in=each.name in self._built_in)
            for each in [*(component for component, _ in written), *brought]
            if kind in {None, each.type}
        ]
        return sorted(found, key=lambda each: (each.component.type, each.component.name))

    def model_names(self) -> list[str]:
        """Return the names of configured models that are not built in."""
        return [
            component.name
            for component, _ in self._store.components()
            if component.type is ComponentType.MODEL and component.name not in self._built_in
        ]

    def get(self, name: str) -> Standing:
        """Show one component.

        Raises:
            NotFound: there is no component of this name.
        """
        found = self._stands(name)
        if found.component is None:
            raise missing(name)
        return found

    def history(self, name: str, *, limit: int, below: int | None = None, offset: int = 0) -> HistoryPage:
        """Show a page of a component's changes, after the `offset` newest or below a version.

        Raises:
            NotFound: there is no such component, and never was.
        """
        found = self._stands(name)
        if found.component is None and not found.version:
            raise missing(name)
        top = found.version + 1 - offset if below is None else below
        changes = self._store.changes(name, below=top, limit=limit) if top > 1 else []
        oldest = changes[-1].version if changes else 1
        return HistoryPage(changes=changes, total=found.version, next_below=oldest if oldest > 1 else None)

    # Writing

    def put(
        self,
        name: str,
        config: Mapping[str, Any],
        *,
        by: UserId,
        version: int | None = None,
        exists: bool | None = None,
        validate_only: bool = False,
    ) -> Standing:
        """Change a component, or add one; fields that `config` leaves out stay. An equal configuration changes nothing.

        With `validate_only` nothing is written; the component as it would be is returned under the current version.
        `exists`: True to change one only, False to add one only.

        Raises:
            InvalidConfiguration: the configuration breaks the rules of its type, or `MAX_STORED` components are stored.
            PreconditionFailed: there is one, or none, other than `exists` says.
            StaleVersion: `version` is not the stored one.
        """
        if not (is_name(name) and is_line(name)):
            raise InvalidConfiguration([("name", f"must be 1 to {MAX_NAME_CHARS} printable characters without '/'")])

        def once() -> Standing:
            old = self._unchanged(name, version, exists=exists)
            new = validated(name, config, base=old.component, models=self._models, tools=self._tools)
            self._check(old, new)
            if validate_only:
                return replace(old, component=new)
            if new == old.component:
                return old
            return self._write(name, old, new, change_type(old.component, new), by=by)

        return repeat(once, on=_MET)

    def delete(self, name: str, *, by: UserId, version: int | None = None) -> None:
        """Delete a component's configuration; its history stays, and a built-in component is as in the code again.

        Raises:
            NotFound: there is no such component.
            StaleVersion: `version` is not the stored one.
        """

        def once() -> None:
            old = self._unchanged(name, version)
            if old.component is None:
                raise missing(name)
            if old.is_stored:
                self._write(name, old, None, ChangeType.DELETED, by=by)

        repeat(once, on=_MET)

    def rollback(
        self, name: str, *, to: int, by: UserId, version: int | None = None, exists: bool | None = None
    ) -> Standing:
        """Restore a component's state after change `to`; if it is the current one, nothing changes.

        `exists` is as in `put`: what was deleted comes back by this, too.

        Raises:
            NotFound: there is no such component, or no such change of it.
            InvalidConfiguration: the change was a deletion, or its result breaks today's rules.
            PreconditionFailed: there is one, or none, other than `exists` says.
            StaleVersion: `version` is not the stored one.
        """

        def once() -> Standing:
            old = self._unchanged(name, version, exists=exists)
            earlier = self._store.change(name, to) if is_name(name) and to <= old.version else None
            if earlier is None:
                raise NotFound(f"Configuration '{name[:MAX_NAME_CHARS]}' has no version {to}")
            if earlier.new is None:
                raise InvalidConfiguration([("version", f"{to} is a deletion")])
            new = validated(
                name, component_config(earlier.new), base=old.component, models=self._models, tools=self._tools
            )
            self._check(old, new)
            if new == old.component:
                return old
            return self._write(name, old, new, ChangeType.ROLLED_BACK, by=by, rolled_back_to=to)

        return repeat(once, on=_MET)

    def _stands(self, name: str) -> Standing:
        return standing(name, self._store.last_change(name) if is_name(name) else None, self._built_in)

    def _unchanged(self, name: str, version: int | None, *, exists: bool | None = None) -> Standing:
        """Read a component before a change; `version`, if given, must be the current one, and `exists` the case."""
        found = self._stands(name)
        if exists is not None and exists is (found.component is None):
            raise PreconditionFailed(f"There is {'no' if exists else 'a'} configuration '{name[:MAX_NAME_CHARS]}'")
        if version is not None and version != found.version:
            raise StaleVersion(f"Configuration '{name[:MAX_NAME_CHARS]}' has version {found.version}")
        return found

    def _check(self, old: Standing, new: Component) -> None:
        if new.model is not None and new.model.fallback:
            self._check_fallback(new, new.model.fallback)
        if old.component is not None:
            return
        if not is_reachable(new.name):
            raise InvalidConfiguration([("name", "must not be . or .., nor have % or ?: not every path could hold it")])
        if new.type is ComponentType.AGENT and not self._has_agent(new.name):
            raise InvalidConfiguration([("name", "no agent has it")])
        if self._store.count(most=MAX_STORED) >= MAX_STORED:
            raise InvalidConfiguration([("name", f"there are {MAX_STORED} components already")])

    def _check_fallback(self, new: Component, fallback: str) -> None:
        """Refuse a fall-back that is no model, or from which a row of fall-backs comes back or goes on for too long."""
        stored = {component.name: component for component, _ in self._store.components()}
        components = {**self._built_in, **stored, new.name: new}
        row = [new.name]
        following: str | None = fallback
        while following:
            found = components.get(following)
            if found is None or found.model is None:
                raise InvalidConfiguration([("fallback", f"'{following}' is no configured model")])
            if following in row:
                raise InvalidConfiguration([("fallback", f"comes back to '{following}'")])
            row.append(following)
            if len(row) > MAX_FALLBACKS + 1:
                raise InvalidConfiguration([("fallback", f"leads to more than {MAX_FALLBACKS} models")])
            following = found.model.fallback

    def _write(
        self,
        name: str,
        old: Standing,
        new: Component | None,
        kind: ChangeType,
        *,
        by: UserId,
        rolled_back_to: int | None = None,
    ) -> Standing:
        change = Change(
            name=name,
            version=old.version + 1,
            type=kind,
            at=self._clock.now(),
            by=by,
            old=old.component,
            new=new,
            rolled_back_to=rolled_back_to,
        )
        self._store.append(change)
        self._on_change()
        count("ConfigurationChanged")
        logger.info("configuration.changed", component=name, version=change.version, change_type=kind.value)
        return standing(name, change, self._built_in)

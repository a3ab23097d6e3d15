"""Configuration in the table `agents`; access patterns are in docs/adr/0020-configuration.md.

| item | pk | sk |
|---|---|---|
| component, current state | CONFIG | COMPONENT#<name> |
| change of a component | CONFIG#<name> | CHANGE#<version:08d> |

A change is put on condition that none has its number, which is the lock; the component's state is written with it.
Changes are never updated or deleted and do not expire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.configuration.domain import (
    Change,
    ChangeType,
    Component,
    ComponentChanged,
    ComponentType,
    ModelSettings,
    component_config,
)
from karma.configuration.ports import StoredComponent
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import count, get, query
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.models.domain import dump_prices, load_prices

COMPONENTS_PK: Final = "CONFIG"
_COMPONENT: Final = "COMPONENT#"
_CHANGE: Final = "CHANGE#"
_PAGE: Final = 1000


def component_key(name: str) -> Key:
    """Return the key of a component's current state."""
    return Key(COMPONENTS_PK, f"{_COMPONENT}{name}")


def history_pk(name: str) -> str:
    """Return the partition of a component's changes."""
    return f"{COMPONENTS_PK}#{name}"


def change_key(name: str, version: int) -> Key:
    """Return the key of a change, which sorts by number."""
    return Key(history_pk(name), f"{_CHANGE}{version:08d}")


class ConfigurationTable(Item):
    """Base of the configuration's items in the table `agents`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "agents"


class ComponentItem(ConfigurationTable, discriminator="component"):
    """The current state of a component."""

    config = JSONAttribute()
    changes = NumberAttribute()


class ChangeItem(ConfigurationTable, discriminator="component_change"):
    """A change of a component; `created_at` is the time of the change."""

    name = UnicodeAttribute()
    number = NumberAttribute()
    change_type = UnicodeAttribute()
    changed_by = UnicodeAttribute()
    old_config = JSONAttribute(null=True)
    new_config = JSONAttribute(null=True)
    rolled_back_to = NumberAttribute(null=True)


class ConfigurationRepository:
    """Components over DynamoDB."""

    def components(self) -> Sequence[StoredComponent]:
        """See ComponentReader; one Query a megabyte."""
        found: list[StoredComponent] = []
        start: dict[str, str] | None = None
        while True:
            page = query(
                ConfigurationTable,
                COMPONENTS_PK,
                ConfigurationTable.sk.startswith(_COMPONENT),
                limit=_PAGE,
                start=start,
                consistent=True,
            )
            found += [
                StoredComponent(_component(item.config), int(item.changes))
                for item in page.items
                if isinstance(item, ComponentItem)
            ]
            start = page.last
            if start is None:
                return found

    def last_change(self, name: str) -> Change | None:
        """See Components; one Query."""
        page = query(ConfigurationTable, history_pk(name), limit=1, forward=False, consistent=True)
        return next((_change(item) for item in page.items if isinstance(item, ChangeItem)), None)

    def change(self, name: str, version: int) -> Change | None:
        """See Components; one Get."""
        item = get(ChangeItem, change_key(name, version), consistent=True)
        return _change(item) if item else None

    def changes(self, name: str, *, below: int, limit: int) -> Sequence[Change]:
        """See Components; one Query."""
        bound = ConfigurationTable.sk < change_key(name, below).sk
        page = query(ConfigurationTable, history_pk(name), bound, limit=limit, forward=False, consistent=True)
        return [_change(item) for item in page.items if isinstance(item, ChangeItem)]

    def count(self, *, most: int) -> int:
        """See Components; one Query."""
        return count(ConfigurationTable, COMPONENTS_PK, ConfigurationTable.sk.startswith(_COMPONENT), most=most)

    def append(self, change: Change) -> None:
        """See Components; one transaction of 2 items."""
        changed = ComponentChanged(f"Configuration '{change.name}' was changed by another request; read it again")
        at = iso(change.at)
        tx = Transaction()
        tx.put(
            ChangeItem(
                *change_key(change.name, change.version),
                name=change.name,
                number=change.version,
                change_type=change.type.value,
                changed_by=change.by,
                old_config=_config(change.old) if change.old else None,
                new_config=_config(change.new) if change.new else None,
                rolled_back_to=change.rolled_back_to,
                created_at=at,
            ),
            on_fail=changed,
        )
        row = ComponentItem(*component_key(change.name))
        older = ComponentItem.pk.does_not_exist() | (ComponentItem.changes < change.version)
        if change.new is None:
            tx.delete(row, older, on_fail=changed)
        else:
            actions = [
                ComponentItem.config.set(_config(change.new)),
                ComponentItem.changes.set(change.version),
                ComponentItem.updated_at.set(at),
            ]
            tx.upsert(row, actions, older, on_fail=changed)
        tx.commit()


def _config(component: Component) -> dict[str, Any]:
    config = component_config(component)
    if component.model is not None and component.model.prices:
        config["prices"] = dump_prices(component.model.prices)
    return config


def _component(config: Mapping[str, Any]) -> Component:
    kind = ComponentType(config["type"])
    model = None
    if kind is ComponentType.MODEL:
        model = ModelSettings(
            model=config["model"],
            provider=config["provider"],
            temperature=float(config["temperature"]),
            max_tokens=config["max_tokens"],
            # Left out where they have their defaults, and by releases that did not know them.
            base_url=config.get("base_url", ""),
            secret=config.get("secret", ""),
            images=config.get("images", True),
            context_window=config.get("context_window"),
            prices=load_prices(config.get("prices", ())),
            fallback=config.get("fallback"),
        )
    return Component(
        name=config["name"],
        type=kind,
        description=config["description"],
        enabled=config["enabled"],
        tags=tuple(config["tags"]),
        model=model,
    )


def _change(item: ChangeItem) -> Change:
    return Change(
        name=item.name,
        version=int(item.number),
        type=ChangeType(item.change_type),
        at=parse_iso(item.created_at or ""),
        by=UserId(item.changed_by),
        old=_component(item.old_config) if item.old_config else None,
        new=_component(item.new_config) if item.new_config else None,
        rolled_back_to=int(item.rolled_back_to) if item.rolled_back_to else None,
    )

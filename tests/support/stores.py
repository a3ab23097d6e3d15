"""Stores on which repositories are tested, and the record of the calls that a suite has made.

memory           the fakes of tests/fakes, where a unit test uses one
ministack        the embedded engine of every other test
dynamodb_local   AWS's own engine (benchmarks/dynamodb_local.py); skipped by name where Java 17 is missing
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from enum import StrEnum
from types import ModuleType
from typing import Any

import pytest

import karma
from karma.core.dynamo.items import Item


class Engine(StrEnum):
    """Engine on which a suite runs."""

    MEMORY = "memory"
    MINISTACK = "ministack"
    DYNAMODB_LOCAL = "dynamodb_local"


@dataclass
class Database:
    """One account's tables on an engine, with a client that is not the repositories' own."""

    engine: Engine
    tables: Mapping[str, str]
    client: Any

    def aws(self, service: str) -> Any:
        """Return the client, as the integration tests' stack does."""
        assert service == "dynamodb"
        return self.client

    def items(self, table: str) -> list[dict[str, Any]]:
        """Read everything that a table holds."""
        pages = self.client.get_paginator("scan").paginate(TableName=self.tables[table], ConsistentRead=True)
        return [item for page in pages for item in page["Items"]]

    def get(self, table: str, pk: str, sk: str) -> dict[str, Any]:
        """Read one item as it is stored; {}: there is none."""
        key = {"pk": {"S": pk}, "sk": {"S": sk}}
        found = self.client.get_item(TableName=self.tables[table], Key=key, ConsistentRead=True)
        return dict(found.get("Item", {}))


@dataclass
class Store:
    """Store of a suite that has a fake: memory, or a database."""

    engine: Engine
    over: Database | None = None

    @property
    def in_memory(self) -> bool:
        """Tell whether the fake is meant."""
        return self.over is None

    @property
    def database(self) -> Database:
        """Return the database of a suite that is not in memory."""
        assert self.over is not None
        return self.over


def repositories() -> dict[str, type]:
    """Return every repository class by its name: the public classes of `repository` modules with methods of their own.

    Items, errors and plain values of those modules are no repositories.
    """
    found: dict[str, type] = {}
    for module in _modules(karma):
        if ".repository" not in module.__name__:
            continue
        for name, kind in inspect.getmembers(module, inspect.isclass):
            plain = issubclass(kind, Item | Exception | tuple) or is_dataclass(kind)
            if kind.__module__ == module.__name__ and not name.startswith("_") and not plain and methods(kind):
                found[name] = kind
    return found


def functions() -> dict[str, tuple[ModuleType, Callable[..., Any]]]:
    """Find the public functions of karma.core.dynamo that make requests, and those that fill transactions."""
    names = {
        "karma.core.dynamo.access": None,
        "karma.core.dynamo.counters": ("fold",),
        "karma.core.dynamo.newest": None,
        "karma.core.dynamo.partitions": None,
        "karma.core.dynamo.work": None,
        "karma.audit.repository": None,
        "karma.identity.accounts.repository.conditions": None,
        "karma.identity.accounts.repository.names": ("enter", "rename"),
        "karma.devices.transactional": None,
        "karma.mail.transactional": None,
    }
    found: dict[str, tuple[ModuleType, Callable[..., Any]]] = {}
    for path, chosen in names.items():
        module = importlib.import_module(path)
        for name, value in inspect.getmembers(module, inspect.isfunction):
            if value.__module__ == path and not name.startswith("_") and (chosen is None or name in chosen):
                found[f"{path.removeprefix('karma.')}.{name}"] = (module, value)
    return found


def methods(kind: type) -> dict[str, Callable[..., Any]]:
    """Return the public methods that a class itself defines."""
    return {name: value for name, value in vars(kind).items() if inspect.isfunction(value) and not name.startswith("_")}


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if "repository" in found.name:
            yield importlib.import_module(found.name)


@dataclass
class Calls:
    """Record of the methods that were called on each store. `engine` is set while a test of the suite runs."""

    engine: Engine | None = None
    met: dict[Engine, set[str]] = field(default_factory=lambda: defaultdict(set))

    def watch(self, patch: pytest.MonkeyPatch, kind: type, names: Mapping[str, str]) -> None:
        """Record calls of a class's methods; `names` maps a method to what its call counts as."""
        for method, label in names.items():
            patch.setattr(kind, method, self._noting(getattr(kind, method), label))

    def watch_functions(self, patch: pytest.MonkeyPatch) -> None:
        """Record calls of functions, in each module that has imported them by name."""
        for label, (_, function) in functions().items():
            noting = self._noting(function, label)
            for module in list(sys.modules.values()):
                for name, value in list(getattr(module, "__dict__", {}).items()):
                    if value is function:
                        patch.setattr(module, name, noting)

    def _noting(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.engine is not None:
                self.met[self.engine].add(label)
            return function(*args, **kwargs)

        return call

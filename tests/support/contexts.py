"""Declarations of each context for the tests of all rings, in the modules of tests/contexts.

Every module there is loaded. It may define any of these, each for its own context:

FAKES      which fake stands for which repositories; a repository that is in none has no fake
SCENARIOS  one good call of every repository method that sends requests to DynamoDB, over rows that it needs
EXPIRES    checks by type of item: what its readers answer before and after the moment that it names as its end
OUTLIVES   types of item that count for as long as they are stored, with what leaves one that names an end
OBJECTS    how to make what a route's path names, belonging to a person; also for one route alone
SHARED     those of OBJECTS that belong to nobody: another person's request is not answered 404 for them
BODIES     the smallest body that a route accepts
QUERIES    query and headers without which a route decides nothing
PAGES      lists whose largest page fits into an answer as it is, by their path: entries, and bytes of the largest one
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tests import contexts
from tests.support.rows import AccountRows

if TYPE_CHECKING:  # which asks this module
    from tests.integration.permissions.world import Bodies, Objects, Queries

R = TypeVar("R", bound=AccountRows)
T = TypeVar("T")
Call = Callable[[], object]
Fakes = Mapping[type, tuple[type, ...]]
Pages = Mapping[str, tuple[int, int]]
NAMES = ("FAKES", "SCENARIOS", "EXPIRES", "OUTLIVES", "OBJECTS", "SHARED", "BODIES", "QUERIES", "PAGES")


class DeclaredTwice(Exception):
    """Two modules of tests/contexts declare the same thing."""


class DeclaresNothing(Exception):
    """A module of tests/contexts defines none of the names that are looked for."""


class Scenarios(Mapping[str, Callable[[], Call]], Generic[R]):
    """Calls by `Repository.method`; each prepares its rows first, so that only the call itself is watched then."""

    def __init__(self, rows: Callable[[], R], scenarios: Mapping[str, Callable[[R], Call]]) -> None:
        self._rows = rows
        self._scenarios = scenarios

    def __getitem__(self, name: str) -> Callable[[], Call]:
        scenario = self._scenarios[name]
        return lambda: scenario(self._rows())

    def __iter__(self) -> Iterator[str]:
        return iter(self._scenarios)

    def __len__(self) -> int:
        return len(self._scenarios)


class Checks(Mapping[str, Callable[[], None]], Generic[R]):
    """Checks by type of item, each over rows of its own."""

    def __init__(self, rows: Callable[[], R], checks: Mapping[str, Callable[[R], None]]) -> None:
        self._rows = rows
        self._checks = checks

    def __getitem__(self, kind: str) -> Callable[[], None]:
        check = self._checks[kind]
        return lambda: check(self._rows())

    def __iter__(self) -> Iterator[str]:
        return iter(self._checks)

    def __len__(self) -> int:
        return len(self._checks)


def made(prepare: Callable[[R], T], call: Callable[[R, T], object]) -> Callable[[R], Call]:
    """Return a scenario that first prepares what its call needs."""

    def scenario(r: R) -> Call:
        needed = prepare(r)
        return lambda: call(r, needed)

    return scenario


@cache
def fakes() -> Fakes:
    return _merged("FAKES")


@cache
def scenarios() -> Mapping[str, Callable[[], Call]]:
    return _merged("SCENARIOS")


@cache
def expires() -> Mapping[str, Callable[[], None]]:
    return _merged("EXPIRES")


@cache
def outlives() -> Mapping[str, Callable[[], None]]:
    return _merged("OUTLIVES")


@cache
def objects() -> Objects:
    return _merged("OBJECTS")


@cache
def shared() -> frozenset[str]:
    return frozenset(_merged("SHARED"))


@cache
def bodies() -> Bodies:
    return _merged("BODIES")


@cache
def queries() -> Queries:
    return _merged("QUERIES")


@cache
def pages() -> Pages:
    return _merged("PAGES")


def _merged(name: str) -> dict[Any, Any]:
    return merged(name, _modules())


def merged(name: str, modules: Iterable[ModuleType]) -> dict[Any, Any]:
    """Return what all modules declare under a name; values of a set are True."""
    found: dict[Any, Any] = {}
    by: dict[Any, str] = {}
    for module in modules:
        if not any(hasattr(module, each) for each in NAMES):
            raise DeclaresNothing(module.__name__)
        declared = getattr(module, name, {})
        for key in declared:
            if key in found:
                raise DeclaredTwice(f"{name} of {by[key]} and {module.__name__} both have {key}")
            found[key] = declared[key] if isinstance(declared, Mapping) else True
            by[key] = module.__name__
    return found


def _modules() -> Iterator[ModuleType]:
    for found in sorted(pkgutil.iter_modules(contexts.__path__), key=lambda each: each.name):
        yield importlib.import_module(f"{contexts.__name__}.{found.name}")

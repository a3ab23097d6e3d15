"""Finding what contexts offer: a module of one name in each folder below `karma`; no list of them is kept."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import karma


def modules(name: str) -> Iterator[ModuleType]:
    """Import each context's module of this name, in the order of the contexts' names; also without sources."""
    for context in pkgutil.iter_modules(karma.__path__, "karma."):
        if context.ispkg:
            package = importlib.import_module(context.name)
            if any(found.name == name for found in pkgutil.iter_modules(package.__path__)):
                yield importlib.import_module(f"{context.name}.{name}")

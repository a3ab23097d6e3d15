"""Finds modules of one name (such as `purge`) in all contexts, the folders below `karma`; no list of them is kept."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import karma


def modules(name: str) -> Iterator[ModuleType]:
    """Import and yield each context's module of this name, in the order of the contexts' names.

    Works also where only compiled files are deployed.
    """
    for context in pkgutil.iter_modules(karma.__path__, "karma."):
        if context.ispkg:
            package = importlib.import_module(context.name)
            if any(found.name == name for found in pkgutil.iter_modules(package.__path__)):
                yield importlib.import_module(f"{context.name}.{name}")

"""Finds the modules of routes/ that serve a path, before they are imported.

A start that loads every context takes twice the time of one that loads the context that is asked for. So a module of
routes/ is imported with the first request to one of its paths; where a snapshot is taken of the process, all of them
are, before it (api.handler).

A module serves the paths that begin with its own name (`api_keys`: `/api-keys`, below /api/v1 or /api), unless PATHS
has others. tests/unit/http/test_mounts.py holds this against the routes of every module.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from types import ModuleType

from api import routes
from karma.http.routing import PREFIX, Route, Router

PATHS: dict[str, tuple[str, ...]] = {
    "admin_users": ("users",),
    "auth": ("auth",),
    "billing": ("billing", "plans", "subscriptions", "usage"),
    "checkpoints": ("checkpoints", "runs/*/checkpoints"),
    "configuration": ("config",),
    "device_settings": ("devices/*/settings",),
    "files": ("devices/*/files", "devices/*/directories", "shares"),
    "mcp": ("mcp-servers",),
    "models": ("llm",),
    "oauth": ("auth/oauth",),
    "project_devices": ("projects/*/devices", "devices/*/projects"),
    "projects": ("projects", "invitations"),
    "runs": ("runs", "agents/*/stop", "agent"),
    "telemetry": ("telemetry", "devices/*/telemetry"),
    "threads": ("threads", "interrupts"),
    "transfers": ("transfers", "devices/*/transfer"),
    "tree_changes": ("devices/*/tree-changes",),
}
"""Beginnings of the paths of modules that do not go by their own name alone; `*` stands for any one segment."""

_DESCRIPTION = "api.description"
_ANY = "*"


class Mounts:
    """The modules of routes/, each imported by the first request to one of its paths."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        """Modules not imported yet, by the first segment of their paths, with the beginnings of these."""
        self._loaded: set[str] = set()
        for found in pkgutil.iter_modules(routes.__path__):
            for beginning in PATHS.get(found.name, (found.name.replace("_", "-"),)):
                first, *others = beginning.split("/")
                self._waiting[first].append(((first, *others), f"{routes.__name__}.{found.name}"))

    def modules(self, path: str) -> list[str]:
        """Return the names of the modules that may have a route with this path and are not imported yet."""
        for prefix in (f"{PREFIX}/", "/api/"):
            if path.startswith(prefix):
                given = path[len(prefix) :].split("/")
                return [name for beginning, name in self._waiting.get(given[0], ()) if _begins(given, beginning)]
        return [] if _DESCRIPTION in self._loaded else [_DESCRIPTION]

    def load(self, path: str) -> list[Route]:
        """Import the modules that may have a route with this path; return the routes of those imported just now."""
        return [route for name in self.modules(path) for route in self._load(name)]

    def load_all(self) -> list[Route]:
        """Import every module that is not imported yet, and return their routes."""
        names = [_DESCRIPTION, *(name for found in self._waiting.values() for _, name in found)]
        return [route for name in sorted(set(names) - self._loaded) for route in self._load(name)]

    def _load(self, name: str) -> list[Route]:
        found = list(routes_of(importlib.import_module(name)))
        self._loaded.add(name)
        for first, waiting in self._waiting.items():
            self._waiting[first] = [each for each in waiting if each[1] != name]
        return found


def routes_of(module: ModuleType) -> Iterator[Route]:
    """Yield the routes of a module's routers: `router`, and `agio` for those of the Agio API."""
    for name in ("router", "agio"):
        router = getattr(module, name, None)
        if isinstance(router, Router):
            yield from router.routes


def _begins(given: list[str], beginning: tuple[str, ...]) -> bool:
    return len(given) >= len(beginning) and all(
        wanted in {_ANY, one} for wanted, one in zip(beginning, given, strict=False)
    )

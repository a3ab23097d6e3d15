"""Routes are imported by need: by the path of a request, before anything of their modules is known."""

from __future__ import annotations

import importlib
import pkgutil
import re
from types import ModuleType

import pytest

from api import routes
from api.mounts import PATHS, Mounts


def test_each_module_is_found_by_the_paths_of_its_routes() -> None:
    """A path of a module that PATHS does not send there would be answered 404, or by another module's route."""
    found = Mounts()
    for route in Mounts().load_all():
        for value in ("x", "01890000-0000-7000-8000-000000000000", "latest"):
            path = re.sub(r"{[^}]*}", value, route.path)
            assert route.endpoint.__module__ in found.modules(path), f"{path}: see PATHS of functions/api/mounts.py"


def test_each_row_is_of_a_module() -> None:
    assert PATHS.keys() <= {found.name for found in pkgutil.iter_modules(routes.__path__)}


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/api/v1/devices", ["devices"]),
        ("/api/v1/devices/1/commands", ["devices"]),
        ("/api/v1/devices/1/files/2", ["devices", "files"]),
        ("/api/agents/1", ["agents"]),
        ("/api/v1/agents/1/stop", ["agents", "runs"]),
        ("/api/v1/api-keys/1", ["api_keys"]),
        ("/api/v1/no-such-thing", []),
        ("/api/v1/", []),
        ("/api/v1/*/files", []),
        ("/api/v1//devices", []),
    ],
)
def test_a_path_wants_no_other_modules(path: str, wanted: list[str]) -> None:
    assert sorted(Mounts().modules(path)) == [f"api.routes.{name}" for name in wanted]


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/api", "/no-such-thing"])
def test_what_is_not_below_api_is_the_description_s(path: str) -> None:
    assert Mounts().modules(path) == ["api.description"]


def test_routes_are_handed_over_once() -> None:
    found = Mounts()
    first = found.load("/api/v1/devices/1/files")
    assert {route.endpoint.__module__ for route in first} == {"api.routes.devices", "api.routes.files"}
    assert found.load("/api/v1/devices") == found.load("/api/v1/devices/1/files") == []
    rest = found.load_all()
    assert len(rest) == len({id(route) for route in rest}) > 100
    assert not {id(route) for route in rest} & {id(route) for route in first}
    assert found.load_all() == found.load("/api/v1/tasks") == []


def test_a_module_that_could_not_be_imported_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise ImportError(name)

    found = Mounts()
    with monkeypatch.context() as patched:
        patched.setattr(importlib, "import_module", fail)
        with pytest.raises(ImportError):
            found.load("/api/v1/tasks")
    assert {route.endpoint.__module__ for route in found.load("/api/v1/tasks")} == {"api.routes.tasks"}

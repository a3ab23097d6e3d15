"""Routes that cost much, or make us call a host that an account names, have limits of their own."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from karma.http.routing import PREFIX, Route
from karma.identity.limits import RULES
from karma.mcp.service import McpServerService
from karma.webhooks.service import OutgoingWebhooks

pytestmark = pytest.mark.fault("F-25l")

PAGE = Path(__file__).resolve().parents[3] / "docs/calls.md"
MOST_UNITS = 25.0
"""Units of DynamoDB, read and written, that a route without a limit of its own may cost."""
READING_MUCH = ("/telemetry/exports", "/telemetry/query", "/firmware/releases/{id}/publish")
"""Paths of POSTs that read megabytes, or have others of our functions do so."""
ASKING = re.compile(r"\bself\._(?:list|ask)\(|\.list_tools\(|\banew=True")
"""Calls in services that ask somebody's host, at once or by the queue of deliveries that are asked for by hand."""
BOUNDED_OTHERWISE = {"look"}
"""Methods that ask a host only when as much time has passed as `McpServer.is_stale` says: no repeat makes a call."""


def routes() -> list[Route]:
    from api.app import build

    return [route for route in build().router.routes if isinstance(route, Route)]


def limit_of(method: str, path: str) -> str:
    found = {
        route.limit
        for route in routes()
        if re.sub(r"{[^}]*}", "{id}", route.path) == path and method in (route.methods or ())
    }
    assert len(found) == 1, f"{method} {path}: {found}"
    return found.pop()


def asking(service: type) -> set[str]:
    methods = inspect.getmembers(service, inspect.isfunction)
    return {name for name, each in methods if not name.startswith("_") and ASKING.search(inspect.getsource(each))}


def called_in(endpoint: Any) -> set[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(endpoint)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("service()")
    }


@pytest.mark.parametrize(
    ("module", "service", "expected"),
    [
        ("mcp", McpServerService, {"create", "change", "look", "refresh"}),
        ("webhooks", OutgoingWebhooks, {"try_out", "redeliver"}),
    ],
)
def test_whatever_calls_a_host_that_an_account_names_is_limited(module: str, service: type, expected: set[str]) -> None:
    methods = asking(service)
    assert methods == expected
    of_module = [route for route in routes() if route.endpoint.__module__ == f"api.routes.{module}"]
    calling = [(route, called) for route in of_module if (called := called_in(route.endpoint) & methods)]
    assert {name for _, called in calling for name in called} == methods
    for route, called in calling:
        assert route.limit == ("default" if called <= BOUNDED_OTHERWISE else "outward"), route.path


def test_what_costs_much_has_a_limit_of_its_own() -> None:
    row = r"^\| ([A-Z]+) ([^ ,|]+)[^|]* \| [^|]* \| ([0-9.]+) \| ([0-9.]+) \|$"
    rows = re.findall(row, PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 60
    dear = {(method, path) for method, path, read, written in rows if float(read) + float(written) > MOST_UNITS}
    assert dear
    for method, path in dear:
        assert limit_of(method, PREFIX + path) != "default", f"{method} {path}"


@pytest.mark.parametrize("path", READING_MUCH)
def test_what_reads_megabytes_has_a_limit_of_its_own(path: str) -> None:
    assert limit_of("POST", PREFIX + path) == "costly"
    assert RULES["costly"].stored

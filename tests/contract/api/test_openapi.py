from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ag_ui.core import EventType
from fastapi.routing import APIRoute
from openapi_spec_validator import OpenAPIV31SpecValidator

from agent_stream.app import ROUTES
from agent_stream.openapi import EVENTS
from api.app import build
from karma.http.openapi import answered_by
from karma.runs import events
from tests.support import contract

pytestmark = pytest.mark.req("R-M-21")


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


@pytest.mark.parametrize("name", contract.DOCUMENTS)
class TestACommittedDocument:
    def test_is_what_is_served(self, name: str) -> None:
        changed = list(contract.changes(contract.committed(name), contract.served(name)))
        assert not changed, "\n".join([*changed, "If clients can live with that: make docs"])

    def test_names_every_operation_once(self, name: str) -> None:
        names = [operation["operationId"] for operation in operations(contract.served(name))]
        assert sorted(set(names)) == sorted(names)
        assert all(found.isidentifier() for found in names)

    def test_says_what_every_operation_does(self, name: str) -> None:
        nameless = [o["operationId"] for o in operations(contract.served(name)) if not o.get("description")]
        assert nameless == []

    def test_is_openapi(self, name: str) -> None:
        wrong = [
            f"{error.json_path}: {error.message}"
            for error in OpenAPIV31SpecValidator(contract.served(name)).iter_errors()
        ]
        assert not wrong, "\n".join(wrong)


def test_the_return_type_of_every_route_tells_the_shape_of_its_answer() -> None:
    """Mypy holds functions to their return types; an answer without a shape has no body, or is a page or a redirect."""
    shapeless = {
        route.path
        for route in build().routes
        if isinstance(route, APIRoute) and route.include_in_schema and not answered_by(route.endpoint)
        if route.status_code != 204
    }
    assert shapeless == {
        "/api/v1/auth/oauth/{provider}/start",
        "/api/v1/auth/oauth/{provider}/callback",
        "/api/v1/metrics/prometheus",
        "/api/v1/shares/{token}",
    }


REPEATED_CREATES_ANEW = {
    "/api/v1/realtime/ticket": "a ticket lets one connection in, and ends by itself within a minute",
}
"""Reasons why a repeated request may create once more, by path."""


def test_what_a_post_creates_is_created_once_for_an_idempotency_key() -> None:
    """A client that lost the answer sends the request again; without the key it would have two of what it wanted."""
    found = {
        path: any(each["name"].lower() == "idempotency-key" for each in operation.get("parameters", ()))
        for path, methods in contract.served("api")["paths"].items()
        for method, operation in methods.items()
        if method == "post" and "201" in operation["responses"]
    }
    assert found
    anew = {path for path, once in found.items() if not once}
    lacking = anew - REPEATED_CREATES_ANEW.keys()
    assert not lacking, f"give these routes `idempotent=True` and answer by `once` (karma.http.idempotency): {lacking}"
    assert not REPEATED_CREATES_ANEW.keys() - anew, "no longer true: remove it from REPEATED_CREATES_ANEW"


class TestTheStreamS:
    def test_names_the_events_that_runs_are_made_of(self) -> None:
        found = re.findall(r'(?<!code=)"([A-Z]+(?:_[A-Z]+)+)"|_event\("([A-Z]+)"', Path(events.__file__).read_text())
        made = {name for names in found for name in names if name}
        assert set(EVENTS) == made
        assert made <= {each.value for each in EventType}

    def test_lists_every_route(self) -> None:
        listed = {
            f"{method.upper()} {path}" for path, found in contract.served("stream")["paths"].items() for method in found
        }
        assert listed == {"GET /health", *(f"{route.method} {route.path}" for route in ROUTES)}


class TestADifference:
    def test_is_named_where_it_is(self) -> None:
        before = {"paths": {"/a": {"get": {"summary": "A"}}, "/b": {}}}
        after = {"paths": {"/a": {"get": {"summary": "B"}}, "/c": {}}}
        assert list(contract.changes(before, after)) == [
            'changed: paths > /a > get > summary: "A" -> "B"',
            "removed: paths > /b",
            "added: paths > /c",
        ]

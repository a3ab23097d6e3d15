"""Query parameters of every operation of both OpenAPI documents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.integration.permissions.world import Answered, Target, World, bearer, targets
from tests.support import contract

pytestmark = pytest.mark.usefixtures("model")

DOCUMENTS = {"api": "api", "agent_stream": "stream"}
ANY_QUERY = {"GET /api/v1/auth/oauth/{provider}/callback"}
"""Whose query somebody else writes."""


def operations(function: str) -> Iterator[tuple[Target, list[dict[str, Any]]]]:
    """Yield each operation of a function's document, and the parameters of its query."""
    paths = contract.served(DOCUMENTS[function])["paths"]
    known = {(target.method.lower(), target.path): target for target in targets() if target.function == function}
    for path, methods in paths.items():
        for method, operation in methods.items():
            asked = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
            yield known[method, path], asked


def caller(world: World, target: Target) -> Mapping[str, str]:
    return {} if target.permission is None else bearer(world.person("admin").token)


def refused(answer: Answered) -> dict[str, str]:
    """Return what a 422 says of each field."""
    assert answer.status == 422, answer.text
    return {each["field"]: each["message"] for each in json.loads(answer.text)["error"]["details"]}


@pytest.mark.fault("F-10b")
@pytest.mark.parametrize("function", list(DOCUMENTS))
def test_a_query_parameter_that_an_operation_does_not_have_is_named(world: World, function: str) -> None:
    world.become(function)
    for target, parameters in operations(function):
        names = [each["name"] for each in parameters]
        misspelt = [f"{name}s" for name in names] + [name.upper() for name in names]
        unknown = [name for name in ["no_such", "status[]", *misspelt] if name not in names]
        body: object = None if target.method == "GET" else {}
        asked = world.ask(
            target, query=urlencode(dict.fromkeys(unknown, "1")), headers=caller(world, target), body=body
        )
        if f"{target.method} {target.path}" in ANY_QUERY:
            assert asked.status != 422, (target.name, asked.text)
            continue
        told = refused(asked)
        assert set(unknown) <= told.keys(), (target.name, told)
        taken = ", ".join(sorted(names)) or "none"
        assert {told[name] for name in unknown} == {f"unknown query parameter; this route takes: {taken}"}, target.name

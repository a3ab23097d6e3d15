"""Query parameters of every operation of both OpenAPI documents: unknown ones, and times at the calendar's ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.integration.permissions.world import Answered, Target, World, bearer, targets
from tests.support import contexts, contract

pytestmark = pytest.mark.usefixtures("model")

DOCUMENTS = {"api": "api", "agent_stream": "stream"}
NAMED = 20
"""Unknown parameters that a refusal names at most."""
ANY_QUERY = {"GET /api/v1/auth/oauth/{provider}/callback"}
"""Routes whose query another party writes."""


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
        unknown = [name for name in ["no_such", "status[]", *misspelt] if name not in names][:NAMED]
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


@pytest.mark.fault("F-10c")
@pytest.mark.parametrize("function", list(DOCUMENTS))
def test_a_query_parameter_that_is_given_twice_is_named(world: World, function: str) -> None:
    world.become(function)
    for target, parameters in operations(function):
        names = [each["name"] for each in parameters]
        if not names:
            continue
        body: object = None if target.method == "GET" else {}
        query = urlencode([(name, value) for name in names for value in ("1", "2")])
        told = refused(world.ask(target, query=query, headers=caller(world, target), body=body))
        assert {name for name, said in told.items() if "more than once" in said} == set(names), (target.name, told)


@pytest.mark.fault("F-10d")
@pytest.mark.parametrize("function", list(DOCUMENTS))
def test_head_is_answered_as_get_is(world: World, function: str) -> None:
    world.become(function)
    nobody: Mapping[str, str] = {}
    readable = [target for target, _ in operations(function) if target.method == "GET"]
    pages = [Target(function, "GET", path, None) for path in ("/", "/docs", "/redoc", "/openapi.json")]
    for target in readable + (pages if function == "api" else pages[-1:]):
        for headers in (nobody, caller(world, target)):
            whole = world.ask(target, query="", headers=headers)
            answer = world.ask(replace(target, method="HEAD"), query="", headers=headers)
            assert (answer.status, answer.content_type) == (whole.status, whole.content_type), target.name
            assert whole.text or whole.status == 303, target.name
            assert answer.text == "", target.name


@pytest.mark.fault("F-24z")
@pytest.mark.parametrize("function", list(DOCUMENTS))
@pytest.mark.parametrize("char", ["a", "é"])
def test_a_parameter_of_a_path_may_be_longer_than_any_key(world: World, function: str, char: str) -> None:
    world.become(function)
    said = quote(2_100 * char)
    asked = [each for each, _ in operations(function) if "{" in each.path and each.method in {"GET", "DELETE"}]
    assert asked
    for target in asked:
        at = replace(target, path=re.sub(r"\{\w+\}", said, target.path))
        answer = world.ask(at, query="", headers=caller(world, target))
        assert answer.status in {204, 303, 400, 403, 404, 422}, (target.name, answer.status, answer.text)


TIMES = [
    f"{year}-{at}{offset}"
    for year in ("0001", "0999", "1969", "9999")
    for at in ("01-01T00:00:00", "12-31T23:59:59.999999")
    for offset in ("Z", "+14:00", "-14:00", "+23:59", "-23:59")
]
DAYS = ["0001-01-01", "0999-12-31", "9999-12-31"]
MILLISECONDS = ["0", "253402300799999", "253402300800000", "9" * 20]


def is_time(schema: Mapping[str, Any]) -> bool:
    return schema.get("format") in ("date", "date-time") or any(is_time(each) for each in schema.get("anyOf", ()))


def fields_of(document: Mapping[str, Any], operation: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schemas of the fields of an operation's body."""
    if "requestBody" not in operation:
        return {}
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    name = schema["$ref"].rpartition("/")[2]
    fields: Mapping[str, Any] = document["components"]["schemas"][name].get("properties", {})
    return fields


@pytest.mark.fault("F-10a")
def test_times_at_the_ends_of_the_calendar_are_read_or_named(world: World) -> None:
    world.become("api")
    document = contract.served()
    tried = 0
    for target, parameters in operations("api"):
        for parameter in parameters:
            if not (is_time(parameter["schema"]) or parameter["name"] in ("from", "to")):
                continue
            path = world.path_of(target, owner="admin")
            for text in [*TIMES, *DAYS, *MILLISECONDS]:
                query = urlencode({parameter["name"]: text})
                answer = world.api(target.method, path, headers=caller(world, target), query=query)
                assert answer.status in (200, 400, 422), (target.name, query, answer.text)
                if answer.status == 422:
                    assert refused(answer).keys() == {parameter["name"]}
                tried += 1
        operation = document["paths"][target.path][target.method.lower()]
        for field in [name for name, inner in fields_of(document, operation).items() if is_time(inner)]:
            seed = contexts.bodies()[f"{target.method} {target.path}"](world, "admin")
            for text in [*TIMES, *DAYS]:
                if target.path == "/api/v1/telemetry/exports":  # of which an account has few at a time
                    world.start_over()
                    seed = contexts.bodies()[f"{target.method} {target.path}"](world, "admin")
                body = {**seed, field: text}
                path = world.path_of(target, owner="admin")
                answer = world.api(target.method, path, body, headers=caller(world, target))
                assert answer.status < 300 or refused(answer).keys() == {field}, (target.name, body, answer.text)
                tried += 1
    assert tried > 200

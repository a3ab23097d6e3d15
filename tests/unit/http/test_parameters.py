"""Every parameter that the description of the API gives a type other than text is read in one way of writing it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request

from api.mounts import Mounts
from karma.http.routing import Arguments
from tests.support import contract

pytestmark = pytest.mark.fault("F-24s")

WRONG = {
    "integer": ["1_0", "5.0", "+1", " 1", "1 ", "1\n", "1e1", "0x1", "\u0661", "", "true"],
    "number": ["1_0", "+1", " 1", "1\n", "1e1", "inf", "nan", ".5", "5.", "\u0661", "", "true"],
    "boolean": ["1", "0", "yes", "on", "t", "True", "TRUE", "off", " true", "true\n", ""],
    "date": ["2026-11-30T00:00:00", "2026-11-30T00:00:00Z", "2026-11-30 ", "2026-11-30\n", "20261130", "1", ""],
    "date-time": ["2026-11-30", "2026-11-30T00:00:00", "1764460800", "2026-11-30T00:00:00Z\n", " 2026-11-30T00:00:00Z"],
}
GOOD = {
    "integer": ["1", "01"],
    "number": ["1", "2.5"],
    "boolean": ["true", "false"],
    "date": ["2026-11-30"],
    "date-time": ["2026-11-30T00:00:00Z", "2026-11-30T00:00:00+01:00"],
}


def kinds(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the types of a parameter other than text; a value of a closed list is compared with it."""
    for each in schema.get("anyOf", ()):
        yield from kinds(each)
    kind = schema.get("format") if schema.get("type") == "string" else schema.get("type")
    if "enum" not in schema and kind in WRONG:
        yield str(kind)


def parameters() -> list[tuple[str, str, str, str]]:
    return sorted(
        (method.upper(), path, parameter["name"], kind)
        for path, operations in contract.committed()["paths"].items()
        for method, operation in operations.items()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
        for kind in kinds(parameter["schema"])
    )


@cache
def readers() -> Mapping[tuple[str, str], Arguments]:
    """Return what reads the query of each route, without the dependencies that authenticate."""
    return {
        (method, route.path): Arguments(Dependant(query_params=route.described.dependant.query_params))
        for route in Mounts().load_all()
        for method in route.methods or ()
    }


def is_refused(reader: Arguments, name: str, text: str) -> bool:
    query = f"{quote(name)}={quote(text)}".encode()
    try:
        asyncio.run(reader.of(Request({"type": "http", "method": "GET", "query_string": query, "headers": []})))
    except RequestValidationError as exc:
        return any(error["loc"] == ("query", name) for error in exc.errors())
    return False


@pytest.mark.parametrize("kind", WRONG)
def test_each_is_refused_in_any_other_way_of_writing_it(kind: str) -> None:
    found = [each for each in parameters() if each[3] == kind]
    assert found, "the description has none of this type"
    read = readers()
    taken = [
        (method, path, name, text)
        for method, path, name, _ in found
        for text in WRONG[kind]
        if not is_refused(read[method, path], name, text)
    ]
    assert taken == []
    refused = [
        (method, path, name, text)
        for method, path, name, _ in found
        for text in GOOD[kind]
        if is_refused(read[method, path], name, text)
    ]
    assert refused == []


def test_the_description_has_numbers_for_every_parameter_that_counts() -> None:
    """So that a parameter whose type stops being told is not passed over."""
    counting = {name for _, _, name, kind in parameters() if kind == "integer"}
    assert {"page", "page_size", "limit", "offset", "after"} <= counting

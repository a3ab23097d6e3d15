"""Checks that models accept a client's JSON Schema: JSON Schema 2020-12, and the Messages API's own rules.

The API refuses a whole run for one schema that is malformed, that has oneOf, allOf or anyOf at its top level, or that
names a property with characters that it does not accept. Checked here, such a tool is refused by name before the run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import NamedTuple

from karma.core.errors import MAX_FOUND
from karma.core.freeform import VALUES, values_of

MAX_BYTES = 256 * 1024
"""Bytes of JSON of the schema of a tool's arguments."""
MAX_VALUES = 10_000
MAX_SCHEMAS_BYTES = 1024 * 1024
"""Bytes of JSON of the schemas of a request; they are stored with the run, and sent with each call of the model."""

_UNIONS = ("oneOf", "anyOf", "allOf")
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_PROPERTY = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Problem(NamedTuple):
    """One error of a schema: its path, dotted, within the schema, and the required form."""

    path: str
    message: str


def problem_of_size(data: bytes) -> str:
    """Return why a schema is too large, as JSON; "" when it is not."""
    if len(data) > MAX_BYTES:
        return f"must be at most {MAX_BYTES} bytes of JSON"
    return f"must have at most {MAX_VALUES} {VALUES}" if values_of(data) > MAX_VALUES else ""


def problems_of(schema: Mapping[str, object]) -> list[Problem]:
    """List what a model's provider would refuse about the schema of a tool's arguments; [] when nothing."""
    found = [
        Problem(union, "must not stand at the top level; models take it within properties only")
        for union in _UNIONS
        if union in schema
    ]
    if schema.get("type", "object") != "object":
        found.append(Problem("type", "must be object"))
    properties = schema.get("properties")
    if isinstance(properties, dict):
        found += [
            Problem(f"properties.{name[:64]}", "must be named by 1 to 64 letters, digits, '_', '.' and '-'")
            for name in properties
            if not _PROPERTY.fullmatch(name)
        ]
    return list(islice(chain(found, _schema(schema, "")), MAX_FOUND))


def _schema(value: object, at: str) -> Iterator[Problem]:
    if isinstance(value, bool):
        return
    if not isinstance(value, dict):
        yield Problem(at, "must be a schema: an object or a boolean")
        return
    for keyword, inner in value.items():
        check = _KEYWORDS.get(keyword)
        if check is not None:
            yield from check(inner, f"{at}.{keyword}" if at else keyword)


def _schemas(value: object, at: str) -> Iterator[Problem]:
    if isinstance(value, list) and value:
        for i, each in enumerate(value):
            yield from _schema(each, f"{at}.{i}")
    else:
        yield Problem(at, "must be a list of at least one schema")


def _named_schemas(value: object, at: str) -> Iterator[Problem]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _schema(each, f"{at}.{name[:64]}")
    else:
        yield Problem(at, "must be an object of schemas")


def _dependencies(value: object, at: str) -> Iterator[Problem]:
    if isinstance(value, dict):
        for name, each in value.items():
            check = _names if isinstance(each, list) else _schema
            yield from check(each, f"{at}.{name[:64]}")
    else:
        yield Problem(at, "must be an object")


def _named_names(value: object, at: str) -> Iterator[Problem]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _names(each, f"{at}.{name[:64]}")
    else:
        yield Problem(at, "must be an object of lists of names")


def _names(value: object, at: str) -> Iterator[Problem]:
    if not (isinstance(value, list) and all(isinstance(each, str) for each in value) and len(set(value)) == len(value)):
        yield Problem(at, "must be a list of different names")


def _type(value: object, at: str) -> Iterator[Problem]:
    names = value if isinstance(value, list) else [value]
    known = all(isinstance(name, str) and name in _TYPES for name in names)
    if not names or not known or len(set(names)) < len(names):
        yield Problem(at, f"must be one or several of {', '.join(sorted(_TYPES))}")


def _list(value: object, at: str) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield Problem(at, "must be a list")


def _text(value: object, at: str) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield Problem(at, "must be a string")


def _flag(value: object, at: str) -> Iterator[Problem]:
    if not isinstance(value, bool):
        yield Problem(at, "must be true or false")


def _number(value: object, at: str) -> Iterator[Problem]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield Problem(at, "must be a number")


def _step(value: object, at: str) -> Iterator[Problem]:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        yield Problem(at, "must be a number above 0")


def _count(value: object, at: str) -> Iterator[Problem]:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
    if not whole or value < 0:  # type: ignore[operator]
        yield Problem(at, "must be a whole number from 0")


_Check = Callable[[object, str], Iterator[Problem]]
_KEYWORDS: Mapping[str, _Check] = {
    keyword: check
    for check, keywords in (
        (_schema, "additionalProperties contains contentSchema else if items not propertyNames then"),
        (_schema, "unevaluatedItems unevaluatedProperties"),
        (_schemas, "allOf anyOf oneOf prefixItems"),
        (_named_schemas, "$defs definitions dependentSchemas patternProperties properties"),
        (_dependencies, "dependencies"),
        (_named_names, "dependentRequired"),
        (_names, "required"),
        (_type, "type"),
        (_list, "enum examples"),
        (_text, "$anchor $comment $dynamicAnchor $dynamicRef $id $ref $schema contentEncoding contentMediaType"),
        (_text, "description format pattern title"),
        (_flag, "deprecated readOnly uniqueItems writeOnly"),
        (_number, "exclusiveMaximum exclusiveMinimum maximum minimum"),
        (_step, "multipleOf"),
        (_count, "maxContains maxItems maxLength maxProperties minContains minItems minLength minProperties"),
    )
    for keyword in keywords.split()
}

"""Examples of the OpenAPI document: a value for each field, put together to bodies, answers and parameters.

The values are the FIELDS of each `karma/<context>/examples.py`, and what several contexts show is in karma/core. Loaded
when somebody asks for the document, never at a cold start. A field's own `examples` go before these. An optional field
of a body that is named nowhere is left out; a field of an answer that is named nowhere leaves its operations without an
example, which tests/contract/api/test_examples.py reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

from karma.core import contexts

_REF = "#/components/schemas/"


class Lacking(LookupError):
    """A field has no example; the message names it."""


class NamedTwice(Exception):
    """Two contexts have an example of the same name; one must say `Model.field`."""


@cache
def fields() -> Mapping[str, Any]:
    """Merge the examples of all contexts.

    Raises:
        NamedTwice: two contexts have an example of the same name.
    """
    return merged(contexts.modules("examples"))


def merged(modules: Iterable[ModuleType]) -> Mapping[str, Any]:
    """Merge the examples of these modules, as `fields` does for all contexts."""
    found: dict[str, Any] = {}
    for module in modules:
        if twice := found.keys() & module.FIELDS.keys():
            raise NamedTwice(f"{module.__name__}: {', '.join(sorted(twice))}")
        found |= module.FIELDS
    return found


def complete(document: dict[str, Any]) -> None:
    """Add to every operation the examples that can be composed."""
    schemas = document["components"]["schemas"]
    for operations in document["paths"].values():
        for operation in operations.values():
            name = operation["operationId"]
            for parameter in operation.get("parameters", ()):
                plain = fields().get(parameter["name"], ...)
                value = fields().get(f"{name}.{parameter['name']}", plain)
                allowed = _choices(parameter["schema"], schemas)
                if allowed and value not in allowed:
                    value = allowed[0]
                if value is not ...:
                    parameter.setdefault("example", value)
            contents = [operation.get("requestBody", {}).get("content", {})]
            contents += [
                response.get("content", {}) for status, response in operation["responses"].items() if int(status) < 300
            ]
            for content in contents:
                _complete(content, schemas, is_body=content is contents[0])


def _complete(content: Mapping[str, Any], schemas: Mapping[str, Any], *, is_body: bool) -> None:
    media = content.get("application/json")
    if media is None:
        return
    try:
        media["example"] = example_of(media["schema"], schemas, is_body=is_body)
    except Lacking:
        return


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any], *, is_body: bool, of: str = "") -> Any:
    """Compose an example of a schema.

    Raises:
        Lacking: a field has no example.
    """
    if "$ref" in schema:
        of = schema["$ref"].removeprefix(_REF)
        schema = schemas[of]
        if of in fields():
            return fields()[of]
    for fixed in ("examples", "enum"):
        if schema.get(fixed):
            return schema[fixed][0]
    if "const" in schema:
        return schema["const"]
    if "properties" in schema:
        return _object(schema, schemas, is_body=is_body, of=of)
    if schema.get("type") == "array":
        return [example_of(schema["items"], schemas, is_body=is_body, of=of)]
    several = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if several:
        return example_of(several[0], schemas, is_body=is_body, of=of)
    raise Lacking(of)


def _object(schema: Mapping[str, Any], schemas: Mapping[str, Any], *, is_body: bool, of: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in schema["properties"].items():
        where = f"{of}.{name}"
        if where in fields():
            found[name] = fields()[where]
        elif _is_put_together(inner, schemas):
            found[name] = example_of(inner, schemas, is_body=is_body, of=where)
        elif name in fields():
            allowed = _choices(inner, schemas)
            found[name] = allowed[0] if allowed and fields()[name] not in allowed else fields()[name]
        elif not is_body or name in schema.get("required", ()):
            found[name] = example_of(inner, schemas, is_body=is_body, of=where)
        if is_body and found.get(name, ...) is None:
            del found[name]  # as absent as the others
    return found


def _choices(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Sequence[Any]:
    """Return the values of a closed set; empty: the schema is none."""
    if "$ref" in schema:
        return _choices(schemas[schema["$ref"].removeprefix(_REF)], schemas)
    several = schema.get("anyOf", ())
    return schema.get("enum") or next((found for each in several if (found := _choices(each, schemas))), ())


def _is_put_together(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> bool:
    """Tell whether a field has its own example, or is made of objects of ours."""
    if schema.get("examples") or "const" in schema:
        return True
    if "$ref" in schema:
        return "properties" in schemas[schema["$ref"].removeprefix(_REF)]
    if schema.get("type") == "array":
        return _is_put_together(schema["items"], schemas)
    return any(_is_put_together(each, schemas) for each in schema.get("anyOf", ()))

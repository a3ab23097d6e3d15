"""Wrong JSON bodies, made from a schema: one case for each way in which each field can be wrong.

Also unusual text, for the fields that may have it. Nested fields are included: those of objects, of a list's first
element, of each alternative.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

TEXTS = {
    "emoji": "\N{SEEDLING} \N{WOMAN}\u200d\N{ROCKET} \U0001f1e9\U0001f1ea",
    "scripts": "\u05e9\u05dc\u05d5\u05dd \u0639\u0631\u0628\u064a e\u0301\u0915\u094d\u0937\u093f Z\u0351 \U00020000",
    "changes direction": "a\u202etxt.exe\u202c",
    "invisible": "a\u200b\ufeffb#c|d",
    "separators": "a\u2028b\u2029c\u0085d",
    "nul": "a\x00b\x07c",
    "lines": "a\r\nb: c",
}
LONG = 200_000
"""Characters of a very long line: more than any field takes, less than a body may have."""
_OTHERS: tuple[tuple[str, object], ...] = (
    ("string", "7"),
    ("integer", 7),
    ("number", 7.5),
    ("boolean", True),
    ("array", []),
    ("object", {}),
)
_UNKNOWN = "no_such_field"

Build = Callable[[Any], dict[str, Any]]
"""Makes a body with a value in the place of a field."""


@dataclass(frozen=True)
class Case:
    """A body that must be refused."""

    what: str
    field: str
    """Field that the answer must name, such as `config.max_steps`; "": the body itself."""
    body: Any


@dataclass(frozen=True)
class Text:
    """A field that may be text."""

    field: str
    build: Build
    schemas: tuple[Mapping[str, Any], ...]

    def admits(self, text: str) -> bool:
        """Tell whether the schema allows a text here."""
        return any(_admits(schema, text) for schema in self.schemas)


class Shapes:
    """Reads the schemas of one OpenAPI document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def cases(self, schema: Mapping[str, Any], seed: Mapping[str, Any]) -> Iterator[Case]:
        """Yield bodies that are wrong in one place; `seed` is one that is right."""
        for kind, other in _OTHERS:
            if kind != "object":
                yield Case(f"{kind} for the body", "", other)
        yield Case("null for the body", "", None)
        yield from self._members(self._alternatives(schema), lambda value: value, seed, "")

    def nulls(self, schema: Mapping[str, Any], seed: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the members of a body that may be null, each with the body that has it so."""
        for each in self._alternatives(schema):
            for name, inner in each.get("properties", {}).items():
                if any("null" in _types(kind) for kind in self._alternatives(inner)):
                    yield name, {**seed, name: None}

    def texts(self, schema: Mapping[str, Any], seed: Mapping[str, Any]) -> Iterator[Text]:
        """Yield the fields that may be text, with those of free objects."""
        yield from self._texts(self._alternatives(schema), lambda value: value, "", seed)

    def least(self, schema: Mapping[str, Any]) -> Any:
        """Return the body with the members that a schema requires and no other."""
        [found, *_] = self._alternatives(schema)
        return {name: self.sample(found["properties"][name]) for name in found.get("required", ())}

    def sample(self, schema: Mapping[str, Any]) -> Any:
        """Return a value that a schema allows: its example, or the smallest."""
        found = self._alternatives(schema)[0]
        for told in (schema, found):
            if told.get("examples"):
                return told["examples"][0]
        if "const" in found:
            return found["const"]
        if "enum" in found:
            return found["enum"][0]
        match found.get("type"):
            case "object":
                wanted = found.get("required", ())
                return {name: self.sample(found["properties"][name]) for name in wanted}
            case "array":
                return [self.sample(found["items"])] * found.get("minItems", 0)
            case "integer" | "number":
                return found.get("minimum", 1)
            case "boolean":
                return True
            case "null":
                return None
        return "x" * max(1, found.get("minLength", 1))

    def _value(self, schema: Mapping[str, Any], build: Build, field: str) -> Iterator[Case]:
        alternatives = self._alternatives(schema)
        types = {kind for each in alternatives for kind in _types(each)}
        if not types:  # anything goes, but perhaps not in it
            yield from self._members(alternatives, build, {}, field)
            return
        if "null" not in types:
            yield Case("null", field, build(None))
        for kind, other in _OTHERS:
            if kind not in types and not (kind == "integer" and "number" in types) and not _listed(alternatives, other):
                yield Case(f"{kind} for {', '.join(sorted(types))}", field, build(other))
        if "string" in types and all(each.get("maxLength", 0) < LONG for each in alternatives):
            yield Case("very long line", field, build("x" * LONG))
        for each in alternatives:
            yield from self._bounds(each, build, field)
        yield from self._members(alternatives, build, None, field)

    def _bounds(self, schema: Mapping[str, Any], build: Build, field: str) -> Iterator[Case]:
        if "maxLength" in schema:
            yield Case("too long", field, build("x" * (schema["maxLength"] + 1)))
        if schema.get("minLength"):
            yield Case("too short", field, build("x" * (schema["minLength"] - 1)))
        for low, by in (("minimum", 1), ("exclusiveMinimum", 0)):
            if low in schema:
                yield Case("too small", field, build(schema[low] - by))
        for high, by in (("maximum", 1), ("exclusiveMaximum", 0)):
            if high in schema:
                yield Case("too large", field, build(schema[high] + by))
        if "maxItems" in schema:
            values = self._distinct(schema["items"])
            yield Case("too many", field, build([next(values) for _ in range(schema["maxItems"] + 1)]))
        if schema.get("minItems"):
            yield Case("too few", field, build([self.sample(schema["items"])] * (schema["minItems"] - 1)))

    def _members(
        self, alternatives: list[Mapping[str, Any]], build: Build, seed: Mapping[str, Any] | None, field: str
    ) -> Iterator[Case]:
        for schema in alternatives:
            whole = self._whole(schema, seed)
            for name, inner in schema.get("properties", {}).items():
                here = _under(field, name)
                if name in schema.get("required", ()):
                    yield Case("missing", here, build({key: value for key, value in whole.items() if key != name}))
                if "const" not in inner:  # the alternative's name
                    yield from self._value(inner, _member(build, whole, name), here)
            if schema.get("additionalProperties") is False:
                yield Case("unknown", _under(field, _UNKNOWN), build({**whole, _UNKNOWN: 1}))
            elif isinstance(schema.get("additionalProperties"), dict):
                yield from self._value(schema["additionalProperties"], _member(build, {}, "1"), _under(field, "1"))
            if "items" in schema:
                yield from self._value(schema["items"], _element(build), _under(field, "0"))

    def _texts(
        self, alternatives: list[Mapping[str, Any]], build: Build, field: str, seed: Mapping[str, Any] | None
    ) -> Iterator[Text]:
        strings = tuple(each for each in alternatives if "string" in _types(each) and "const" not in each)
        if strings:
            yield Text(field, build, strings)
        for schema in alternatives:
            whole = self._whole(schema, seed)
            for name, inner in schema.get("properties", {}).items():
                yield from self._texts(
                    self._alternatives(inner), _member(build, whole, name), _under(field, name), None
                )
            if schema.get("additionalProperties") is True and not schema.get("properties"):
                yield Text(field, lambda text: build({text: text}), ({"type": "string"},))
            elif isinstance(schema.get("additionalProperties"), dict):
                inner = schema["additionalProperties"]
                yield from self._texts(self._alternatives(inner), _member(build, {}, "1"), _under(field, "1"), None)
            if "items" in schema:
                yield from self._texts(self._alternatives(schema["items"]), _element(build), _under(field, "0"), None)

    def _whole(self, schema: Mapping[str, Any], seed: Mapping[str, Any] | None) -> Mapping[str, Any]:
        if seed is not None:
            return seed
        found = self.sample(schema)
        return found if isinstance(found, dict) else {}

    def _alternatives(self, schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        if "$ref" in schema:
            found: Any = self._document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            return self._alternatives(found)
        several = schema.get("anyOf") or schema.get("oneOf")
        return [found for each in several for found in self._alternatives(each)] if several else [schema]

    def _distinct(self, schema: Mapping[str, Any]) -> Iterator[Any]:
        sample = self.sample(schema)
        for number in count(1):
            yield number if isinstance(sample, int) else f"{sample}{number}" if isinstance(sample, str) else sample


def _member(build: Build, whole: Any, name: str) -> Build:
    return lambda value: build({**whole, name: value})


def _element(build: Build) -> Build:
    return lambda value: build([value])


def _under(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _types(schema: Mapping[str, Any]) -> list[str]:
    if "type" not in schema and ("enum" in schema or "const" in schema):
        return ["string"]
    return [schema["type"]] if "type" in schema else []


def _listed(alternatives: list[Mapping[str, Any]], value: object) -> bool:
    return any(value in each.get("enum", ()) for each in alternatives)


def _admits(schema: Mapping[str, Any], text: str) -> bool:
    if "enum" in schema or "format" in schema:
        return False
    return schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text)) and (
        re.search(schema.get("pattern", ""), text) is not None
    )

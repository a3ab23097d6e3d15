"""Arguments that a tool's schema wants mirrored into HTTP headers: `x-mcp-header` of revision 2026-07-28."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from karma.conversations.domain import Json

_MARK: Final = "x-mcp-header"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_PRIMITIVE = ("string", "integer", "boolean")
_SAFE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?|")
_MAX_INTEGER: Final = 2**53 - 1

Path = tuple[str, ...]


class WrongHeader(ValueError):
    """A schema asks for a header in a way that the protocol forbids; the message says how."""


def mirrored(schema: Json) -> Mapping[str, Path]:
    """Return where in the arguments the value of each header stands, by the header's name.

    Raises:
        WrongHeader: a name is no token or stands twice, or the marked property is not primitive or cannot be reached
            through `properties` alone.
    """
    reachable = dict(_reachable(schema, ()))
    if len(reachable) != sum(1 for _ in _marks(schema)):
        raise WrongHeader(f"{_MARK} stands where no property can be reached through `properties` alone")
    found: dict[str, Path] = {}
    for path, declared in reachable.items():
        name = declared[_MARK]
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise WrongHeader(f"{_MARK} must be the name of a header")
        if declared.get("type") not in _PRIMITIVE:
            raise WrongHeader(f"{_MARK} must be of a string, an integer or a boolean")
        if name.lower() in {each.lower() for each in found}:
            raise WrongHeader(f"{_MARK} names one header twice")
        found[name] = path
    return found


def headers_of(schema: Json, arguments: Json) -> dict[str, str]:
    """Return the headers for a call; a value that is absent, null, or not primitive has none."""
    headers: dict[str, str] = {}
    for name, path in mirrored(schema).items():
        value: Any = arguments
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, bool):
            headers[f"Mcp-Param-{name}"] = "true" if value else "false"
        elif isinstance(value, str) or (isinstance(value, int) and abs(value) <= _MAX_INTEGER):
            headers[f"Mcp-Param-{name}"] = encoded(str(value))
    return headers


def encoded(value: str) -> str:
    """Return a text as the value of a header: as it is if it is plain, else in Base64 with the protocol's marks."""
    is_marked = value.startswith("=?base64?") and value.endswith("?=")
    if _SAFE.fullmatch(value) and not is_marked:
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def _reachable(schema: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    if not isinstance(schema, dict):
        return
    if _MARK in schema and path:
        yield path, schema
    properties = schema.get("properties")
    for name, each in properties.items() if isinstance(properties, dict) else ():
        yield from _reachable(each, (*path, name))


def _marks(value: Any, *, names: bool = False) -> Iterator[object]:
    """Go through each place where the mark is a keyword; a property of that name is none."""
    if isinstance(value, dict):
        if _MARK in value and not names:
            yield value[_MARK]
        for key, each in value.items():
            yield from _marks(each, names=key == "properties" and not names)
    elif isinstance(value, list):
        for each in value:
            yield from _marks(each)

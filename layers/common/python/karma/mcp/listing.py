"""Reads the tools that a server tells of. Servers are not trusted: what a model could not be told is left out, by name.

Left out is a tool whose name, description or schema is malformed or too large, one whose schema refers elsewhere (a
validator might fetch it), and one that asks for headers in a way that the protocol forbids. The others stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from karma.core import freeform, surrogates
from karma.mcp.domain import MAX_TOOL_NAME_CHARS, LeftOut, RemoteTool, call_name
from karma.mcp.headers import WrongHeader, mirrored
from karma.tools.json_schema import problems_of

MAX_TOOLS: Final = 200
MAX_DESCRIPTION_CHARS: Final = 2_000
MAX_SCHEMA_BYTES: Final = 32_768
MAX_TOOLS_BYTES: Final = 262_144
"""Bytes of all tools of a server: they are stored in its item, and told to a model again with each call."""
MAX_PATTERN_CHARS: Final = 256
_MAX_LEFT_OUT: Final = 50
_SHOWN_NAME_CHARS: Final = 64


class _Wrong(Exception):
    """A tool cannot be offered; the message says why."""


def read_tools(server: str, told: Sequence[object]) -> tuple[tuple[RemoteTool, ...], tuple[LeftOut, ...]]:
    """Return the tools of a server that models can be offered, and the others with a reason each."""
    kept: dict[str, RemoteTool] = {}
    left_out: list[LeftOut] = []
    size = 0
    for each in told:
        name = each.get("name") if isinstance(each, Mapping) else None
        try:
            tool = _tool(each)
            key = call_name(server, tool.name)
            if key in kept:
                raise _Wrong("another tool has its name")
            if len(kept) == MAX_TOOLS:
                raise _Wrong(f"the server has more than {MAX_TOOLS} tools")
            size += (own := len(orjson.dumps([tool.name, tool.description, tool.schema])))
            if size > MAX_TOOLS_BYTES:
                size -= own
                raise _Wrong(f"the server's tools are larger than {MAX_TOOLS_BYTES} bytes together")
            kept[key] = tool
        except _Wrong as exc:
            if len(left_out) < _MAX_LEFT_OUT:
                shown = surrogates.whole(str(name))[:_SHOWN_NAME_CHARS] if isinstance(name, str) else ""
                left_out.append(LeftOut(name=shown, reason=str(exc)))
    return tuple(kept.values()), tuple(left_out)


def _tool(told: object) -> RemoteTool:
    if not isinstance(told, dict):
        raise _Wrong("is not an object")
    name, description, schema = told.get("name"), told.get("description") or "", told.get("inputSchema")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_TOOL_NAME_CHARS or not name.isprintable():
        raise _Wrong(f"its name must be 1 to {MAX_TOOL_NAME_CHARS} printable characters")
    if not isinstance(description, str):
        raise _Wrong("its description must be a text")
    if len(description) > MAX_DESCRIPTION_CHARS:
        # Cut, it could say something else; and who writes so much means to instruct, not to describe.
        raise _Wrong(f"its description must be at most {MAX_DESCRIPTION_CHARS} characters")
    if not isinstance(schema, dict):
        raise _Wrong("its inputSchema must be an object")
    if freeform.is_deeper(schema, 32) or len(orjson.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise _Wrong(f"its inputSchema must be at most {MAX_SCHEMA_BYTES} bytes and 32 levels")
    schema = {"type": "object", **schema}
    if problems := problems_of(schema):
        raise _Wrong(f"its inputSchema: {problems[0].path} {problems[0].message}")
    for keyword, value in _members(schema):
        if keyword in {"$ref", "$dynamicRef"} and not (isinstance(value, str) and value.startswith("#")):
            raise _Wrong("its inputSchema refers to another document")
        if keyword == "pattern" and isinstance(value, str) and len(value) > MAX_PATTERN_CHARS:
            raise _Wrong(f"its inputSchema has a pattern of more than {MAX_PATTERN_CHARS} characters")
    try:
        mirrored(schema)
    except WrongHeader as exc:
        raise _Wrong(str(exc)) from None
    hints = told.get("annotations")
    is_repeatable = isinstance(hints, dict) and (
        hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True
    )
    return RemoteTool(name=name, description=description, schema=schema, is_repeatable=is_repeatable)


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _members(each)

"""Free-form JSON, whose shape its sender chooses: a limit on its depth, and functions to read and to render it.

orjson reads 1,024 levels and writes 254, other readers fewer. A value of any depth would thus be taken and then break
every list that holds it, so no value is deeper than `MAX_LEVELS`, whoever sends it:

| from | too deep a value is |
| --- | --- |
| a request body | 422 that names the field (`karma.http.bodies`, `karma.core.schemas`, `karma.runs.requests`) |
| a device | replaced by a marker; the owner gets a dead letter TOO_DEEP (`karma.devices.payloads`) |
| Stripe's webhook | 400 INVALID_EVENT (`karma.billing.arrival`) |
| a model's tool call | a failure of the call, of which the model is told (`karma.tools.toolbox`) |
| a tool of ours | likewise |

A number or a text has no level, `{}` and `[]` have one, `{"a": []}` has two.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from karma.core import surrogates

MAX_LEVELS: Final = 64
TOO_DEEP: Final = f"nested deeper than {MAX_LEVELS} levels"
"""Text of the error for the sender."""

_READABLE_LEVELS: Final = 1024
"""orjson's own limit when it reads."""
_SHOWN_LEVELS: Final = 200
"""Levels of a whole answer, which may contain values of 64 levels; orjson writes up to 254."""
_NAME_CHARS: Final = 64
_BOM = "\ufeff".encode()
_CONTAINERS = (dict, list, tuple)
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


class NotJson(ValueError):
    """The text is not JSON in UTF-8; NaN is none, nor are lone surrogates unless they are replaced."""


class TooDeep(ValueError):
    """The value has too many levels; `member` names the top-level member that has them, "" when unknown."""

    def __init__(self, member: str = "") -> None:
        super().__init__(f"{member}: {TOO_DEEP}" if member else TOO_DEEP)
        self.member = member


def loads(
    text: bytes | str,
    *,
    levels: int | None = MAX_LEVELS,
    replace_surrogates: bool = False,
    keep_surrogates: bool = False,
) -> Any:
    """Parse JSON.

    Args:
        text: the JSON, with or without a byte order mark.
        levels: greatest depth of the value; None: the caller checks the free-form parts.
        replace_surrogates: read a lone surrogate as U+FFFD (karma.core.surrogates) instead of refusing it.
        keep_surrogates: keep lone surrogates, for a `surrogates.Joiner`: the texts are pieces of longer ones.

    Raises:
        NotJson: the text is not JSON.
        TooDeep: the value has more levels than `levels`, or than orjson reads.
    """
    # Programs of Windows write it before UTF-8; RFC 8259 lets readers pass over it.
    text = text.removeprefix(_BOM) if isinstance(text, bytes) else text.removeprefix("\ufeff")
    try:
        if keep_surrogates:
            value = surrogates.loads_in_pieces(text)
        else:
            value = surrogates.loads(text) if replace_surrogates else orjson.loads(text)
    except orjson.JSONDecodeError:
        raw = text if isinstance(text, bytes) else text.encode(errors="replace")
        member = _member_deeper_than(_READABLE_LEVELS, raw)
        if member is None:
            raise NotJson("not JSON") from None
        raise TooDeep(member) from None
    if levels is not None and may_be_deep(text, levels) and is_deeper(value, levels):
        members = value.items() if isinstance(value, dict) else ()
        raise TooDeep(next((name for name, inner in members if is_deeper(inner, levels - 1)), ""))
    return value


def may_be_deep(text: bytes | str, levels: int = MAX_LEVELS) -> bool:
    """Tell cheaply, by counting brackets, whether a text may be deeper than `levels`."""
    if isinstance(text, str):
        return text.count("[") + text.count("{") > levels
    return text.count(b"[") + text.count(b"{") > levels


def is_deeper(value: object, levels: int = MAX_LEVELS) -> bool:
    """Tell whether a value has more than `levels` levels."""
    layer = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(levels):
        layer = [
            child
            for each in layer
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, _CONTAINERS)
        ]
        if not layer:
            return False
    return True


def render(value: object) -> bytes:
    """Render an answer as JSON, whatever it contains: one unwritable value must not make the whole answer fail.

    Values that passed the rules of this module are unchanged. Of those that were stored before the rules, values below
    200 levels become null, whole numbers beyond 64 bits floats, lone surrogates U+FFFD.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_writable(value, _SHOWN_LEVELS))


def _writable(value: object, levels: int) -> object:
    """Copy a value into one that orjson can write; types that orjson knows beyond JSON (dates, dataclasses) stay."""
    if isinstance(value, str):
        return surrogates.whole(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        try:
            return float(value)
        except OverflowError:
            return None
    if isinstance(value, dict):
        if not levels:
            return None
        return {_writable(str(name), 0): _writable(inner, levels - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(inner, levels - 1) for inner in value] if levels else None
    return value


def _member_deeper_than(levels: int, raw: bytes) -> str | None:
    """Name the top-level member of a text that is too deep to be read, "" for one without a name; None when none is."""
    if not may_be_deep(raw, levels):
        return None
    depth = 0
    name = b""
    for found in _TOKENS.finditer(raw):
        token = found[0]
        if token in b"[{":
            depth += 1
            if depth > levels:
                return name.decode(errors="replace")[:_NAME_CHARS]
        elif token in b"]}":
            depth -= 1
        elif depth == 1 and raw[:1] == b"{":
            name = token.strip(b'"')
    return None

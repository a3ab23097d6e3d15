"""Free-form JSON, whose shape is its sender's: one limit for it, one way to read it, one to show it.

orjson reads 1,024 levels and writes 254, other readers fewer. A value of any depth would thus be taken and then break
every list that holds it, so no value is deeper than `MAX_LEVELS`, whoever sends it:

| from | too deep a value is |
| --- | --- |
| a request body | 422 that names the field (`api.bodies`, `karma.core.schemas`, `karma.runs.requests`) |
| a device | itself: a marker in its place, the owner's dead letter TOO_DEEP (`karma.devices.payloads`) |
| Stripe's webhook | 400 INVALID_EVENT (`karma.billing.arrival`) |
| a model's tool call | the call's failure, told to the model (`karma.tools.toolbox`) |
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
"""What to tell the sender."""

_READABLE_LEVELS: Final = 1024
"""orjson's own limit when it reads."""
_SHOWN_LEVELS: Final = 200
"""Of a whole answer, in which a value of 64 levels may stand; orjson writes up to 254."""
_NAME_CHARS: Final = 64
_BOM = "\ufeff".encode()
_CONTAINERS = (dict, list, tuple)
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


class NotJson(ValueError):
    """The text is not JSON in UTF-8: also NaN, and lone surrogates unless they are replaced."""


class TooDeep(ValueError):
    """The value has too many levels; `member` is that of the text's object in which they are, "" when unknown."""

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
    """Read JSON.

    Args:
        text: what came in.
        levels: how many the value may have; None leaves it to the caller to check the free-form parts of it.
        replace_surrogates: whether a lone surrogate is read as U+FFFD (karma.core.surrogates), and not refused.
        keep_surrogates: whether it stays, for a `surrogates.Joiner`: the text holds pieces of longer ones.

    Raises:
        NotJson: it is none.
        TooDeep: it has more levels, or more than can be read.
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
    """Tell, at no cost, whether a text has brackets enough to be deeper."""
    if isinstance(text, str):
        return text.count("[") + text.count("{") > levels
    return text.count(b"[") + text.count(b"{") > levels


def is_deeper(value: object, levels: int = MAX_LEVELS) -> bool:
    """Tell whether a value has more levels than these."""
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
    """Write an answer, whatever is in it: what one value cannot be written as must not hide all others from a reader.

    Nothing is changed of what came in under the rules of this module. Of what was stored before them, values below
    200 levels are shown as null, whole numbers beyond 64 bits as floats, lone surrogates as U+FFFD.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_writable(value, _SHOWN_LEVELS))


def _writable(value: object, levels: int) -> object:
    """Copy a value into one that orjson writes; what orjson knows beyond JSON (dates, dataclasses) stays."""
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
    """Find the member of a text's object that is too deep to be read, "" for one without a name; None when none is."""
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

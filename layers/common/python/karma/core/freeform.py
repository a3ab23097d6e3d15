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

A whole number of any length is JSON, too, but only one of 64 bits (-9223372036854775808 to 18446744073709551615) is
kept exactly; orjson makes the nearest float of others. What somebody approves must be what is made, so these are
refused by name like what is too deep, with exceptions: of a device, of Stripe and of a model's provider they are read
as floats, and in what a server of MCP found they stand as texts of their digits. Numbers with a fraction or an exponent
are doubles.

Of a request, an object that names a member twice is refused as well: readers differ in which of the two they take.

A process needs some 100 bytes for a value that takes one in a body. So the values of a whole request are bounded as
well, by `MAX_VALUES`, and are counted before any of them is made.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import orjson

from karma.core import surrogates

MAX_LEVELS: Final = 64
TOO_DEEP: Final = f"nested deeper than {MAX_LEVELS} levels"
"""Text of the error for the sender."""
MAX_VALUES: Final = 250_000
"""Values of a request at the most."""
TOO_LARGE: Final = (
    "a whole number beyond 64 bits (-9223372036854775808 to 18446744073709551615) is not kept exactly: "
    "it has to be text"
)
"""Text of the error for the sender."""
VALUES: Final = "values: objects, lists, texts, numbers, true, false and null"
REPEATED: Final = "stands twice in an object: of one name there is one member"
"""Text of the error for the sender."""
TOO_MANY: Final = f"a request has at most {MAX_VALUES} {VALUES}"
"""Text of the error for the sender."""

_READABLE_LEVELS: Final = 1024
"""orjson's own limit when it reads."""
_SHOWN_LEVELS: Final = 200
"""Levels of a whole answer, which may contain values of 64 levels; orjson writes up to 254."""
_NAME_CHARS: Final = 64
_PLACE_CHARS: Final = 200
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_BEYOND: Final = object()
_ESCAPED = b"\\u003"
"""Beginning of an escape of a colon, and of a few others that nobody escapes."""
_LONG = b"0" * 19
"""As many digits as the least whole number beyond 64 bits has."""
_BOM = "\ufeff".encode()
_CONTAINERS = (dict, list, tuple)
_ATOMS = frozenset({str, int, float, bool, type(None)})
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_TEXTS = re.compile(_TEXT, re.DOTALL)
_TOKENS = re.compile(_TEXT + rb"|\[\]|\{\}|[\[\]{},]", re.DOTALL)
_NUMBERS = re.compile(_TEXT + rb"|(-?\d{19,})(?![\d.eE])|[\d.eE+-]+", re.DOTALL)
_BEGINNINGS = (b",", b"[", b"{")
_EMPTY = (b"[]", b"{}")


class NotJson(ValueError):
    """The text is not JSON in UTF-8; NaN is none, nor are lone surrogates unless they are replaced."""


class OutOfBounds(ValueError):
    """The value is beyond a limit, `told`; `member` names the top-level member that exceeds it, "" when unknown."""

    told: ClassVar[str]

    def __init__(self, member: str = "") -> None:
        super().__init__(f"{member}: {self.told}" if member else self.told)
        self.member = member


class TooDeep(OutOfBounds):
    """The value has too many levels."""

    told = TOO_DEEP


class TooMany(OutOfBounds):
    """A request has too many values."""

    told = TOO_MANY


class Repeated(OutOfBounds):
    """An object of a request has two members of one name; `member` is the name, wherever the object is."""

    told = REPEATED


class TooLarge(OutOfBounds):
    """A whole number is not kept exactly; `member` is its path, `params.wei`, also below the top level."""

    told = TOO_LARGE


def loads(
    text: bytes | str,
    *,
    levels: int | None = MAX_LEVELS,
    of_request: bool = False,
    replace_surrogates: bool = False,
    keep_surrogates: bool = False,
    is_exact: bool = True,
) -> Any:
    """Parse JSON.

    Args:
        text: the JSON, with or without a byte order mark.
        levels: greatest depth of the value; None: the caller checks the free-form parts.
        of_request: the text is a request's body, of `MAX_VALUES` values at the most.
        replace_surrogates: read a lone surrogate as U+FFFD (karma.core.surrogates) instead of refusing it.
        keep_surrogates: keep lone surrogates, for a `surrogates.Joiner`: the texts are pieces of longer ones.
        is_exact: refuse whole numbers beyond 64 bits; False, and for pieces: read them as the nearest floats.

    Raises:
        NotJson: the text is not JSON.
        TooLarge: a whole number in it would not be kept exactly.
        TooDeep: the value has more levels than `levels`, or than orjson reads.
        TooMany: it has more values than a request may have.
        Repeated: an object of a request has a member twice, of which readers take the first or the last.
    """
    # Programs of Windows write it before UTF-8; RFC 8259 lets readers pass over it.
    text = text.removeprefix(_BOM) if isinstance(text, bytes) else text.removeprefix("\ufeff")
    if of_request:
        _require_few(text if isinstance(text, bytes) else text.encode(errors="replace"))
    try:
        if keep_surrogates:
            value = surrogates.loads_in_pieces(text)
        else:
            value = surrogates.loads(text) if replace_surrogates else orjson.loads(text)
    except orjson.JSONDecodeError:
        raw = text if isinstance(text, bytes) else text.encode(errors="replace")
        member = _member_beyond(raw, levels=_READABLE_LEVELS) if may_be_deep(raw, _READABLE_LEVELS) else None
        if member is None:
            raise NotJson("not JSON") from None
        raise TooDeep(member) from None
    if levels is not None and may_be_deep(text, levels) and is_deeper(value, levels):
        members = value.items() if isinstance(value, dict) else ()
        raise TooDeep(next((name for name, inner in members if is_deeper(inner, levels - 1)), ""))
    if is_exact and not keep_surrogates and (places := too_large(text)):
        raise TooLarge(places[0])
    if (
        of_request
        and (name := _repeated(text if isinstance(text, bytes) else text.encode(errors="replace"), value)) is not None
    ):
        raise Repeated(name)
    return value


def _repeated(text: bytes, value: object) -> str | None:
    """Return the name of a member that stands twice in an object of JSON, or None."""
    return None if _has_all_colons(text, value) else repeated_member(text)


def _has_all_colons(text: bytes, value: object) -> bool:
    """Tell whether the value of JSON surely has each member of it; False: some member, or nothing, stands twice.

    A colon stands behind each member's name and in texts, and is the same in the text that is written of the value: it
    has lost none where it has as many. Only an escape of one, which is written as the colon itself, would hide a loss.
    """
    if _ESCAPED in text:
        return False
    try:
        return orjson.dumps(value).count(b":") == text.count(b":")
    except orjson.JSONEncodeError:  # it has more levels than orjson writes
        return False


def repeated_member(text: bytes) -> str | None:
    """Return the name of a member that stands twice in an object of JSON, read member by member; None: none does."""
    found: list[str] = []

    def noted(pairs: list[tuple[str, object]]) -> None:
        counted = Counter(name for name, _ in pairs)
        if len(counted) < len(pairs):
            found.append(next(name for name, times in counted.items() if times > 1)[:_PLACE_CHARS])

    try:
        json.loads(text.decode(errors="replace"), object_pairs_hook=noted, parse_int=len)
    except (ValueError, RecursionError):  # Python's reader takes fewer levels
        return "body"
    return found[0] if found else None


def too_large(text: bytes | str) -> list[str]:
    """Return the paths of the whole numbers beyond 64 bits in a JSON text; "" is one whose path is not known."""
    raw = text if isinstance(text, bytes) else text.encode(errors="replace")
    if _LONG not in raw.translate(_ZEROS) or not any(_is_beyond(found[1]) for found in _NUMBERS.finditer(raw)):
        return []
    try:
        value = json.loads(raw.decode(errors="replace"), parse_int=_marked)
    except (ValueError, RecursionError):  # Python's reader takes fewer levels
        return [""]
    return list(_places(value))


def large_as_texts(text: bytes) -> bytes:
    """Make texts of the whole numbers beyond 64 bits in JSON, so that their digits are kept."""
    return _NUMBERS.sub(lambda found: b'"%s"' % found[1] if _is_beyond(found[1]) else found[0], text)


def _is_beyond(digits: bytes | str | None) -> bool:
    # Python makes no number of more than 4,300 digits.
    return digits is not None and (len(digits) > len("18446744073709551615") or not -(2**63) <= int(digits) < 2**64)


def _marked(digits: str) -> object:
    """Read a whole number as what marks one beyond 64 bits, or as 0."""
    return _BEYOND if _is_beyond(digits) else 0


def _places(value: object) -> Iterator[str]:
    rest: list[tuple[object, str]] = [(value, "")]
    while rest:
        inner, at = rest.pop()
        if inner is _BEYOND:
            yield at
        elif isinstance(inner, dict | list):
            named = list(inner.items() if isinstance(inner, dict) else enumerate(inner))
            rest += [(each, f"{at}.{name}"[:_PLACE_CHARS] if at else str(name)) for name, each in reversed(named)]


def values_of(text: bytes) -> int:
    """Count the values of JSON, without making any of them; `[ ]` counts as two.

    One stands first in each object and list that is not empty, one behind each comma, and one holds them all.
    """
    bare = _TEXTS.sub(b"0", text)
    return _beginnings(bare) - sum(map(bare.count, _EMPTY)) + 1


def _beginnings(text: bytes) -> int:
    return sum(map(text.count, _BEGINNINGS))


def _require_few(text: bytes) -> None:
    # Most requests have few even with what stands in their texts, which takes a tenth of the time to count.
    if _beginnings(text) < MAX_VALUES:
        return
    # A text is a value or a name of one: beyond this number of quotes the values need not be counted.
    quotes = text.count(b'"') - text.count(b'\\"')
    if quotes > 4 * MAX_VALUES or values_of(text) > MAX_VALUES:
        raise TooMany(_member_beyond(text, values=MAX_VALUES) or "")


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
            if type(child) not in _ATOMS and isinstance(child, _CONTAINERS)  # most are: half the time for 4 KB
        ]
        if not layer:
            return False
    return bool(layer)


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


def _member_beyond(raw: bytes, *, levels: int = sys.maxsize, values: int = sys.maxsize) -> str | None:
    """Name the top-level member in which a text exceeds a limit, "" for one without a name; None when none does."""
    depth, counted, name = 0, 1, b""
    for found in _TOKENS.finditer(raw):
        token = found[0]
        if token in b"]}":
            depth -= 1
        elif token in b"[{," or token in _EMPTY:
            depth += token in b"[{"
            counted += token not in _EMPTY
            if depth + (token in _EMPTY) > levels or counted > values:
                return name.decode(errors="replace")[:_NAME_CHARS]
        elif depth == 1 and raw[:1] == b"{":
            name = token.strip(b'"')
    return None

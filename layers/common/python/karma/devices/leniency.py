r"""Payloads of devices that are JSON except for values which JSON cannot express: only these are lost, not the message.

| in the payload | is read as |
| --- | --- |
| `NaN`, `nan`, `-nan`, `nan(0x1)`, `-nan(ind)`, `1.#QNAN` | a float that is no number |
| `Infinity`, `-inf`, `+Inf`, `1.#INF`, `1e999`, 400 digits | an infinite float |
| a whole number beyond 64 bits | the nearest float, as orjson reads it |
| `"\ud83d"` without the other half of its character | the same half |
| more than 1,024 levels | they, as far as Python reads them |

So a sensor that is not connected, whose firmware prints it with `%f`, loses one value. The first two and the fourth are
what orjson, with which everything is stored and sent on, does not write: `mend` puts null and U+FFFD in their place.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from karma.core import surrogates

_STRING_OR_WORD: Final = re.compile(
    rb'"(?:[^"\\]|\\.)*+"?'
    rb"|(?<![\w.+-])(?:[-+]?(?:(nan(?:\(\w{0,32}\))?)|inf(?:inity)?)|([-+]?1\.#(?:IND|[QS]NAN))\d{0,8}|[-+]?1\.#INF\d{0,8})(?![\w.+-])",
    re.IGNORECASE | re.DOTALL,
)
"""Pattern of such values outside of strings; strings are matched so that nothing in them counts."""
_PLACE_CHARS: Final = 200
_NAME_CHARS: Final = 80


class UnreadablePayload(ValueError):
    """The payload is not JSON in UTF-8, or nested more deeply than Python reads."""


def loads(payload: bytes, *, is_repeat_refused: bool = False) -> Any:
    """Read a payload; several times slower than orjson, for what orjson does not read.

    Raises:
        UnreadablePayload: the payload is no JSON, even by the table above; or `is_repeat_refused`, and a member of an
            object stands twice in it.
    """
    decoder = _STRICT_DECODER if is_repeat_refused else _DECODER
    try:
        return decoder.decode(_STRING_OR_WORD.sub(_as_python_writes_it, payload).decode())
    except (ValueError, RecursionError):
        raise UnreadablePayload("not JSON") from None


def mend(value: Any) -> tuple[Any, list[str]]:
    """Return a value that orjson can write, and the places in it that were mended, such as `["temp_c"][3]`.

    NaN and infinities become null, half a character U+FFFD; a right value is the same object as before. The value
    is at most as deep as free-form values may be.
    """
    wrong: list[str] = []
    return _mended(value, "", wrong), wrong


def _mended(value: Any, place: str, wrong: list[str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        wrong.append(place)
        return None
    if isinstance(value, str):
        text = surrogates.whole(value)
        if text is not value:
            wrong.append(place)
        return text
    if isinstance(value, list):
        return [_mended(each, f"{place}[{index}]"[:_PLACE_CHARS], wrong) for index, each in enumerate(value)]
    if isinstance(value, dict):
        members: dict[str, Any] = {}
        for name, each in value.items():
            inner = f"{place}[{json.dumps(name[:_NAME_CHARS])}]"[:_PLACE_CHARS]
            known = surrogates.whole(name)
            if known is not name:
                wrong.append(inner)
            members[known] = _mended(each, inner, wrong)
        return members
    return value


def _as_python_writes_it(found: re.Match[bytes]) -> bytes:
    word = found[0]
    if word.startswith(b'"'):
        return word
    if found[1] or found[2]:
        return b"NaN"
    return b"-Infinity" if word.startswith(b"-") else b"Infinity"


def _integer(digits: str) -> int | float:
    # Python refuses to make an int of more than 4,300 digits; a float takes any number of them.
    if len(digits) > len("-18446744073709551615"):
        return float(digits)
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else float(value)


def _unrepeated(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        raise UnreadablePayload("a member stands twice")
    return found


_DECODER: Final = json.JSONDecoder(parse_int=_integer)
_STRICT_DECODER: Final = json.JSONDecoder(parse_int=_integer, object_pairs_hook=_unrepeated)

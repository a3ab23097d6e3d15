r"""JSON with lone surrogates, as programs write it that cut texts between the two halves of a character.

`"\ud83d"` without its other half is valid by JSON's grammar and no text in UTF-8: orjson refuses it, as storage and
other APIs do. Who resends a conversation cannot mend it, so each is read as U+FFFD, the replacement character.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


def loads(data: bytes | str) -> Any:
    """Read JSON as orjson does, with lone surrogates replaced.

    Raises:
        orjson.JSONDecodeError: it is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
        mended = replace_lone(raw)
        if mended == raw:
            raise
        return orjson.loads(mended)


def replace_lone(data: bytes) -> bytes:
    """Replace the escapes of lone surrogates in JSON; everything else stays as it is."""
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)

"""Normalised spelling of passwords: keyboards and systems write the same letters in more than one way.

RFC 8265 (OpaqueString): Unicode NFC, and every space is an ASCII space. Nothing else is changed: case, width and
spaces around stay, so that no two passwords that look different become one.
"""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_SPELLED_CHARS: Final = 512
"""Longest password in characters of any spelling: each of the 128 characters is decomposed into four at most."""


def spelled(password: str) -> str:
    """Return a password in the spelling that is hashed, judged and measured."""
    if password.isascii():
        return password
    spaced = "".join(" " if unicodedata.category(char) == "Zs" else char for char in password)
    return unicodedata.normalize("NFC", spaced)

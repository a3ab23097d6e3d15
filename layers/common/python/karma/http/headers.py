"""Reads headers of requests by one rule, for every function that serves HTTP."""

from __future__ import annotations

import re
from typing import Final

from karma.core.errors import InvalidRequest

MAX_KEY_CHARS: Final = 255
_KEY: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_CHARS}}}")


def read_idempotency_key(given: str | None) -> str | None:
    """Check an `Idempotency-Key`; None: the request has none.

    Raises:
        InvalidRequest: INVALID_IDEMPOTENCY_KEY, the key is empty, over 255 characters, or not printable ASCII.
    """
    if given is not None and not _KEY.fullmatch(given):
        raise InvalidRequest(
            f"Idempotency-Key: 1 to {MAX_KEY_CHARS} printable ASCII characters", code="INVALID_IDEMPOTENCY_KEY"
        )
    return given


def text_of(value: str) -> str:
    """Return a header's text: bytes that are UTF-8, though they were read as latin-1, else the text as read."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def caller_address(*, viewer: str, peer: str) -> str:
    """Return the address of a caller.

    Args:
        viewer: `CloudFront-Viewer-Address`, address and port; "" unless the request has proven that CloudFront sent it.
        peer: the address of who sent it, where nobody says more.
    """
    return viewer.rpartition(":")[0].strip("[]") if viewer else peer

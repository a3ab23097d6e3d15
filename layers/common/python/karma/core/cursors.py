"""Opaque list cursors: signed, bound to the caller and the list, so that a cursor never reads another partition.

Wire form: base64url(`kid` NUL json) "." base64url(HMAC-SHA256); no padding.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping

from karma.core.errors import InvalidRequest

_MAX_CHARS = 2048


class CursorSigner:
    """Signs cursors with the current key and accepts those signed with any given key (key id -> secret)."""

    def __init__(self, *, current: str, keys: Mapping[str, str]) -> None:
        self._current = current
        self._keys = keys

    def encode(self, position: Mapping[str, object], *, scope: str) -> str:
        """Return a cursor for a position; `scope` names caller and list, e.g. `devices:<user id>`."""
        body = self._current.encode() + b"\0" + json.dumps(position, separators=(",", ":")).encode()
        return f"{_b64(body)}.{_b64(self._sign(self._current, body, scope))}"

    def decode(self, cursor: str, *, scope: str) -> dict[str, object]:
        """Return the position of a cursor that `encode` made for the same scope.

        Raises:
            InvalidRequest: INVALID_CURSOR: the cursor is forged, cut, of another caller or list, or its key is retired.
        """
        try:
            if len(cursor) > _MAX_CHARS:
                raise ValueError("too long")
            body_text, _, signature_text = cursor.partition(".")
            body, signature = _unb64(body_text), _unb64(signature_text)
            kid, _, payload = body.partition(b"\0")
            if not hmac.compare_digest(signature, self._sign(kid.decode("ascii"), body, scope)):
                raise ValueError("signature")
            position = json.loads(payload)
        except (ValueError, KeyError, binascii.Error):
            raise InvalidRequest(
                "cursor: not one that this list gave you; start again without it", code="INVALID_CURSOR"
            ) from None
        if not isinstance(position, dict):
            raise InvalidRequest("cursor: not readable", code="INVALID_CURSOR")
        return position

    def _sign(self, kid: str, body: bytes, scope: str) -> bytes:
        key = hmac.digest(self._keys[kid].encode(), b"karma-cursor", hashlib.sha256)
        return hmac.digest(key, scope.encode() + b"\0" + body, hashlib.sha256)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)

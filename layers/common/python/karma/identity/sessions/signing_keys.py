"""Keys that sign access tokens and cursors: several are accepted, one signs, so that they can be rotated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MIN_KEY_CHARS = 32
NEWER_MAX_AGE_S = 30.0
"""Age in seconds up to which the secret is not read again for a token with an unknown key: strangers can cause it."""


class KeysUnusable(RuntimeError):
    """The secret has no current key or a short one; neither name nor value is in the message."""


@dataclass(frozen=True)
class KeyRing:
    """Signing keys: `keys` by key id, of which `current` signs."""

    current: str
    keys: Mapping[str, str]

    @classmethod
    def parse(cls, secret: Mapping[str, object]) -> KeyRing:
        """Read `{"current": kid, kid: key, ...}`.

        Raises:
            KeysUnusable: the secret has no current key, or a key is shorter than 32 characters.
        """
        keys = {kid: key for kid, key in secret.items() if kid != "current" and isinstance(key, str)}
        current = secret.get("current")
        if not isinstance(current, str) or current not in keys:
            raise KeysUnusable("the auth secret names no current key")
        if min(map(len, keys.values())) < MIN_KEY_CHARS:
            raise KeysUnusable(f"an auth key has fewer than {MIN_KEY_CHARS} characters")
        return cls(current=current, keys=keys)

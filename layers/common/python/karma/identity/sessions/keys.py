"""The keys that sign access tokens and cursors: several are accepted, one signs, so that they can be rotated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MIN_KEY_CHARS = 32
NEWER_MAX_AGE_S = 30.0
"""How old the secret may be when a token names a key that is not in it: what strangers can make us read it."""


class KeysUnusable(RuntimeError):
    """The secret lacks a current key or has a short one; neither name nor value is in the message."""


@dataclass(frozen=True)
class KeyRing:
    """`keys` by kid; `current` names the one that signs."""

    current: str
    keys: Mapping[str, str]

    @classmethod
    def parse(cls, secret: Mapping[str, object]) -> KeyRing:
        """Read `{"current": kid, kid: key, ...}`.

        Raises:
            KeysUnusable: no current key, or a key shorter than 32 characters.
        """
        keys = {kid: key for kid, key in secret.items() if kid != "current" and isinstance(key, str)}
        current = secret.get("current")
        if not isinstance(current, str) or current not in keys:
            raise KeysUnusable("the auth secret names no current key")
        if min(map(len, keys.values())) < MIN_KEY_CHARS:
            raise KeysUnusable(f"an auth key has fewer than {MIN_KEY_CHARS} characters")
        return cls(current=current, keys=keys)

"""Keys that sign access tokens and cursors: several are accepted, one signs, so that they can be rotated."""

from __future__ import annotations

from collections.abc import Mapping

from karma.core.records import Record

MIN_KEY_CHARS = 32
NEWER_MAX_AGE_S = 30.0
"""Age in seconds up to which the secret is not read again for a token with an unknown key: strangers can cause it."""


class KeysUnusable(RuntimeError):
    """The secret has no current key or a short one; neither name nor value is in the message."""


class KeyRing(Record):
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


class KeyRings:
    """Reads the ring of a secret once for as long as `karma.core.secrets` keeps it, not for each request."""

    def __init__(self) -> None:
        self._last: tuple[Mapping[str, object], KeyRing] | None = None

    def of(self, secret: Mapping[str, object]) -> KeyRing:
        """Return the ring of a secret, which is not changed after it was given here.

        Raises:
            KeysUnusable: as `KeyRing.parse` does.
        """
        if self._last is None or self._last[0] is not secret:
            self._last = (secret, KeyRing.parse(secret))
        return self._last[1]

"""Password hashes: argon2id; bcrypt hashes of an imported account still verify and are replaced at the next login."""

from __future__ import annotations

from typing import Protocol

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from karma.identity.passwords.spelling import spelled

_BCRYPT_MARKS = ("$2a$", "$2b$", "$2y$")
_BCRYPT_MAX_BYTES = 72


class Passwords(Protocol):
    """Hashing of passwords, which brings each to one spelling first."""

    def hash(self, password: str) -> str:
        """Return a salted hash."""
        ...

    def verify(self, password_hash: str, password: str) -> bool:
        """Tell whether a hash is of this password."""
        ...

    def outdated(self, password_hash: str, password: str) -> bool:
        """Tell whether a hash of this password should be replaced."""
        ...


class Argon2Passwords:
    """Passwords by argon2id, OWASP's parameters: 19 MiB, two passes, one lane; about 30 ms on a Lambda with 1 GB."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)

    def hash(self, password: str) -> str:
        """Return a salted hash of the password's one spelling (karma.identity.passwords.spelling)."""
        return self._hasher.hash(spelled(password))

    def verify(self, password_hash: str, password: str) -> bool:
        """Tell whether a hash is of this password; an unreadable hash is of none.

        A hash from before passwords had one spelling is of the text as it was typed, so that is tried too if it
        differs, with an account and without: a wrong password takes the same time for both.
        """
        return any(self._made(password_hash, text) for text in dict.fromkeys((spelled(password), password)))

    def outdated(self, password_hash: str, password: str) -> bool:
        """Tell whether a hash should be replaced: it has another algorithm, other parameters or another spelling."""
        if password_hash.startswith(_BCRYPT_MARKS) or self._hasher.check_needs_rehash(password_hash):
            return True
        text = spelled(password)
        return text != password and not self._made(password_hash, text)

    def _made(self, password_hash: str, text: str) -> bool:
        if password_hash.startswith(_BCRYPT_MARKS):
            import bcrypt  # local: only imported accounts need it

            try:
                # bcrypt never read more than 72 bytes; release 5 refuses what older ones cut.
                return bcrypt.checkpw(text.encode()[:_BCRYPT_MAX_BYTES], password_hash.encode())
            except ValueError:
                return False
        try:
            return self._hasher.verify(password_hash, text)
        except (VerificationError, InvalidHashError):
            return False


DUMMY_HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
"""Hash that is verified for unknown addresses, so that they take as long as known ones. No password has it."""

"""Cheap password hashing: the real parameters would be a tenth of the integration ring's time."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher, Type

from karma.identity.passwords.hashes import Argon2Passwords


def make_cheap(patch: pytest.MonkeyPatch) -> None:
    """Set argon2id to the least memory and one pass; stored hashes count as up to date."""

    def init(self: Argon2Passwords) -> None:
        self._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=Type.ID)

    patch.setattr(Argon2Passwords, "__init__", init)

"""Passwords that cost next to nothing: what the real parameters cost would be a tenth of the integration ring."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher, Type

from karma.identity.passwords.hashes import Argon2Passwords


def make_cheap(patch: pytest.MonkeyPatch) -> None:
    """Let argon2id have the least memory and one pass; what it stores is up to date by these parameters."""

    def init(self: Argon2Passwords) -> None:
        self._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=Type.ID)

    patch.setattr(Argon2Passwords, "__init__", init)

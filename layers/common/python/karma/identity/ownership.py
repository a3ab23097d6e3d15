"""Objects that an account owns and that must not lose it: while there are any, it is not deleted (R-K-23).

They are counted in the transactions that create, delete and give them away (`transactional.add_owned`). The same
count limits them, since no plan does, and an account may keep each for as long as it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from karma.core.errors import Conflict


class OwnedKind(StrEnum):
    """Kind of objects that keep their owner's account from being deleted."""

    PROJECT = "project"
    """Owned by the account."""
    AVATAR = "avatar"
    """Created by the account."""


MOST: Final = {OwnedKind.PROJECT: 1_000, OwnedKind.AVATAR: 200}
"""Largest number of each kind in one account. An avatar has up to 150 KB, a project 25: about 30 MB of each."""


class OwnsTooMany(Conflict):
    """The account has as many objects of a kind as an account may have; `details` names the kind and the limit."""

    code = "TOO_MANY_OBJECTS"

    def __init__(self, kind: OwnedKind) -> None:
        super().__init__(
            f"An account has at most {MOST[kind]} {kind.value}s of its own; delete one first",
            details={"kind": kind.value, "limit": MOST[kind]},
        )


class AccountHolds(Conflict):
    """The account owns objects that must be deleted or given away before it; `details` counts them by kind."""

    code = "ACCOUNT_HOLDS"

    def __init__(self, counts: Mapping[str, int]) -> None:
        named = " and ".join(f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in counts.items())
        way_out = "delete them, or make somebody else an owner" if OwnedKind.PROJECT in counts else "delete them"
        super().__init__(f"The account still has {named or 'objects'}: {way_out}", details=dict(counts))

"""Index of accounts by the beginning of their names.

`enter` and `rename` belong in the transactions that make and rename accounts.
"""

from __future__ import annotations

import unicodedata

from karma.core.clock import iso
from karma.core.dynamo.transaction import Transaction
from karma.identity.domain import User
from karma.identity.items import NameItem, name_key, name_list

_MAX_FOLDED_CHARS = 64
"""Characters of a name in a sort key, which has at most 1,024 bytes."""


def enter(tx: Transaction, user: User) -> None:
    """Add an account's name to the index, in the transaction that makes the account."""
    folded = fold(user.name)
    tx.put(
        NameItem(
            *name_key(user.id),
            user_id=user.id,
            role=user.role.value,
            disabled=user.disabled_at is not None,
            gsi1pk=name_list(folded),
            gsi1sk=f"{folded}#{user.id}",
            created_at=iso(user.created_at),
            updated_at=iso(user.updated_at),
        )
    )


def rename(tx: Transaction, user: User) -> None:
    """Replace an account's name in the index, in the transaction that changes the name."""
    folded = fold(user.name)
    tx.update(
        NameItem(*name_key(user.id)),
        [
            NameItem.gsi1pk.set(name_list(folded)),
            NameItem.gsi1sk.set(f"{folded}#{user.id}"),
            NameItem.updated_at.set(iso(user.updated_at)),
        ],
    )


def fold(text: str) -> str:
    """Return a name in comparable form: one case, one way to write a letter, single spaces, the first 64 characters."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())[:_MAX_FOLDED_CHARS]

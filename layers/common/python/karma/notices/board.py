"""What other contexts call to tell an account something with what causes it: both are stored or neither is."""

from __future__ import annotations

from karma.core.dynamo.transaction import Transaction
from karma.notices.domain import Notice
from karma.notices.repository import item_of


def write(tx: Transaction, notice: Notice) -> None:
    """Store a notice with everything else of a transaction."""
    tx.put(item_of(notice))

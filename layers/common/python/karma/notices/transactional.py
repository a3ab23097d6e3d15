"""Adds notices to another context's transaction, so that a notice is stored together with its cause, or not at all."""

from __future__ import annotations

from karma.core.dynamo.transaction import Transaction
from karma.notices.domain import Notice
from karma.notices.repository import item_of


def add_notice(tx: Transaction, notice: Notice) -> None:
    """Store a notice with everything else of a transaction."""
    tx.put(item_of(notice))

"""Adds notices to another context's transaction, so that a notice is stored together with its cause, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karma.core.dynamo.transaction import Transaction

if TYPE_CHECKING:
    from karma.core.errors import AppError
    from karma.notices.domain import Notice


def add_notice(tx: Transaction, notice: Notice, *, on_fail: AppError | None = None) -> None:
    """Store a notice with everything else of a transaction, which fails with `on_fail` where it is there already."""
    from karma.notices.repository import item_of  # local: who imports this module for its reads alone does without

    tx.put(item_of(notice), on_fail=on_fail)

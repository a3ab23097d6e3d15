"""Adds mails to another context's transaction, so that a mail is stored together with its cause, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karma.core.dynamo.transaction import Transaction

if TYPE_CHECKING:
    from karma.core.errors import AppError
    from karma.mail.domain import Mail


def add_mail(tx: Transaction, mail: Mail, *, on_fail: AppError | None = None) -> None:
    """Store a mail with everything else of a transaction, which fails with `on_fail` where it is there already.

    OutboxRelay.dispatch enqueues it afterwards.
    """
    from karma.mail.repository import item_of  # local: who imports this module for its reads alone does without

    tx.put(item_of(mail), on_fail=on_fail)
